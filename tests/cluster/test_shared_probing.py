"""Shared probing by real processes that die or stand still, measured at real replicas: how long each goes unprobed."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shared_registry.embedded import EmbeddedServer
from shared_registry.model import EventKind
from shared_registry.model.plan import bucket_of
from tests.support.replica_server import ReplicaServer
from tests.support.router_process import RouterProcess
from tests.support.space import Space
from tests.support.until import until

REPLICAS = 24
INTERVAL, HEARTBEAT, EXPIRY, LEASE = 1.0, 0.5, 3.0, 1.5
LIMIT = EXPIRY + HEARTBEAT + INTERVAL
BUSY = 4.0
"""How much later than promised something may come on a busy machine."""
PATIENCE = 30.0


class Watched(ReplicaServer):
    """Replicas that note when each was probed."""

    def __init__(self) -> None:
        super().__init__("0.0.0.0")
        self.hosts = [f"127.0.2.{number}" for number in range(1, REPLICAS + 1)]
        self.probed: dict[str, list[float]] = {host: [] for host in self.hosts}
        for host in self.hosts:
            self.replica(host).requested_at = self.probed[host]

    @property
    def urls(self) -> list[str]:
        return [self.url(host) for host in self.hosts]

    def longest_gap(self, since: float, end: float) -> float:
        gaps = []
        for host in self.hosts:
            at = [since, *(one for one in self.probed[host] if since < one < end), end]
            gaps += [after - before for before, after in itertools.pairwise(at)]
        return max(gaps)


@pytest.fixture
async def replicas() -> AsyncIterator[Watched]:
    async with Watched() as watched:
        yield watched


@pytest.fixture
def start(tmp_path: Path, server: EmbeddedServer, namespace: str, replicas: Watched) -> Iterator[Callable[[], Any]]:
    """Start the process of one router; none outlives the test."""
    processes: list[RouterProcess] = []
    config = {
        "redis_url": server.url,
        "namespace": namespace,
        "probing": "shared",
        "lease_seconds": LEASE,
        "renew_interval_seconds": LEASE / 3,
        "heartbeat_seconds": HEARTBEAT,
        "router_expiry_seconds": EXPIRY,
        "health_check_interval_seconds": INTERVAL,
        "health_check_timeout_seconds": 1.0,
        "fast_interval_seconds": 0.3,
        "refresh_seconds": 0.3,
    }

    def start() -> RouterProcess:
        output = tmp_path / f"{len(processes)}.jsonl"
        processes.append(RouterProcess(output, routers=1, replicas=replicas.urls, config=config))
        return processes[-1]

    yield start
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGCONT)
        process.kill()


class Cluster:
    """Three routers, of which each probes a third."""

    def __init__(self, space: Space, replicas: Watched, processes: list[RouterProcess]) -> None:
        self.space = space
        self.replicas = replicas
        self.processes = processes

    def shares(self) -> dict[str, int]:
        """Return for each router of the plan how many replicas it probes."""
        plan = self.space.raw.hgetall(self.space.keys.plan)
        found = dict[str, int]()
        for name, buckets in plan.items():
            if name.startswith("share:"):
                found[name.removeprefix("share:")] = sum(
                    bucket_of(url) in buckets.split() for url in self.replicas.urls
                )
        return found

    async def until_shared_by(self, processes: list[RouterProcess]) -> None:
        keys = {key for process in processes for key in process.routers()}
        await until(lambda: self.shares().keys() == keys and len(keys) == len(processes), seconds=PATIENCE)

    async def leader(self) -> RouterProcess:
        """Return the one that leads; wait for it, since nobody leads for a moment now and then."""
        found: list[RouterProcess] = []

        def is_found() -> bool:
            key = self.space.raw.hget(self.space.keys.leader, "router")
            found[:] = [process for process in self.processes if key in process.routers()]
            return bool(found)

        await until(is_found, seconds=PATIENCE)
        return found[0]

    async def follower(self) -> RouterProcess:
        leader = await self.leader()
        return next(process for process in self.processes if process is not leader)

    async def longest_gap_without(self, process: RouterProcess, harm: Callable[[], None]) -> float:
        """Let one router end; return for how long a replica was not probed until the others probe all in turn."""
        began = time.monotonic()
        harm()
        await self.until_shared_by([one for one in self.processes if one is not process])
        await asyncio.sleep(3 * INTERVAL)
        return self.replicas.longest_gap(began - INTERVAL, time.monotonic())

    def statuses(self) -> set[str]:
        return {self.space.fields(url).get("status", "") for url in self.replicas.urls}

    def is_sound(self) -> bool:
        return self.statuses() == {"healthy"} and EventKind.REPLICA_UNHEALTHY.value not in self.space.event_kinds()


@pytest.fixture
async def cluster(space: Space, replicas: Watched, start: Callable[[], RouterProcess]) -> Cluster:
    cluster = Cluster(space, replicas, [start() for _ in range(3)])
    await until(lambda: all(process.routers() for process in cluster.processes), seconds=PATIENCE)
    await cluster.until_shared_by(cluster.processes)
    await until(lambda: cluster.statuses() == {"healthy"}, seconds=PATIENCE)
    await asyncio.sleep(EXPIRY)  # the first heartbeats are a whole expiry old: there is no outage any more
    return cluster


async def test_a_killed_participants_replicas_are_probed_again_in_time(cluster: Cluster) -> None:
    assert sorted(cluster.shares().values()) == [8, 8, 8]
    killed = await cluster.follower()
    gap = await cluster.longest_gap_without(killed, killed.kill)
    assert EXPIRY - HEARTBEAT - INTERVAL < gap <= LIMIT + BUSY, f"unprobed for {gap:.2f} s"
    assert cluster.is_sound()
    assert sorted(cluster.shares().values()) == [12, 12]


async def test_a_killed_leaders_replicas_are_probed_again_in_time(cluster: Cluster) -> None:
    """The others go on under its last plan, until the next leader has made one without it."""
    killed = await cluster.leader()
    gap = await cluster.longest_gap_without(killed, killed.kill)
    assert gap <= LIMIT + BUSY, f"unprobed for {gap:.2f} s"
    assert cluster.is_sound()


async def test_a_participant_that_stands_still_spoils_nothing(cluster: Cluster) -> None:
    """Its share goes to the others; what it reports when it goes on is refused, and it gets a share again."""
    paused = await cluster.follower()
    gap = await cluster.longest_gap_without(paused, lambda: os.kill(paused.pid, signal.SIGSTOP))
    assert gap <= LIMIT + BUSY, f"unprobed for {gap:.2f} s"
    began = time.monotonic()
    os.kill(paused.pid, signal.SIGCONT)
    await cluster.until_shared_by(cluster.processes)
    await asyncio.sleep(3 * INTERVAL)
    assert cluster.replicas.longest_gap(began, time.monotonic()) <= 2 * INTERVAL + BUSY
    assert cluster.is_sound()
