"""Leases that may move: to the router that their client turns to, and to the heir of a router that is gone."""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from shared_registry.embedded import EmbeddedServer
from shared_registry.store.replies import Denial, Denied, Departure, Grant, Restored
from tests.support.lease_commands import ONE, THREE, TWO, acquire, held_by, in_flight, leasing, serve
from tests.support.space import A, B, Space, info

pytestmark = pytest.mark.redis
_serial = itertools.count(1)


@pytest_asyncio.fixture
async def space(server: EmbeddedServer, namespace: str) -> AsyncIterator[Space]:
    async with leasing(server.url, namespace, ONE, TWO, THREE) as space:
        await serve(space, A, B)
        yield space


def movable(session: str = "") -> str:
    text = f"{next(_serial):032x}~moves~healthy"
    return f"{text}:{session}" if session else text


async def granted(space: Space, router: str = ONE, session: str = "") -> tuple[str, str]:
    """Return a lease that may move, and its url."""
    lease = movable(session)
    grant = await space.store_of(router).acquire(lease)
    assert isinstance(grant, Grant)
    return lease, grant.key


async def test_a_lease_moves_with_its_slot(space: Space) -> None:
    lease, url = await granted(space)
    for router in (TWO, TWO, THREE):
        grant = await space.store_of(router).take_over(lease)
        assert isinstance(grant, Grant)
        assert (grant.key, grant.revision) == (url, space.fields(url)["revision"])
        assert held_by(space, router) == {lease: url}
        assert in_flight(space, url) == 1
    assert held_by(space, ONE) == held_by(space, TWO) == {}


async def test_a_lease_that_nobody_has_does_not_move(space: Space) -> None:
    before = space.dump()
    assert await space.store.take_over(movable()) is None
    lease, _ = await granted(space)
    await space.store.release(lease)
    assert await space.store_of(TWO).take_over(lease) is None
    assert space.dump().keys() == before.keys()


async def test_only_a_live_router_takes_over(space: Space) -> None:
    lease, url = await granted(space)
    assert await space.store_of("router~9").take_over(lease) == Denied(Denial.NOT_REGISTERED)
    assert held_by(space) == {lease: url}


async def test_the_former_router_does_not_put_it_back(space: Space) -> None:
    lease, url = await granted(space)
    stays, where = await acquire(space)
    await space.store_of(TWO).take_over(lease)
    restored = await space.store.restore_leases({lease: url, stays: where})
    assert restored == Restored(0, [], [], (lease,))
    assert lease not in held_by(space)
    assert in_flight(space, A) + in_flight(space, B) == 2


@pytest.mark.parametrize("leaves", ["taken over", "inherited"])
async def test_a_moved_lease_that_has_ended_is_not_put_back(space: Space, leaves: str) -> None:
    lease, url = await granted(space, TWO)
    if leaves == "inherited":
        space.expire_router(TWO)
        await space.store.reap(TWO, moves=True)
        await space.store_of(TWO).heartbeat(info(TWO), expiry_seconds=10)
    else:
        await space.store.take_over(lease)
    await space.store.release(lease)
    for _ in range(2):
        assert await space.store_of(TWO).restore_leases({lease: url}) == Restored(0, [], [], (lease,))
        assert await space.store_of(TWO).take_over(lease) == Denied(Denial.ENDED)
    assert await space.store.take_over(lease) is None
    assert await space.store_of(THREE).restore_leases({lease: url}) == Restored(1, [], [])
    assert in_flight(space, A) + in_flight(space, B) == 1


async def test_a_lease_that_has_come_back_is_put_back(space: Space) -> None:
    lease, url = await granted(space)
    for router in (TWO, ONE):
        await space.store_of(router).take_over(lease)
    space.raw.delete(space.keys.leases(ONE))
    space.raw.hset(space.keys.replica(url), "in_flight", 0)
    assert await space.store.restore_leases({lease: url}) == Restored(1, [], [])


async def test_what_has_moved_is_remembered_within_bounds(space: Space) -> None:
    old = {f"{TWO}/{at}": 1.0 for at in range(3)} | {f"{TWO}/{at}": time.time() * 1000 for at in range(3, 20_003)}
    space.raw.zadd(space.keys.moved, old)
    lease, _ = await granted(space)
    await space.store_of(TWO).take_over(lease)
    assert space.raw.zcard(space.keys.moved) == 20_000
    assert space.raw.zscore(space.keys.moved, f"{ONE}/{lease}")
    assert 0 < space.raw.pttl(space.keys.moved) <= 3_600_000


async def test_a_lost_lease_that_may_move_is_put_back(space: Space) -> None:
    lease = movable()
    assert await space.store.restore_leases({lease: A}, is_lost=False) == Restored(1, [], [])
    assert held_by(space) == {lease: A}


@pytest.mark.parametrize("session", ["", "anna"])
async def test_the_reaper_inherits_leases_that_may_move(space: Space, session: str) -> None:
    lease, url = await granted(space, TWO, session)
    await acquire(space, router=TWO)
    space.expire_router(TWO)
    assert await space.store.reap(TWO, affinity_seconds=60, moves=True) is Departure.DONE
    assert held_by(space, ONE) == {lease: url}
    assert in_flight(space, A) + in_flight(space, B) == 1
    if session:
        assert space.raw.pttl(space.keys.affinity_prefix + session) == -1


async def test_a_leaving_router_leaves_them_to_a_live_one(space: Space) -> None:
    leases = dict([await granted(space) for _ in range(130)])
    space.expire_router(TWO)
    while await space.store.leave(moves=True) is Departure.PARTIAL:
        pass
    assert held_by(space, THREE) == leases
    assert in_flight(space, A) + in_flight(space, B) == 130


async def test_without_an_heir_they_end(space: Space) -> None:
    await granted(space)
    for router in (TWO, THREE):
        assert await space.store_of(router).leave() is Departure.DONE
    await space.store.leave(moves=True)
    assert in_flight(space, A) + in_flight(space, B) == 0


async def test_they_end_where_no_grace_is_given(space: Space) -> None:
    await granted(space)
    await space.store.leave(moves=False)
    assert in_flight(space, A) + in_flight(space, B) == 0


async def test_an_heir_with_that_id_gets_no_second_lease(space: Space) -> None:
    lease, _ = await granted(space, TWO)
    grant = await space.store.acquire(lease)
    assert isinstance(grant, Grant)
    space.expire_router(TWO)
    assert await space.store.reap(TWO, moves=True) is Departure.DONE
    assert held_by(space) == {lease: grant.key}
    assert in_flight(space, A) + in_flight(space, B) == 1
