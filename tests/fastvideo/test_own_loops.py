"""Applications that keep FastVideo's own health loop, on one router each: their results meet in one place."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from shared_registry import EventKind, ReplicaEndpoint, SharedReplicaRegistry
from tests.support.stand_ins import SharedState, make_shared_state
from tests.support.until import until

place = pytest.fixture(make_shared_state)
A, B, C = (f"http://10.0.0.{number}:8000" for number in range(1, 4))
ROUTERS, INTERVAL, TIMEOUT, FAILURES, RECOVERIES = 3, 0.4, 0.3, 3, 2
WATCHED_SECONDS = 15 * INTERVAL


class Loops:
    """The loops, and what each of them reaches. `cut` has pairs of a router's number and a url."""

    def __init__(self, registries: list[SharedReplicaRegistry]) -> None:
        self.registries = registries
        self.cut: set[tuple[int, str]] = set()
        self.down: set[str] = set()
        self.rounds = 0

    async def run(self, number: int) -> None:
        """Do what FastVideo's loop does: probe all at once, count each result, and sleep for an interval."""
        registry = self.registries[number]
        while True:
            await asyncio.gather(*(self._check(number, registry, url) for url in (A, B, C)))
            self.rounds += 1
            await asyncio.sleep(INTERVAL)

    async def _check(self, number: int, registry: SharedReplicaRegistry, url: str) -> None:
        replica = registry.get(url)
        assert replica is not None
        await asyncio.sleep(0.001)
        if url in self.down or (number, url) in self.cut:
            await registry.record_failure(replica, failure_threshold=FAILURES, reason="refused")
        else:
            await registry.record_success(replica, recovery_threshold=RECOVERIES, latency_ms=1.0)

    def healthy(self) -> set[str]:
        """Return the replicas that all routers show as healthy."""
        return set.intersection(*({one.key for one in some.all() if one.is_healthy} for some in self.registries))


@pytest.fixture
async def loops(place: SharedState) -> AsyncIterator[Loops]:
    config = place.config(
        [ReplicaEndpoint(url) for url in (A, B, C)],
        health_check_interval_seconds=INTERVAL,
        health_check_timeout_seconds=TIMEOUT,
        failure_threshold=FAILURES,
        recovery_threshold=RECOVERIES,
        refresh_seconds=0.3,
    )
    async with contextlib.AsyncExitStack() as stack:
        started = Loops([SharedReplicaRegistry(config, health_checks=False) for _ in range(ROUTERS)])
        for registry in started.registries:
            await stack.enter_async_context(registry)
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(started.run(number)) for number in range(ROUTERS)]
            await until(lambda: started.healthy() == {A, B, C})
            yield started
            for task in running:
                task.cancel()


async def flips(loops: Loops) -> int:
    events = await loops.registries[0].events(count=5000)
    return sum(event.kind is EventKind.REPLICA_UNHEALTHY for event in events)


async def test_blind_loops_flip_nothing(loops: Loops) -> None:
    """One loop reaches nothing, another one not this replica; one that reaches a replica is enough."""
    loops.cut = {(0, A), (0, B), (0, C), (1, A)}
    deadline = time.monotonic() + WATCHED_SECONDS
    while time.monotonic() < deadline:
        assert loops.healthy() == {A, B, C}
        await asyncio.sleep(0.02)
    assert loops.rounds > 10
    assert await flips(loops) == 0


async def test_a_replica_dead_for_all_loops_flips_once(loops: Loops) -> None:
    loops.down = {A}
    await until(lambda: loops.healthy() == {B, C})
    await asyncio.sleep(WATCHED_SECONDS / 3)
    assert await flips(loops) == 1
    loops.down = set()
    await until(lambda: loops.healthy() == {A, B, C})
