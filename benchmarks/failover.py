"""How long nobody probes after a leader is gone: killed, and stopped cleanly.

Three routers with default settings, each a process of its own, and replicas in another. Once all replicas are healthy
everywhere the leader is killed with SIGKILL, at a random moment between its renewals; the next probe that reaches any
replica is its successor's. For the clean stop the leader gets SIGTERM. Elections are seen in the event stream. After
each a new router joins.

A new leader probes at once what is overdue, which is what was last probed an interval ago or is in doubt, and in any
case the replica that is due next; the others follow in their slots, which are spread over the interval. So it shows
without delay that it can probe, be there a hundred replicas or two: a namespace with two is measured beside the other
and at the same time.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import statistics
import time
from collections.abc import AsyncIterator
from typing import Self

from benchmarks.namespace import client_of, leader_of, local_urls, next_election
from benchmarks.processes import Child
from benchmarks.rows import Row, Target
from shared_registry import RouterConfig
from shared_registry.embedded import EmbeddedServer
from shared_registry.store.client import Client

ROUTERS = 3
MANY, FEW = 100, 2
TITLE = f"the leader goes ({ROUTERS} routers, {MANY} replicas)"
MARGIN_SECONDS = 0.5
STOP = Target(0.2)
LAST_EVENTS_SECONDS = 0.05
"""For what a dead leader has sent to arrive."""
FEW_NOTE = (
    "The first probe of a term comes at once; the other replicas follow in their slots, up to an interval later where "
    "none is overdue."
)


class Fleet:
    """Routers and replicas of one namespace, in processes."""

    def __init__(self, redis_url: str, namespace: str, replicas: Child, urls: list[str], client: Client) -> None:
        """Describe it; `join` adds a router."""
        self._settings = {"config": {"redis_url": redis_url, "namespace": namespace}, "replicas": urls}
        self._namespace = namespace
        self._replicas = replicas
        self._client = client
        self._routers: dict[str, Child] = {}
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            self._stack = stack
            await asyncio.gather(*(self.join() for _ in range(ROUTERS)))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self._stack.aclose()

    async def join(self) -> None:
        """Add a router, and wait until all is well there."""
        router = await self._stack.enter_async_context(Child("router_process", self._settings))
        await router.ask("all_healthy")
        self._routers[router.ready["router"]] = router

    async def seconds_after_kill(self) -> tuple[float, float]:
        """Kill the leader; return after how long another is elected, and after how long it probes."""
        leader = await self._take_leader()
        async with asyncio.TaskGroup() as group:
            election = group.create_task(next_election(self._client, self._namespace))
            await asyncio.sleep(0.2 + random.random())
            killed_at = time.monotonic()
            leader.kill()
            await asyncio.sleep(LAST_EVENTS_SECONDS)
            probed = await self._replicas.ask("next_probe")
        return election.result()[1] - killed_at, probed["at"] - killed_at

    async def seconds_after_stop(self) -> float:
        """Stop the leader cleanly; return after how long another is elected."""
        leader = await self._take_leader()
        async with asyncio.TaskGroup() as group:
            election = group.create_task(next_election(self._client, self._namespace))
            await asyncio.sleep(0.2 + random.random())
            stopped_at = time.monotonic()
            leader.terminate()
        return election.result()[1] - stopped_at

    async def _take_leader(self) -> Child:
        return self._routers.pop(await leader_of(self._client, self._namespace))


@contextlib.asynccontextmanager
async def fleet(redis_url: str, replicas: int) -> AsyncIterator[Fleet]:
    """Run the processes of one namespace."""
    async with Child("replica_process", {}) as process, client_of(redis_url) as client:
        urls = local_urls(replicas, process.ready["port"])
        async with Fleet(redis_url, f"of-{replicas}", process, urls, client) as running:
            yield running


async def measure(*, is_quick: bool) -> list[Row]:
    """Return what crashes and clean stops of the leader cost."""
    repetitions, repetitions_of_few = (2, 1) if is_quick else (6, 4)
    with EmbeddedServer() as server:
        (kills, stops), few = await asyncio.gather(
            _kills_and_stops(server.url, repetitions), _kills_of_few(server.url, repetitions_of_few)
        )
    probed = [probed for _, probed in kills]
    elected = [elected for elected, _ in kills]
    lease = RouterConfig().lease_seconds
    slots = lease + RouterConfig().health_check_interval_seconds
    first, target = "killed, to the next leader's probe", Target(lease + MARGIN_SECONDS)
    return [
        Row(f"{first}, worst of {repetitions}", max(probed), "s", lease, "lease", target),
        Row(f"{first}, median", statistics.median(probed), "s", lease, "lease"),
        Row("killed, to the next election, worst", max(elected), "s", lease, "lease"),
        Row(f"{first}, {FEW} replicas", max(few), "s", slots, "lease + interval", note=FEW_NOTE),
        Row(f"stopped, to the next election, worst of {repetitions}", max(stops), "s", lease, "lease", STOP),
    ]


async def _kills_and_stops(redis_url: str, repetitions: int) -> tuple[list[tuple[float, float]], list[float]]:
    kills, stops = [], []
    async with fleet(redis_url, MANY) as running:
        for remaining in reversed(range(repetitions)):
            kills.append(await running.seconds_after_kill())
            await running.join()
            stops.append(await running.seconds_after_stop())
            if remaining:
                await running.join()
    return kills, stops


async def _kills_of_few(redis_url: str, repetitions: int) -> list[float]:
    probed = []
    async with fleet(redis_url, FEW) as running:
        for remaining in reversed(range(repetitions)):
            probed.append((await running.seconds_after_kill())[1])
            if remaining:
                await running.join()
    return probed
