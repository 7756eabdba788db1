"""Leases that may move, at registries: they have deadlines, and survive the routers that have them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from shared_registry import ReplicaEndpoint, RouterConfig, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer
from shared_registry.errors import Saturated
from shared_registry.leases import queue
from shared_registry.leases.movable import InUse, MovableLease, movable_id
from shared_registry.store.replies import Departure
from tests.support.lease_commands import expect_counted
from tests.support.space import Space, info, on_server
from tests.support.until import SECONDS, until

pytestmark = pytest.mark.redis
URL = "http://127.0.0.1:8001"
FAST = {"heartbeat_seconds": 0.2, "router_expiry_seconds": 1.0, "hold_grace_seconds": 0.5}


@pytest_asyncio.fixture
async def space(server: EmbeddedServer, namespace: str) -> AsyncIterator[Space]:
    async with on_server(server.url, namespace) as space:
        await space.add(URL, capacity=2)
        await space.make("healthy", URL)
        yield space
        expect_counted(space)


@contextlib.asynccontextmanager
async def registry(space: Space, server: EmbeddedServer, **settings: Any) -> AsyncIterator[SharedReplicaRegistry]:
    config = RouterConfig(
        replicas=[ReplicaEndpoint(URL, capacity=2)],
        redis_url=server.url,
        namespace=space.keys.namespace,
        **{**FAST, **settings},
    )
    async with SharedReplicaRegistry(config, health_checks=False) as one:
        yield one


def an_id(text: str = "a", session: str | None = None) -> str:
    return movable_id("client", text, session)


def in_flight(space: Space) -> int:
    return int(space.raw.hget(space.keys.replica(URL), "in_flight"))


async def acquired(registry: SharedReplicaRegistry, text: str = "a", **more: Any) -> MovableLease:
    return await registry.acquire_movable(an_id(text), **more)


async def test_the_same_id_finds_the_same_lease(space: Space, server: EmbeddedServer) -> None:
    async with registry(space, server) as one, registry(space, server) as two:
        first = await acquired(one)
        assert await acquired(one) is first
        second = await acquired(two)
        assert second.lease.id == first.lease.id
        assert second.lease.replica.url == URL
        assert in_flight(space) == 1
        await until(first.changed.is_set, "the first router learns that its lease has moved")
        assert one.lease_count == 0
        assert in_flight(space) == 1
        await two.movable_leases.release(second)
        await until(lambda: in_flight(space) == 0, "the slot is free")


async def test_a_lease_that_has_moved_ends_at_its_former_router(space: Space, server: EmbeddedServer) -> None:
    slow = {"heartbeat_seconds": 30.0, "router_expiry_seconds": 100.0}  # it does not learn by itself of the move
    async with registry(space, server, **slow) as one, registry(space, server) as two:
        first, second = await acquired(one), await acquired(two)
        assert not first.changed.is_set()
        again = await one.movable_leases.find(an_id())
        assert again is not None
        await one.movable_leases.release(again)
        assert await one.movable_leases.find(an_id()) is None
        await until(second.changed.is_set, "the other router learns that the lease has moved")
    assert (one.lease_count, two.lease_count) == (0, 0)


async def test_a_lease_ended_elsewhere_is_not_put_back(space: Space, server: EmbeddedServer) -> None:
    async with registry(space, server) as one, registry(space, server) as two:
        first, second = await acquired(one), await acquired(two)
        one.movable_leases.expect(first, 600.0)
        await two.movable_leases.release(second)
        await until(first.changed.is_set, "the first router learns that its lease has ended")
        await until(lambda: in_flight(space) == 0, "the slot is free")
        assert (one.lease_count, two.lease_count) == (0, 0)


async def test_a_lease_ended_elsewhere_during_a_long_pause_stays_ended(space: Space, server: EmbeddedServer) -> None:
    slow = {"heartbeat_seconds": 30.0, "router_expiry_seconds": 100.0}  # no heartbeat between the move and the end
    async with registry(space, server, **slow) as one, registry(space, server) as two:
        first, second = await acquired(one), await acquired(two)
        one.movable_leases.expect(first, 600.0)
        await asyncio.sleep(4 * FAST["heartbeat_seconds"])
        await two.movable_leases.release(second)
        assert in_flight(space) == 0
        await one._parts.placement.reconciler.reconcile()
        assert (first.changed.is_set(), one.lease_count, in_flight(space)) == (True, 0, 0)


async def test_a_former_router_gives_no_lease_that_has_ended(space: Space, server: EmbeddedServer) -> None:
    slow = {"heartbeat_seconds": 30.0, "router_expiry_seconds": 100.0}
    async with registry(space, server, **slow) as one, registry(space, server) as two:
        first, second = await acquired(one), await acquired(two)
        await two.movable_leases.release(second)
        assert await one.movable_leases.find(an_id()) is None
        assert first.changed.is_set()
        again = await acquired(one)
        assert (again.changed.is_set(), in_flight(space)) == (False, 1)


async def test_an_id_is_usable_at_once_after_its_end(space: Space, server: EmbeddedServer) -> None:
    async with registry(space, server) as one, registry(space, server) as two:
        first, second = await acquired(one), await acquired(two)
        await two.movable_leases.release(second)
        third = await acquired(two)
        two.movable_leases.take(third)
        await until(first.changed.is_set, "the first router learns that its lease has moved")
        assert (third.changed.is_set(), in_flight(space), two.lease_count) == (False, 1, 1)
        assert await two.movable_leases.find(an_id()) is third


async def test_a_lease_ends_at_its_deadline(space: Space, server: EmbeddedServer) -> None:
    async with registry(space, server) as one:
        lease = await acquired(one)
        one.movable_leases.expect(lease, 30.0)
        other = await acquired(one, "b")
        one.movable_leases.expect(other, 0.05)
        await until(lambda: in_flight(space) == 1, "one of the two has ended")
        assert other.changed.is_set()
        assert not lease.changed.is_set()
        one.movable_leases.take(lease)
        assert lease.ends_at is None


async def test_a_former_holder_does_not_let_go(space: Space, server: EmbeddedServer) -> None:
    async with registry(space, server) as one:
        lease = await acquired(one)
        first = one.movable_leases.take(lease)
        changed = lease.changed
        second = one.movable_leases.take(lease)
        assert changed.is_set()
        one.movable_leases.let_go(lease, first)
        assert lease.is_held
        one.movable_leases.let_go(lease, second)
        await until(lambda: in_flight(space) == 0, "the lease has ended with the grace")


async def test_a_stopped_routers_leases_wait_for_their_clients(space: Space, server: EmbeddedServer) -> None:
    async with registry(space, server, hold_grace_seconds=30.0) as two:
        async with registry(space, server, hold_grace_seconds=30.0) as one:
            held = await acquired(one)
            await acquired(one, "b")
            with pytest.raises(Saturated):
                await two.acquire()
        assert held.changed.is_set()
        with pytest.raises(Saturated):
            await two.acquire()
        found = await acquired(two)
        assert found.lease.replica.url == URL
        assert in_flight(space) == 2
        await until(lambda: two.movable_leases.get(an_id("b")) is not None, "the other one was inherited")
        assert in_flight(space) == 2


@pytest.mark.parametrize("grace", [0.0, 0.3])
async def test_leases_of_a_stopped_router_end_with_the_grace(
    space: Space, server: EmbeddedServer, grace: float
) -> None:
    async with registry(space, server, hold_grace_seconds=grace):
        async with registry(space, server, hold_grace_seconds=grace) as one:
            await acquired(one)
        await until(lambda: in_flight(space) == 0, "the slot is free again")


async def test_a_dead_routers_leases_are_inherited_then_end(space: Space, server: EmbeddedServer) -> None:
    async with registry(space, server) as two:
        dead = space.store_of("dead~1")
        await dead.heartbeat(info("dead~1"), expiry_seconds=1.0)
        await dead.acquire(an_id())
        await dead.acquire(an_id("b"))
        kept = await acquired(two)
        await until(lambda: two.movable_leases.get(an_id("b")) is not None, "the reaper inherits the lease")
        await until(lambda: in_flight(space) == 1, "nobody came back for it")
        assert not kept.changed.is_set()


@pytest.mark.parametrize("leaves", [True, False])
async def test_leases_are_inherited_also_while_sessions_wait(
    space: Space, server: EmbeddedServer, leaves: bool
) -> None:
    async with registry(space, server) as two:
        gone = space.store_of("gone~1")
        await gone.heartbeat(info("gone~1"), expiry_seconds=1.0)
        for text in ("a", "b"):
            assert await gone.acquire(an_id(text)) is not None
        waiting = [asyncio.create_task(two.acquire(timeout=SECONDS)) for _ in range(2)]

        async def do_wait() -> bool:
            return (await two.fleet.queue(0)).depth == 2

        await until(do_wait, "two sessions wait")
        if leaves:
            assert await gone.leave(moves=True) is Departure.DONE
        for lease in await asyncio.gather(*waiting):
            await lease.release()


async def test_a_slot_of_an_earlier_wait_is_not_given_again(
    space: Space, server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "INBOX_SECONDS", 0.05)
    async with registry(space, server) as one:
        holders = [await one.acquire() for _ in range(2)]

        async def waits() -> bool:
            return (await one.fleet.queue(0)).depth == 1

        first = asyncio.create_task(acquired(one, timeout=SECONDS))
        await until(waits, "the client waits")
        await holders.pop().release()
        await one.movable_leases.release(await first)
        holders.append(await one.acquire())
        again = asyncio.create_task(acquired(one, timeout=SECONDS))
        await until(waits, "the same client waits again")
        one._parts.placement._queue.rewind()  # as after any break of the connection to Redis
        with pytest.raises(Saturated):
            await one.acquire(timeout=0.3)
        assert (again.done(), one.lease_count, in_flight(space)) == (False, 2, 2)
        await holders.pop().release()
        await one.movable_leases.release(await again)
        await holders.pop().release()


async def test_an_id_is_asked_for_once_at_a_time(space: Space, server: EmbeddedServer) -> None:
    async with registry(space, server) as one:
        results = await asyncio.gather(acquired(one), acquired(one), return_exceptions=True)
        assert [type(result) for result in results] == [MovableLease, InUse]


async def test_a_released_id_may_be_used_again(space: Space, server: EmbeddedServer) -> None:
    async with registry(space, server) as one:
        for _ in range(50):
            lease = await acquired(one)
            release = asyncio.create_task(one.movable_leases.release(lease))
            await asyncio.sleep(0)
            again = await acquired(one)
            await release
            assert in_flight(space) == 1
            await one.movable_leases.release(again)
            assert in_flight(space) == 0


async def test_a_cancelled_request_leaves_no_lease(space: Space, server: EmbeddedServer) -> None:
    async with registry(space, server) as one, registry(space, server) as two:
        for at in range(40):
            await acquired(one)
            task = asyncio.create_task(acquired(two))
            for _ in range(at):
                await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                two.movable_leases.expect(await task, 0.0)
            lease = one.movable_leases.get(an_id())
            if lease is not None:
                await one.movable_leases.release(lease)
            await until(lambda: in_flight(space) == 0, "nothing is left", seconds=10)
