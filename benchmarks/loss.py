"""How far a loss of all data takes replicas above their capacity, at full load and with clients that keep coming.

Three routers in this process hold all slots. Sessions end and begin all the time; some clients ask again and again,
others wait in the queue. The excess is counted by the sessions themselves, over all replicas.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter

from benchmarks.namespace import client_of
from benchmarks.rows import Row, Target
from shared_registry import RegistryError, ReplicaEndpoint, RouterConfig, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer

ROUTERS, REPLICAS, CAPACITY = 3, 12, 10
COMERS, WAITERS = 20, 40
SESSION_SECONDS, COME_BACK_SECONDS = 20.0, 6.0
LOSSES, LOSSES_QUICK = 5, 2
TITLE = f"a loss of all data ({ROUTERS} routers, {REPLICAS * CAPACITY} sessions on as many slots)"


class Sessions:
    """Counts the sessions that run on each replica."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self.most = 0

    def excess(self) -> int:
        """Return how many sessions run above the capacity of their replicas."""
        return sum(max(0, count - CAPACITY) for count in self._counts.values())

    async def run(self, router: SharedReplicaRegistry, patience_seconds: float, rng: random.Random) -> None:
        """Hold one slot after the other until cancelled."""
        while True:
            try:
                lease = await router.acquire(timeout=patience_seconds)
            except RegistryError:
                await asyncio.sleep(0.02)
                continue
            async with lease:
                self._counts[lease.replica.key] += 1
                self.most = max(self.most, self.excess())
                try:
                    await asyncio.sleep(rng.uniform(0.5, 1.5) * SESSION_SECONDS)
                finally:
                    self._counts[lease.replica.key] -= 1

    @property
    def count(self) -> int:
        """How many sessions run."""
        return self._counts.total()


async def measure(*, is_quick: bool) -> list[Row]:
    """Return the greatest excess of each loss, and how many sessions ran a while after it."""
    rows = []
    async with contextlib.AsyncExitStack() as stack:
        server = stack.enter_context(EmbeddedServer())
        client = await stack.enter_async_context(client_of(server.url))
        routers = [_router(server.url) for _ in range(ROUTERS)]
        for router in routers:
            stack.push_async_callback(router.stop)
            await router.start(wait_healthy=10)
        sessions = Sessions()
        group = await stack.enter_async_context(asyncio.TaskGroup())
        for number in range(REPLICAS * CAPACITY + COMERS + WAITERS):
            patience = 30.0 if number >= REPLICAS * CAPACITY + COMERS else 0.0
            task = group.create_task(sessions.run(routers[number % ROUTERS], patience, random.Random(number)))
            stack.callback(task.cancel)
        await asyncio.sleep(3)
        for number in range(1, (LOSSES_QUICK if is_quick else LOSSES) + 1):
            sessions.most = 0
            await client.flushall()
            await asyncio.sleep(COME_BACK_SECONDS)
            rows.append(Row(f"loss {number}: most sessions above capacity", sessions.most, "", target=Target(0)))
            rows.append(Row(f"loss {number}: sessions {COME_BACK_SECONDS:g} s later", sessions.count, ""))
    return rows


def _router(url: str) -> SharedReplicaRegistry:
    replicas = [ReplicaEndpoint(f"http://127.0.0.{n}:8000", capacity=CAPACITY) for n in range(1, REPLICAS + 1)]
    config = RouterConfig(redis_url=url, namespace="loss", replicas=replicas, health_check_interval_seconds=0.5)
    return SharedReplicaRegistry(config, http_get=_well)


async def _well(url: str, *, timeout: float) -> tuple[float, str | None]:  # noqa: ARG001  the protocol's
    return 1.0, None
