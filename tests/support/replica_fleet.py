"""Real replicas, and looks at what Redis has on them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import cast

from shared_registry import ReplicaEndpoint, SharedReplicaRegistry
from shared_registry.errors import UnknownReplica
from tests.support.lease_history import Load, Reading
from tests.support.replica_server import ReplicaServer
from tests.support.space import Space

_READ_LOADS = """
local counted, found = {}, {}
for _, key in ipairs(redis.call('KEYS', ARGV[1] .. 'leases:*')) do
  for _, url in ipairs(redis.call('HVALS', key)) do
    counted[url] = (counted[url] or 0) + 1
  end
end
for _, key in ipairs(redis.call('KEYS', ARGV[1] .. 'replica:*')) do
  local url = string.sub(key, #ARGV[1] + #'replica:' + 1)
  local state = redis.call('HMGET', key, 'in_flight', 'capacity')
  found[#found + 1] = url
  found[#found + 1] = state[1]
  found[#found + 1] = state[2]
  found[#found + 1] = tostring(counted[url] or 0)
  counted[url] = nil
end
for url, count in pairs(counted) do
  for _, value in ipairs({url, '-1', '0', tostring(count)}) do
    found[#found + 1] = value
  end
end
return found
"""


def read_loads(space: Space) -> Reading:
    """Return every replica's count beside the leases on it, all at one instant."""
    at = time.time()
    values = cast("list[str]", space.raw.eval(_READ_LOADS, 0, space.keys.prefix))
    rows = zip(*(values[column::4] for column in range(4)), strict=True)
    return Reading(
        at, [Load(url, int(in_flight), int(capacity), int(count)) for url, in_flight, capacity, count in rows]
    )


async def poll_loads(space: Space, readings: list[Reading], *, every_seconds: float = 0.02) -> None:
    """Look again and again until cancelled."""
    while True:
        readings.append(await asyncio.to_thread(read_loads, space))
        await asyncio.sleep(every_seconds)


def leases(space: Space) -> dict[str, str]:
    """Return all leases, as id to url."""
    found: dict[str, str] = {}
    for key in space.raw.scan_iter(match=f"{space.keys.leases_prefix}*", count=1000):
        found |= space.raw.hgetall(key)
    return found


class Fleet:
    """Replicas that answer probes, and what operators and accidents do to them.

    Every method that makes trouble also ends it again.
    """

    def __init__(self, mocks: list[ReplicaServer], operator: SharedReplicaRegistry, capacity: int) -> None:
        self.mocks = mocks
        self.urls = [mock.url() for mock in mocks]
        self.capacity = capacity
        self._operator = operator

    async def register(self, url: str) -> None:
        await self._operator.register(ReplicaEndpoint(url, capacity=self.capacity))

    async def become_unhealthy(self, url: str, seconds: float) -> None:
        replica = self.mocks[self.urls.index(url)].replica()
        replica.status = 503
        await asyncio.sleep(seconds)
        replica.status = 200

    async def drain(self, url: str, seconds: float) -> None:
        await self._operator.drain(url)
        await asyncio.sleep(seconds)
        await self._operator.enable(url)

    async def disable(self, url: str, seconds: float) -> None:
        await self._operator.disable(url)
        await asyncio.sleep(seconds)
        await self._operator.enable(url)

    async def remove(self, url: str, seconds: float) -> None:
        await self._operator.deregister(url)
        await asyncio.sleep(seconds)
        await self.register(url)

    async def remove_when_drained(self, url: str, seconds: float) -> None:
        await self._operator.deregister(url, when_drained=True)
        await asyncio.sleep(seconds)
        await self.register(url)
        try:
            await self._operator.enable(url)
        except UnknownReplica:  # its last session has ended just now, and has removed it
            await self.register(url)

    def troubles(self) -> list[Callable[[str, float], Coroutine[None, None, None]]]:
        return [self.become_unhealthy, self.drain, self.disable, self.remove, self.remove_when_drained]


@contextlib.asynccontextmanager
async def fleet(operator: SharedReplicaRegistry, *, replicas: int, capacity: int) -> AsyncIterator[Fleet]:
    """Start replicas and register them."""
    async with contextlib.AsyncExitStack() as stack:
        mocks = [await stack.enter_async_context(ReplicaServer()) for _ in range(replicas)]
        started = Fleet(mocks, operator, capacity)
        for url in started.urls:
            await started.register(url)
        yield started
