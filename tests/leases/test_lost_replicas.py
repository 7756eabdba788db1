"""What a session hears of its replica's loss, and how a router keeps off replicas that it could not connect to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from shared_registry import SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer
from shared_registry.model import ReplicaStatus
from tests.support.faulty_proxy import FaultyProxy
from tests.support.leasing_registry import NEVER, registry_on
from tests.support.space import A, B, Space, on_server
from tests.support.until import until

COOLDOWN = 4.0
"""Long enough for what has to happen before it is over."""


@pytest.fixture
async def space(server: EmbeddedServer, namespace: str) -> AsyncIterator[Space]:
    async with on_server(server.url, namespace) as space:
        for url in (A, B):
            await space.add(url, capacity=4)
            await space.make("healthy", url)
        yield space


@pytest.fixture
async def registry(server: EmbeddedServer, space: Space) -> AsyncIterator[SharedReplicaRegistry]:
    async with registry_on(server.url, space.keys.namespace, local_cooldown_seconds=COOLDOWN) as registry:
        yield registry


@pytest.mark.parametrize("how", ["unhealthy", "removed"])
async def test_only_sessions_on_the_lost_replica_are_notified(
    registry: SharedReplicaRegistry, space: Space, how: str
) -> None:
    on_a, on_b = await registry.acquire(exclude=[B]), await registry.acquire(exclude=[A])
    if how == "removed":
        await space.remove(A)
    else:
        await space.make("unhealthy", A)
    async with asyncio.timeout(10):
        await on_a.lost.wait()
    assert not on_b.lost.is_set()
    await on_a.release()


async def test_sessions_on_replicas_that_are_lost_together_are_notified(
    registry: SharedReplicaRegistry, space: Space
) -> None:
    leases = [await registry.acquire(exclude=[B]), await registry.acquire(exclude=[A])]
    epoch = await space.elect()
    for batch in (1, 2, 3):
        await space.report(epoch, batch, space.failure(A), space.failure(B))
    assert [len(event.changes) for event in await space.reader.last_events(1)] == [2]
    async with asyncio.timeout(10):
        for lease in leases:
            await lease.lost.wait()


async def test_a_drained_or_disabled_replica_is_not_lost(registry: SharedReplicaRegistry, space: Space) -> None:
    lease = await registry.acquire(exclude=[B])
    await registry.drain(A)
    await registry.disable(A)
    await until(lambda: lease.replica.admin.value == "disabled")
    assert not lease.lost.is_set()


async def test_a_removal_during_an_outage_is_noticed_afterwards(server: EmbeddedServer, space: Space) -> None:
    async with (
        FaultyProxy(server.port) as proxy,
        registry_on(proxy.url, space.keys.namespace, refresh_seconds=0.2) as registry,
    ):
        on_a, on_b = await registry.acquire(exclude=[B]), await registry.acquire(exclude=[A])
        proxy.refuses = True
        proxy.cut()
        await space.remove(A)
        space.raw.xtrim(space.keys.events, maxlen=0, approximate=False)
        proxy.heal()
        async with asyncio.timeout(10):
            await on_a.lost.wait()
        assert not on_b.lost.is_set()


async def test_events_before_the_grant_do_not_lose_the_lease(server: EmbeddedServer, space: Space) -> None:
    """The mirror is behind: it learns of the failure after a session was placed on the recovered replica."""
    async with FaultyProxy(server.port) as proxy, registry_on(proxy.url, space.keys.namespace) as registry:
        await registry.acquire()
        seen: list[ReplicaStatus] = []
        with registry._mirror.subscribed(
            lambda events: seen.extend(event.record.health.status for event in events if event.record)
        ):
            gate = proxy.gate = asyncio.Event()
            await space.make("unhealthy", A)
            await space.make("healthy", A)
            await until(lambda: proxy.held)  # the news are on their way
            proxy.gate = None
            lease = await registry.acquire(exclude=[B])
            assert seen == []
            gate.set()
            await until(lambda: seen[-1:] == [ReplicaStatus.HEALTHY])
        assert seen == [ReplicaStatus.UNHEALTHY, ReplicaStatus.HEALTHY]
        assert not lease.lost.is_set()
        await space.make("unhealthy", A)
        async with asyncio.timeout(10):
            await lease.lost.wait()


async def test_a_replica_that_refused_connecting_is_avoided_for_some_time(
    registry: SharedReplicaRegistry, space: Space
) -> None:
    first = registry.select()
    assert first is not None
    assert first.key == A
    began = asyncio.get_running_loop().time()
    await registry.report_outcome(first, ok=False, reason="refused")
    selected = registry.select()
    assert selected is not None
    assert selected.key == B
    taken = [await registry.acquire() for _ in range(4)]
    assert {lease.replica.key for lease in taken} == {B}, "even with more sessions than the other"
    assert (await registry.acquire()).replica.key == A, "unless nothing else is there"
    only = registry.select(exclude=[B])
    assert only is not None
    assert only.key == A
    await until(lambda: registry.select() is first)
    assert asyncio.get_running_loop().time() - began >= COOLDOWN
    for lease in taken:
        await lease.release()
    assert (await registry.acquire(exclude=[B])).replica.key == A


async def test_a_session_does_not_return_to_a_replica_in_cooldown(
    registry: SharedReplicaRegistry, space: Space
) -> None:
    lease = await registry.acquire("session", exclude=[B])
    await lease.release()
    await registry.report_outcome(lease.replica, ok=False)
    assert (await registry.acquire("session")).replica.key == B


async def test_a_success_ends_the_cooldown(server: EmbeddedServer, space: Space) -> None:
    async with registry_on(server.url, space.keys.namespace, local_cooldown_seconds=NEVER) as registry:
        first = registry.select()
        assert first is not None
        await registry.report_outcome(first, ok=False)
        assert registry.select() is not first
        await registry.report_outcome(first, ok=True)
        assert registry.select() is first
