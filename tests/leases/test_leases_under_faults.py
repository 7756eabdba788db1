"""Leases that are cancelled, and whose commands or replies are lost: nothing is left behind."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any
from unittest import mock

import pytest

from shared_registry import Lease, SharedReplicaRegistry, StoreUnavailable, UsageError
from shared_registry.embedded import EmbeddedServer
from shared_registry.model import Event
from shared_registry.store.replies import Denied, Grant, Queued, Restored
from tests.support.faulty_proxy import FaultyProxy
from tests.support.leasing_registry import cancel_at, held, leases, registry_on, settle
from tests.support.space import A, B, C, Space, info, on_server
from tests.support.until import until

HEARTBEAT = 0.2
TIMEOUT = 1.0
"""Of a call to Redis: what takes a millisecond takes longer on a busy machine."""

Prepare = Callable[[SharedReplicaRegistry, Space], Coroutine[Any, Any, None]]


@pytest.fixture
async def space(server: EmbeddedServer, namespace: str) -> AsyncIterator[Space]:
    """A namespace with two healthy replicas that take many sessions."""
    async with on_server(server.url, namespace) as space:
        for url in (A, B):
            await space.add(url, capacity=100)
            await space.make("healthy", url)
        yield space


@pytest.fixture
async def registry(space: Space, proxy: FaultyProxy) -> AsyncIterator[SharedReplicaRegistry]:
    """One that compares its leases with Redis only when it is asked to: nothing else happens by itself."""
    changes: dict[str, Any] = {"redis_timeout_seconds": TIMEOUT, "degraded_placement": "off"}
    async with registry_on(proxy.url, space.keys.namespace, **changes) as registry:
        yield registry


async def with_warm_connections(registry: SharedReplicaRegistry, space: Space) -> None:
    pass


async def with_cold_connections(registry: SharedReplicaRegistry, space: Space) -> None:
    await registry._clients.commands.connection_pool.disconnect()


async def not_registered(registry: SharedReplicaRegistry, space: Space) -> None:
    space.expire_router(registry.router_key)
    await space.store.reap(registry.router_key)


@pytest.mark.parametrize(
    ("prepare", "points"), [(with_warm_connections, 1), (with_cold_connections, 1), (not_registered, 4)]
)
async def test_an_acquire_cancelled_at_any_point_leaves_nothing(
    registry: SharedReplicaRegistry, space: Space, prepare: Prepare, points: int
) -> None:
    kept = await registry.acquire("kept")
    for point in itertools.count(1):
        await prepare(registry, space)
        taken: list[Lease] = []

        async def acquire(taken: list[Lease] = taken) -> None:
            taken.append(await registry.acquire("session"))

        was_cancelled = await cancel_at(acquire, point)
        if not was_cancelled:
            break
        assert taken == []
        await settle(space, registry)
        assert held(registry) == {kept.id: kept.replica.key}
    assert point > points, "there were as many points at least"
    assert len(taken) == 1
    await settle(space, registry)
    await taken[0].release()
    await kept.release()
    await settle(space, registry)
    assert leases(space) == {}


@pytest.mark.parametrize(("prepare", "points"), [(with_warm_connections, 1), (with_cold_connections, 1)])
async def test_a_release_cancelled_at_any_point_ends_the_lease(
    registry: SharedReplicaRegistry, space: Space, prepare: Prepare, points: int
) -> None:
    kept = await registry.acquire()
    for point in itertools.count(1):
        lease = await registry.acquire("session")
        await prepare(registry, space)
        was_cancelled = await cancel_at(lease.release, point)
        await settle(space, registry)
        assert held(registry) == {kept.id: kept.replica.key}
        if not was_cancelled:
            break
    assert point > points, "there were as many points at least"


FAULTS = {
    "commands are lost": {"loses_commands": True},
    "replies are lost": {"loses_replies": True},
    "all is slow": {"delay_seconds": 0.02},
    "all comes in pieces": {"piece_bytes": 40, "delay_seconds": 0.002},
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("is_release", [False, True], ids=["acquire", "release"])
async def test_a_call_cancelled_during_network_faults_leaks_no_lease(
    registry: SharedReplicaRegistry, space: Space, proxy: FaultyProxy, fault: dict[str, Any], is_release: bool
) -> None:
    for after_seconds in (0.0, 0.03, 0.06):
        lease = await registry.acquire() if is_release else None
        vars(proxy).update(fault)
        taken: list[Lease] = []

        async def acquire(taken: list[Lease] = taken) -> None:
            taken.append(await registry.acquire())

        await cancel_at(lease.release if lease else acquire, 1, after_seconds=after_seconds)
        proxy.heal()
        proxy.cut()
        for one in taken:  # it was faster than its cancellation
            await one.release()
        await settle(space, registry)
        assert leases(space) == {}


async def test_a_command_arriving_after_its_acquires_cleanup_leaks_no_lease(space: Space, proxy: FaultyProxy) -> None:
    namespace = space.keys.namespace
    settings = {"redis_timeout_seconds": TIMEOUT, "degraded_placement": "off", "router_expiry_seconds": 60.0}
    async with registry_on(proxy.url, namespace, heartbeat_seconds=HEARTBEAT, **settings) as registry:
        await registry.acquire("warm")
        releases: list[str] = []
        release = registry._parts.store.release

        async def counted(lease_id: str, **options: Any) -> list[Event]:
            events = await release(lease_id, **options)
            releases.append(lease_id)
            return events

        with mock.patch.object(registry._parts.store, "release", counted):
            task = asyncio.create_task(registry.acquire())
            gate = proxy.gate = asyncio.Event()
            await until(lambda: registry._parts.placement.ledger.mark().moving == 1 and proxy.held)
            proxy.gate = None  # for all but the command, which is on its way
            with pytest.raises(StoreUnavailable):
                await task
            await until(lambda: len(releases) == 1)
            assert len(leases(space)) == 1, "it was cleaned up before it was there"
            gate.set()
            await until(lambda: len(releases) == 2)
            assert releases[0] == releases[1], "and again, when a beat had counted it"
        await settle(space, registry)
        assert len(leases(space)) == 1


async def test_a_lost_reply_to_acquire_leaks_nothing(
    registry: SharedReplicaRegistry, space: Space, proxy: FaultyProxy
) -> None:
    await registry.acquire()
    proxy.cuts_at_reply = proxy.refuses = True
    with pytest.raises(StoreUnavailable):
        await registry.acquire()
    assert not proxy.cuts_at_reply
    proxy.heal()
    await settle(space, registry)
    assert len(held(registry)) == 1


async def test_a_lost_reply_during_degraded_placement_leaks_nothing(space: Space, proxy: FaultyProxy) -> None:
    """The lease is where the session went, wherever Redis had put it."""
    namespace = space.keys.namespace
    async with registry_on(proxy.url, namespace, degraded_placement="unlimited") as registry:
        for _ in range(8):
            proxy.cuts_at_reply = proxy.refuses = True
            lease = await registry.acquire()
            assert lease.is_degraded
            proxy.heal()
            await settle(space, registry)
        assert len(held(registry)) == 8


async def test_a_lost_reply_to_release_ends_the_lease(
    registry: SharedReplicaRegistry, space: Space, proxy: FaultyProxy
) -> None:
    for lose in ("cuts_at_reply", "loses_replies"):
        lease = await registry.acquire()
        setattr(proxy, lose, True)
        await lease.release()
        await lease.release()
        proxy.heal()
        await settle(space, registry)
        assert leases(space) == {}


async def test_an_excess_is_reported_even_if_the_answer_was_lost(
    space: Space, proxy: FaultyProxy, registry: SharedReplicaRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    await space.add(C, capacity=1)
    await space.make("healthy", C)
    lease = await registry.acquire(exclude=[A, B])
    await not_registered(registry, space)
    await space.store.heartbeat(info(), expiry_seconds=60.0)
    assert await space.store.acquire("0" * 32, excluded=[A, B]) == Grant(C, space.fields(C)["revision"])
    put_back = registry._parts.store.restore_leases

    async def lose_the_answer(leases: Mapping[str, str], **options: bool) -> Restored | None:
        proxy.cuts_at_reply = space.raw.zscore(space.keys.routers, registry.router_key) is not None
        return await put_back(leases, **options)

    with mock.patch.object(registry._parts.store, "restore_leases", lose_the_answer), pytest.raises(StoreUnavailable):
        await registry._parts.placement.reconciler.reconcile()
    assert lease.id in leases(space)
    await until(lambda: f"{C} has more sessions than its capacity" in caplog.text)
    assert [text for text in caplog.messages if "put back" in text and "capacity" not in text] == []


async def test_a_late_acquire_does_not_bring_a_stopped_router_back(space: Space, proxy: FaultyProxy) -> None:
    """The registry stops while its session is requested."""
    gate, is_asking = asyncio.Event(), asyncio.Event()
    async with registry_on(proxy.url, space.keys.namespace) as registry:
        acquire = registry._parts.store.acquire

        async def late(lease_id: str, **options: Any) -> Grant | Queued | Denied:
            is_asking.set()
            await gate.wait()
            return await acquire(lease_id, **options)

        with mock.patch.object(registry._parts.store, "acquire", late):
            asking = asyncio.create_task(registry.acquire())
            await is_asking.wait()
    gate.set()
    with pytest.raises(UsageError, match="stopped"):
        await asking
    await registry._clients.close()  # what came late has opened them again
    assert leases(space) == {}
    assert space.raw.zrange(space.keys.routers, 0, -1) == []


async def test_a_lease_granted_while_the_registry_stops_is_not_returned(
    registry: SharedReplicaRegistry, space: Space
) -> None:
    gate = asyncio.Event()
    acquire = registry._parts.store.acquire

    async def slow(lease_id: str, **options: Any) -> Grant | Queued | Denied:
        grant = await acquire(lease_id, **options)
        await gate.wait()
        return grant

    with mock.patch.object(registry._parts.store, "acquire", slow):
        asking = asyncio.create_task(registry.acquire())
        await until(lambda: len(leases(space)) == 1)
        await registry.stop()
        gate.set()
        with pytest.raises(UsageError, match="stopped"):
            await asking
    assert leases(space) == {}
    assert held(registry) == {}
