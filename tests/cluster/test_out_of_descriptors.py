"""Routers that run out of file descriptors: real processes, whose limit the test takes away and gives back."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import resource
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from shared_registry.embedded import EmbeddedServer
from shared_registry.model import Event, EventKind
from tests.support.replica_server import ReplicaServer
from tests.support.router_process import RouterProcess
from tests.support.space import Space
from tests.support.until import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="takes away another process's limit")

INTERVAL, THRESHOLD, LEASE = 0.2, 3, 4.0
PATIENCE = 25.0


@pytest.fixture
async def replicas() -> AsyncIterator[list[ReplicaServer]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(ReplicaServer("127.0.0.1")) for _ in range(4)]


def take_descriptors(*processes: RouterProcess) -> None:
    """Let these processes open nothing more; what is open stays open."""
    for process in processes:
        _, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (0, hard))


def give_descriptors(*processes: RouterProcess) -> None:
    for process in processes:
        _, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (hard, hard))


@contextlib.asynccontextmanager
async def running(
    count: int, replicas: list[ReplicaServer], space: Space, server: EmbeddedServer, directory: Path
) -> AsyncIterator[list[RouterProcess]]:
    """Run so many routers, the leader first, until all replicas are healthy."""
    config: dict[str, Any] = {
        "redis_url": server.url,
        "namespace": space.keys.namespace,
        "lease_seconds": LEASE,
        "renew_interval_seconds": LEASE / 4,
        "health_check_interval_seconds": INTERVAL,
        "fast_interval_seconds": INTERVAL,
        "failure_threshold": THRESHOLD,
        "router_expiry_seconds": 60.0,
    }
    processes: list[RouterProcess] = []
    with contextlib.ExitStack() as stack:
        for number in range(count):
            urls = [replica.url() for replica in replicas]
            process = RouterProcess(directory / f"router-{number}", routers=1, replicas=urls, config=config)
            stack.callback(process.kill)
            processes.append(process)
            await soon(functools.partial(has_said, process, "ready" if number else "leading"))
        await soon(lambda: healthy(space, replicas) == len(replicas))
        yield processes


async def soon(condition: Any) -> None:
    await until(condition, seconds=PATIENCE)


def has_said(process: RouterProcess, what: str, times: int = 1) -> bool:
    return len(process.lines_of(what)) >= times


def healthy(space: Space, replicas: list[ReplicaServer]) -> int:
    return sum(space.fields(replica.url()).get("status") == "healthy" for replica in replicas)


async def events(space: Space, *kinds: EventKind) -> list[Event]:
    return [event async for event in space.reader.all_events() if event.kind in kinds]


def drop_connections(replicas: list[ReplicaServer]) -> None:
    """Let every probe need a new connection."""
    for replica in replicas:
        replica.replica().drop_connections()


async def test_another_router_leads_and_the_replicas_stay_healthy(
    space: Space, server: EmbeddedServer, replicas: list[ReplicaServer], tmp_path: Path
) -> None:
    async with running(2, replicas, space, server, tmp_path) as routers:
        take_descriptors(routers[0])
        drop_connections(replicas)
        await soon(lambda: has_said(routers[1], "leading"))
        [resigned] = await events(space, EventKind.LEADER_RESIGNED)
        assert resigned.router in routers[0].routers()
        assert resigned.reason.endswith("replicas could not be probed: too many open files")
        await soon(lambda: space.raw.hget(space.keys.router(resigned.router), "trouble") == "too many open files")
        [in_trouble] = await events(space, EventKind.ROUTER_IN_TROUBLE)
        assert (in_trouble.router, in_trouble.reason) == (resigned.router, "too many open files")
        await asyncio.sleep(2 * LEASE)  # no condition to wait for: neither verdict nor election may follow
        assert await events(space, EventKind.REPLICA_UNHEALTHY) == []
        assert len(await events(space, EventKind.LEADER_ELECTED)) == 2
        await replicas[0].stop()
        await soon(lambda: healthy(space, replicas) == 3)
        give_descriptors(routers[0])
        await replicas[0].start()
        await soon(lambda: healthy(space, replicas) == 4)


async def test_a_replica_dying_behind_kept_connections_is_noticed(
    space: Space, server: EmbeddedServer, replicas: list[ReplicaServer], tmp_path: Path
) -> None:
    """The leader's other probes need no descriptor, and it cannot probe this one: it asks the other router.

    If a probe of another replica needs a new connection before, the leader resigns, and the other finds out itself.
    """
    async with running(2, replicas, space, server, tmp_path) as routers:
        take_descriptors(routers[0])
        await replicas[2].stop()
        await soon(lambda: healthy(space, replicas) == 3)
        [unhealthy] = await events(space, EventKind.REPLICA_UNHEALTHY)
        assert (unhealthy.by or unhealthy.router) in routers[1].routers()
        assert "refused" in unhealthy.reason


async def test_nothing_changes_while_no_router_has_descriptors(
    space: Space, server: EmbeddedServer, replicas: list[ReplicaServer], tmp_path: Path
) -> None:
    async with running(3, replicas, space, server, tmp_path) as routers:
        take_descriptors(*routers)
        drop_connections(replicas)
        for _ in range(8):  # the last one leads after some 6 s, and then for several leases
            await asyncio.sleep(LEASE / 2)
            drop_connections(replicas)
        assert healthy(space, replicas) == 4
        assert await events(space, EventKind.REPLICA_UNHEALTHY) == []
        assert 1 <= len(await events(space, EventKind.LEADER_RESIGNED)) <= 5, "each once, and then one goes on"
        give_descriptors(*routers)
        await replicas[1].stop()
        await soon(lambda: healthy(space, replicas) == 3)


async def test_a_lone_router_stays_the_leader(
    space: Space, server: EmbeddedServer, replicas: list[ReplicaServer], tmp_path: Path
) -> None:
    async with running(1, replicas, space, server, tmp_path) as [router]:
        take_descriptors(router)
        for _ in range(4):
            drop_connections(replicas)
            await asyncio.sleep(LEASE / 2)  # no condition to wait for: neither verdict nor election may follow
        assert await events(space, EventKind.LEADER_RESIGNED, EventKind.REPLICA_UNHEALTHY) == []
        give_descriptors(router)
        await replicas[3].stop()
        await soon(lambda: healthy(space, replicas) == 3)
        assert len(router.lines_of("leading")) == 1
