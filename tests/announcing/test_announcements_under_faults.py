"""Announced replicas while Redis is away, their heartbeats are cut off, clocks jump, or an older router is there."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from shared_registry import AdminState, ReplicaStatus, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer
from shared_registry.model import EventKind
from shared_registry.store.lua import LUA_DIR
from tests.support.failover.scenarios import stopped
from tests.support.faulty_proxy import FaultyProxy
from tests.support.pods import TTL, Pod, event_kinds, pod_settings, pods_of
from tests.support.replica_server import ReplicaServer
from tests.support.router_process import RouterProcess
from tests.support.until import until

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "shared_registry"
FAKETIME = next(
    (path for name in ("/usr/lib", "/usr/local/lib") for path in sorted(Path(name).glob("**/libfaketime.so.1"))), None
)
BUSY_SECONDS = 2.0
"""How much later than it should an event may come on a busy machine, where a test is not about that time."""


def are_up(registry: SharedReplicaRegistry, count: int) -> bool:
    healthy = [one for one in registry.all() if one.health.status is ReplicaStatus.HEALTHY and one.admin is AdminState.ACTIVE]
    return len(healthy) == count


async def expiries(registry: SharedReplicaRegistry) -> dict[str, float]:
    """Return the time of each expiry, on the clock of this machine."""
    events = await registry.events(count=1000)
    return {
        event.record.key: event.at
        for event in events
        if event.kind is EventKind.REPLICA_EXPIRED and event.record is not None
    }


@contextmanager
def killed(server: EmbeddedServer) -> Iterator[None]:
    """Let a server, which keeps no data, be dead while this context is open."""
    server.kill()
    try:
        yield
    finally:
        server.start()


@pytest.mark.parametrize("away", [stopped, killed], ids=["hanging", "dead, its data lost"])
async def test_an_outage_longer_than_the_time_to_live_loses_nobody(
    own_server: Callable[..., EmbeddedServer], away: Callable[[EmbeddedServer], contextmanager[None]]
) -> None:
    """A pod that dies meanwhile has one time to live from then on, like all others."""
    server = own_server()
    config = pod_settings(server, "outage", redis_timeout_seconds=0.5)
    async with SharedReplicaRegistry(config) as registry, pods_of(server.url, "outage") as pods:
        made = [pods() for _ in range(3)]
        for pod in made:
            await pod.start()
        await until(lambda: are_up(registry, 3), "all are up")
        incarnations = {one.key: one.record.incarnation for one in registry.all()}
        with away(server):
            await asyncio.sleep(TTL * 1.5)
            os.killpg(made[0].process.pid, signal.SIGKILL)
            is_back_at = time.time()
        await until(lambda: len(registry.all()) == 2, "the dead one has gone", 60)
        assert {one.key: one.record.incarnation for one in registry.all()} == {
            pod.url: incarnations[pod.url] for pod in made[1:]
        }
        [(url, expired_at)] = (await expiries(registry)).items()
        assert url == made[0].url
        assert is_back_at + TTL <= expired_at
        await until(lambda: are_up(registry, 2), "the others are up")
        await asyncio.sleep(TTL)
        assert len(await expiries(registry)) == 1


async def test_pods_that_probes_reach_stay_without_their_heartbeats(
    server: EmbeddedServer, namespace: str, proxy: FaultyProxy
) -> None:
    """The way by which all heartbeats come is cut off. One pod that is dead as well goes."""
    async with AsyncExitStack() as stack:
        registry = await stack.enter_async_context(SharedReplicaRegistry(pod_settings(server, namespace)))
        pods = await stack.enter_async_context(pods_of(proxy.url, namespace))
        made: list[Pod] = [pods() for _ in range(5)]
        for pod in made:
            await pod.start()
        await until(lambda: are_up(registry, 5), "all are up", 60)
        os.kill(await made[0].child(), 0)
        proxy.refuses = True
        proxy.cut()
        os.kill(made[0].process.pid, signal.SIGKILL)
        await until(lambda: len(registry.all()) == 4, "the dead one has gone", 60)
        await asyncio.sleep(2 * TTL)
        assert are_up(registry, 4)
        assert list(await expiries(registry)) == [made[0].url]
        proxy.heal()
        await asyncio.sleep(2 * TTL)
        assert are_up(registry, 4)
        assert EventKind.REPLICA_EXPIRED not in (await event_kinds(registry))[-3:]


async def test_a_killed_and_restarted_pod_stays_drained(server: EmbeddedServer, namespace: str) -> None:
    """It comes back under another address, before and after its former life has expired."""
    async with (
        SharedReplicaRegistry(pod_settings(server, namespace)) as registry,
        pods_of(server.url, namespace) as pods,
    ):
        first, second = pods(), pods()
        await first.start("--name", "pod-1")
        await until(lambda: are_up(registry, 1), "it is up")
        await registry.drain("pod-1", reason="broken fan")
        for dead, new in ((first, second), (second, first)):
            os.killpg(dead.process.pid, signal.SIGKILL)
            await dead.clean_up()
            if new is first:
                await until(lambda: not registry.all(), "it has gone")
            await new.start("--name", "pod-1")
            await until(lambda: [one.key for one in registry.all()] == [new.url], "the new one alone is there", 60)
            [replica] = registry.all()
            assert (replica.admin, replica.record.admin_reason) == (AdminState.DRAINING, "broken fan")
