"""Whose leases end, and whose do not: routers are killed, Redis goes away, and its clock jumps."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from shared_registry import RouterConfig, SharedReplicaRegistry
from shared_registry.admin.check import find_violations
from shared_registry.embedded import EmbeddedServer
from shared_registry.model import EventKind
from tests.support.effort import takes_long
from tests.support.lease_cluster import PATIENCE, Cluster, held_by, operator_settings, settings
from tests.support.replica_fleet import fleet, leases, read_loads
from tests.support.space import Space, on_server
from tests.support.until import until

PROCESSES, SESSIONS = 3, 12
REPLICAS, CAPACITY = 4, 8
EXPIRY = 2.5
"""Longer than a busy machine keeps a process from sending heartbeats."""
LATE_SECONDS = 5.0
"""How much later than promised something may come on a busy machine."""
AWAY_SECONDS = 1.4 * EXPIRY
HOUR_MS = 3_600_000
NAMESPACE = "deaths"

# What a clock that jumps leaves behind: times that lie an hour off, all at the same instant.
_SHIFT = """
for _, router in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  redis.call('ZINCRBY', KEYS[1], ARGV[1], router)
end
redis.call('HINCRBY', KEYS[2], 'heartbeat_at_ms', ARGV[1])
redis.call('HINCRBY', KEYS[2], 'reap_after_ms', ARGV[1])
"""


@pytest.fixture
def server(own_server: Callable[..., EmbeddedServer], tmp_path: Path) -> EmbeddedServer:
    return own_server(config={"appendonly": "yes", "appendfsync": "always"}, data_dir=tmp_path / "data")


@pytest.fixture
async def space(server: EmbeddedServer) -> AsyncIterator[Space]:
    async with on_server(server.url, NAMESPACE) as space:
        yield space


@pytest.fixture
async def cluster(server: EmbeddedServer, space: Space, tmp_path: Path) -> AsyncIterator[Cluster]:
    """Processes that hold leases, and take and end none."""
    expiry = {"router_expiry_seconds": EXPIRY}
    config = settings(server.url, NAMESPACE, **expiry)
    cluster = Cluster(tmp_path, config, sessions=SESSIONS, lasting_seconds=300.0, rng=random.Random(1))
    async with (
        SharedReplicaRegistry(
            RouterConfig(**operator_settings(server.url, NAMESPACE) | expiry), health_checks=False
        ) as operator,
        fleet(operator, replicas=REPLICAS, capacity=CAPACITY),
    ):
        try:
            await cluster.start(PROCESSES)
            await until(
                lambda: all(len(process.lines_of("acquired")) > 2 for process in cluster.processes), seconds=PATIENCE
            )
            held = await cluster.hold()
            await until(lambda: leases(space) == held)
            yield cluster
        finally:
            cluster.close()
    assert await find_violations(space.reader, space.keys) == []


async def expired(space: Space) -> list[str]:
    return [event.router async for event in space.reader.all_events() if event.kind is EventKind.ROUTER_EXPIRED]


async def is_freed_after_kill(space: Space, cluster: Cluster) -> float:
    """Kill one process; return how long after its expiry its leases stay, and see that only these end."""
    killed = cluster.processes.pop()
    others = {lease: url for process in cluster.processes for lease, url in held_by(process).items()}
    (router,) = (line["router"] for line in killed.lines_of("ready"))
    killed.kill()
    killed_at = time.monotonic()
    expires_in_ms: float = space.raw.zscore(space.keys.routers, router) - space.now_ms()
    while (left := leases(space)) != others:
        assert left.items() >= others.items(), "a living router's lease was touched"
        assert time.monotonic() - killed_at < PATIENCE
        await asyncio.sleep(0.01)
    seconds = time.monotonic() - killed_at - expires_in_ms / 1000
    assert sum(load.in_flight for load in read_loads(space).loads) == len(others)
    assert await expired(space) == [router]
    return seconds


async def test_a_killed_routers_slots_alone_become_free_soon(space: Space, cluster: Cluster) -> None:
    seconds = await is_freed_after_kill(space, cluster)
    print(f"\nfree {seconds:.2f} s after the expiry of {EXPIRY:g} s")  # noqa: T201  a figure
    assert -0.1 <= seconds <= LATE_SECONDS


async def pause_server(server: EmbeddedServer, _: Space) -> None:
    os.kill(server.pid, signal.SIGSTOP)
    await asyncio.sleep(AWAY_SECONDS)
    os.kill(server.pid, signal.SIGCONT)


async def restart_server(server: EmbeddedServer, _: Space) -> None:
    await asyncio.to_thread(server.kill)
    await asyncio.sleep(AWAY_SECONDS)
    await asyncio.to_thread(server.start)


async def set_clock_forward(_: EmbeddedServer, space: Space) -> None:
    space.raw.eval(_SHIFT, 2, space.keys.routers, space.keys.meta, -HOUR_MS)


async def set_clock_back(_: EmbeddedServer, space: Space) -> None:
    space.raw.eval(_SHIFT, 2, space.keys.routers, space.keys.meta, HOUR_MS)


@takes_long
async def test_no_live_router_is_reaped_after_outages_or_clock_jumps(
    server: EmbeddedServer, space: Space, cluster: Cluster
) -> None:
    held = leases(space)
    troubles: list[Callable[[EmbeddedServer, Space], Awaitable[None]]] = [
        pause_server,
        restart_server,
        set_clock_forward,
        set_clock_back,
    ]
    for trouble in troubles:
        await trouble(server, space)
        until_well = time.monotonic() + EXPIRY
        while time.monotonic() < until_well:
            assert leases(space) == held, trouble.__name__
            await asyncio.sleep(0.05)
        assert await expired(space) == [], trouble.__name__
        scores = [score for _, score in space.raw.zrange(space.keys.routers, 0, -1, withscores=True)]
        assert all(0 < score - space.now_ms() <= EXPIRY * 1000 for score in scores), trouble.__name__
    assert await is_freed_after_kill(space, cluster) <= LATE_SECONDS, "the dead are reaped again"
