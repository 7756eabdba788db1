"""Placing sessions through the registry: what callers get, and what they are told."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator

import pytest

from shared_registry import (
    NoHealthyReplica,
    ReplicaEndpoint,
    RouterConfig,
    Saturated,
    SharedReplicaRegistry,
    UnknownReplica,
    UsageError,
)
from shared_registry.embedded import EmbeddedServer
from shared_registry.registry import draining
from tests.support.leasing_registry import KeepingRegistry
from tests.support.space import A, B
from tests.support.until import until


async def healthy(url: str, *, timeout: float) -> tuple[float, str | None]:
    return 1.0, None


@pytest.fixture
def config(server: EmbeddedServer, namespace: str) -> RouterConfig:
    replicas = [ReplicaEndpoint(A, "gpu-1", capacity=1), ReplicaEndpoint(B, "gpu-2", capacity=1)]
    return RouterConfig(redis_url=server.url, namespace=namespace, replicas=replicas, heartbeat_seconds=0.1)


@pytest.fixture
async def registry(config: RouterConfig) -> AsyncIterator[SharedReplicaRegistry]:
    async with KeepingRegistry(config, http_get=healthy) as registry:
        await until(lambda: all(replica.is_healthy for replica in registry.all()))
        yield registry
        assert await registry.check() == []


async def test_a_lease_holds_a_slot_until_its_block_ends(registry: SharedReplicaRegistry) -> None:
    async with await registry.acquire("ann") as lease:
        assert lease.replica in registry.all()
        assert (lease.session, lease.is_degraded, lease.lost.is_set()) == ("ann", False, False)
        await registry.refresh(at_once=True)
        assert lease.replica.in_flight == 1
    await lease.release()
    await registry.refresh(at_once=True)
    assert [replica.in_flight for replica in registry.all()] == [0, 0]


async def test_a_session_that_finds_no_room_gets_the_reason(registry: SharedReplicaRegistry) -> None:
    leases = [await registry.acquire() for _ in range(2)]
    assert {lease.replica.name for lease in leases} == {"gpu-1", "gpu-2"}
    with pytest.raises(Saturated, match="as many sessions as its capacity allows"):
        await registry.acquire()
    for lease in leases:
        await lease.release()
    with pytest.raises(NoHealthyReplica, match="no replica is healthy and active, but for those to exclude;"):
        await registry.acquire(exclude=[A, registry.all()[1]])


async def test_two_routers_share_the_slots(registry: SharedReplicaRegistry, config: RouterConfig) -> None:
    async with KeepingRegistry(config, health_checks=False) as other:
        first, second = await registry.acquire(), await other.acquire()
        assert first.replica.key != second.replica.key
        for each in (registry, other):
            with pytest.raises(Saturated):
                await each.acquire()
    assert (await registry.acquire()).replica.key == second.replica.key  # it left, and its lease ended


async def test_a_wrong_timeout_or_an_unstarted_registry_is_refused(
    registry: SharedReplicaRegistry, config: RouterConfig
) -> None:
    for timeout in (-1.0, math.inf, math.nan):
        with pytest.raises(UsageError, match=r"timeout: must be 0 or more seconds, and finite, got"):
            await registry.acquire(timeout=timeout)
    for timeout in (0, 1.0):
        assert (await registry.acquire(timeout=timeout)).replica in registry.all()
    with pytest.raises(UsageError, match="await start"):
        await SharedReplicaRegistry(config).acquire()


@pytest.mark.parametrize("change", ["drain", "disable", "deregister"])
async def test_the_end_of_another_routers_session_ends_the_wait(
    registry: SharedReplicaRegistry, config: RouterConfig, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """Without any reading in between."""
    monkeypatch.setattr(draining, "SHORTEST_PAUSE_SECONDS", 600.0)
    async with KeepingRegistry(config, health_checks=False) as other:
        lease = await other.acquire()
        await getattr(registry, change)(lease.replica)
        waiting = asyncio.ensure_future(registry.wait_drained(lease.replica, timeout_seconds=600))
        done, _ = await asyncio.wait([waiting], timeout=0.2)
        assert not done
        await lease.release()
        assert await asyncio.wait_for(waiting, 30)


async def test_a_caller_can_wait_until_a_replica_is_drained(registry: SharedReplicaRegistry) -> None:
    lease = await registry.acquire()
    await registry.deregister(lease.replica, when_drained=True)
    assert not await registry.wait_drained(lease.replica, timeout_seconds=0.05)
    waiting = asyncio.ensure_future(registry.wait_drained(lease.replica))
    await lease.release()
    assert await waiting
    assert lease.replica not in registry.all()
    with pytest.raises(UnknownReplica):
        await registry.wait_drained("http://10.0.0.99:8000")
