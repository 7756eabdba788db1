"""A process that places sessions under load, in the way that it is asked for, and says how that went.

Its settings come as the first line: `config` (of `RouterConfig`), `urls` (the replicas), `tasks`, and `seconds` for
each way. Each task takes a slot, has a session of random length on it, and gives it back.

Who is on which replica is written down apart from what the way itself counts, after a slot was taken and until just
before it is given back: a session that finds more than the capacity there is one too many, whatever the way says.
"""

from __future__ import annotations

import asyncio
import functools
import json
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from benchmarks.namespace import client_of
from benchmarks.processes import Answer, parent_input, write_answer, serve
from shared_registry import Lease, RouterConfig, Saturated, SharedReplicaRegistry
from shared_registry.store.client import Client

CAPACITY = 4
SESSION_SECONDS = (0.02, 0.1)
PAUSE_SECONDS = (0.005, 0.015)
"""After a refusal."""


def counter(url: str) -> str:
    """Return the key where a rival counts a replica's sessions."""
    return f"count:{url}"


def presence(url: str) -> str:
    """Return the key that tells which process has how many sessions there."""
    return f"present:{url}"


class Way(Protocol):
    """How slots are taken and given back. A slot is `None` where there is none to be had."""

    async def take(self) -> tuple[str, object] | None:
        """Return a replica's url, and what `release` wants to know."""

    async def release(self, url: str, slot: object) -> None:
        """Give it back."""


@dataclass
class ReadThenCount:
    """Reads all loads, picks the least, counts itself there."""

    client: Client
    urls: list[str]

    async def take(self) -> tuple[str, object] | None:
        loads = await self.client.mget([counter(url) for url in self.urls])
        load, _, url = min((int(load or 0), random.random(), url) for load, url in zip(loads, self.urls, strict=True))
        if load >= CAPACITY:
            return None
        await self.client.incr(counter(url))
        return url, None

    async def release(self, url: str, slot: object) -> None:  # noqa: ARG002
        await self.client.decr(counter(url))


@dataclass
class ExpiringCounter:
    """Counts itself on some replica, and takes that back where it is one too many; what nobody counts on expires."""

    client: Client
    urls: list[str]
    expiry_seconds: float

    async def take(self) -> tuple[str, object] | None:
        url = random.choice(self.urls)
        async with self.client.pipeline(transaction=True) as pipeline:
            pipeline.incr(counter(url))
            pipeline.pexpire(counter(url), int(1000 * self.expiry_seconds))
            count, _ = await pipeline.execute()
        if count <= CAPACITY:
            return url, None
        await self.release(url, None)
        return None

    async def release(self, url: str, slot: object) -> None:  # noqa: ARG002
        await self.client.decr(counter(url))


@dataclass
class Leases:
    """Ours."""

    registry: SharedReplicaRegistry

    async def take(self) -> tuple[str, object] | None:
        try:
            lease = await self.registry.acquire()
        except Saturated:
            return None
        return lease.replica.key, lease

    async def release(self, url: str, slot: object) -> None:  # noqa: ARG002
        if isinstance(slot, Lease):
            await slot.release()


@dataclass
class Load:
    """What the tasks of this process saw."""

    client: Client
    process: str
    sessions: int = 0
    beyond: int = 0
    most: int = 0
    stop_at: float = field(default=0.0)

    async def run(self, way: Way, tasks: int, seconds: float) -> Answer:
        """Place sessions for some time."""
        self.sessions = self.beyond = self.most = 0
        self.stop_at = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            for _ in range(tasks):
                group.create_task(self._sessions(way))
        return {"sessions": self.sessions, "beyond": self.beyond, "most": self.most}

    async def _sessions(self, way: Way) -> None:
        while time.monotonic() < self.stop_at:
            taken = await way.take()
            if taken is None:
                await asyncio.sleep(random.uniform(*PAUSE_SECONDS))
                continue
            url, slot = taken
            async with self.client.pipeline(transaction=True) as pipeline:
                pipeline.hincrby(presence(url), self.process, 1)
                pipeline.hvals(presence(url))
                _, present = await pipeline.execute()
            there = sum(int(count) for count in present)
            self.sessions += 1
            self.beyond += there > CAPACITY
            self.most = max(self.most, there)
            await asyncio.sleep(random.uniform(*SESSION_SECONDS))
            await self.client.hincrby(presence(url), self.process, -1)
            await way.release(url, slot)


async def main() -> None:
    """Join as a router, and place when asked, until the parent is gone."""
    lines = await parent_input()
    settings = json.loads(await lines.readline())
    config = RouterConfig(**settings["config"])
    async with (
        client_of(config.redis_url) as client,
        SharedReplicaRegistry(config, health_checks=False) as registry,
    ):
        load = Load(client, registry.router_key)
        ways: dict[str, Way] = {
            "read_then_count": ReadThenCount(client, settings["urls"]),
            "expiring_counter": ExpiringCounter(client, settings["urls"], config.router_expiry_seconds),
            "leases": Leases(registry),
        }
        questions: dict[str, Callable[[], Awaitable[Answer]]] = {
            name: functools.partial(load.run, way, settings["tasks"], settings["seconds"][name])
            for name, way in ways.items()
        }
        write_answer({"router": registry.router_key})
        await serve(questions, lines)


if __name__ == "__main__":
    asyncio.run(main())
