"""Redis answers reads and refuses writes: what is placed without it counts until Redis has it."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from unittest import mock

import pytest

from shared_registry import Lease, RegistryError, SharedReplicaRegistry, StoreUnavailable
from shared_registry.embedded import EmbeddedServer
from shared_registry.leases.outage import SETTLING_SECONDS
from tests.support.leasing_registry import leases, registry_on, settle
from tests.support.space import A, B, Space, on_server
from tests.support.until import until

NAMESPACE = "refusing"
CAPACITIES = {A: 3, B: 4}
QUICK = {"refresh_seconds": 0.05, "heartbeat_seconds": 0.1}
WAYS = {
    "NOREPLICAS": (("CONFIG SET min-replicas-to-write 1"), ("CONFIG SET min-replicas-to-write 0")),
    "READONLY": (("REPLICAOF 127.0.0.1 1"), ("REPLICAOF NO ONE")),
    "OOM": (("CONFIG SET maxmemory 1"), ("CONFIG SET maxmemory 0")),
    "NOPERM": (("ACL SETUSER default -evalsha -eval"), ("ACL SETUSER default +evalsha +eval")),
}


@pytest.fixture
async def space(own_server: Callable[..., EmbeddedServer]) -> AsyncIterator[Space]:
    server = own_server()
    async with on_server(server.url, NAMESPACE) as space:
        for url, capacity in CAPACITIES.items():
            await space.add(url, capacity=capacity)
            await space.make("healthy", url)
        yield space


class Writes:
    """Refused and taken at will."""

    def __init__(self, space: Space, way: str) -> None:
        self._raw = space.raw
        self._refuse, self._take = WAYS[way]

    def refuse(self) -> None:
        self._raw.execute_command(*self._refuse.split())

    def take(self) -> None:
        self._raw.execute_command(*self._take.split())


@contextlib.asynccontextmanager
async def routers(space: Space, count: int) -> AsyncIterator[list[SharedReplicaRegistry]]:
    """Run routers that have seen the loads, and each other."""
    connection = space.raw.connection_pool.connection_kwargs
    url = f"redis://{connection['host']}:{connection['port']}/0"
    async with contextlib.AsyncExitStack() as stack:
        ones = [await stack.enter_async_context(registry_on(url, NAMESPACE, **QUICK)) for _ in range(count)]
        for one in ones:
            await (await one.acquire()).release()
        await until(lambda: all(_has_seen(one, count) for one in ones))
        yield ones


def _has_seen(one: SharedReplicaRegistry, routers: int) -> bool:
    degraded = one._parts.placement.outage.degraded
    is_idle = degraded.loads is not None and not any(degraded.loads.in_flight.values())
    return is_idle and degraded.loads is not None and len(degraded.loads.routers) == routers and not degraded._taken


def have_seen(ones: list[SharedReplicaRegistry], loads: dict[str, int]) -> bool:
    """Return whether routers have read these loads, which counts what they placed themselves no longer."""
    all_degraded = [one._parts.placement.outage.degraded for one in ones]
    return all(each.loads is not None and each.loads.in_flight == loads and not each._taken for each in all_degraded)


async def attempt(one: SharedReplicaRegistry, held: list[Lease]) -> bool:
    """Take a slot if there is one; fail where a replica has more sessions than its capacity then."""
    try:
        held.append(await one.acquire())
    except RegistryError:
        return False
    counts = Counter(lease.replica.key for lease in held)
    assert all(counts[url] <= capacity for url, capacity in CAPACITIES.items()), counts
    return True


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("count", [1, 2, 3])
async def test_reads_that_go_on_hand_out_no_slot_twice(space: Space, way: str, count: int) -> None:
    writes, held = Writes(space, way), list[Lease]()
    async with routers(space, count) as ones:
        writes.refuse()
        for _ in range(4):
            for one in ones:
                while await attempt(one, held):
                    pass
            await asyncio.sleep(4 * QUICK["refresh_seconds"])
        assert len(held) == sum(CAPACITIES.values()), "and every slot is used"
        assert all(lease.is_degraded for lease in held)
        writes.take()
        await settle(space, *ones)
        assert Counter(leases(space).values()) == CAPACITIES
        for lease in held:
            await lease.release()
        await settle(space, *ones)
        assert leases(space) == {}


@pytest.mark.parametrize("way", ["NOREPLICAS", "READONLY"])
async def test_a_slot_whose_release_is_refused_is_used_again_once(space: Space, way: str) -> None:
    writes, held = Writes(space, way), list[Lease]()
    async with routers(space, 2) as ones:
        while await attempt(ones[0], held):
            pass
        await until(lambda: have_seen(ones, CAPACITIES))
        writes.refuse()
        assert not await attempt(ones[0], held)
        await held.pop(0).release()
        await asyncio.sleep(4 * QUICK["refresh_seconds"])
        assert not await attempt(ones[1], held), "another router does not know of it"
        assert await attempt(ones[0], held)
        assert not await attempt(ones[0], held)
        writes.take()
        await settle(space, *ones)
        assert Counter(leases(space).values()) == CAPACITIES
        for lease in held:
            await lease.release()


@pytest.mark.parametrize("way", WAYS)
async def test_writes_that_work_for_moments_exceed_no_capacity(space: Space, way: str) -> None:
    writes, held = Writes(space, way), list[Lease]()
    rng = random.Random(way)
    async with routers(space, 1) as (one,):
        for moment in range(16):
            (writes.take if moment % 2 else writes.refuse)()
            for _ in range(8):
                if held and rng.random() < 0.4:
                    await held.pop(rng.randrange(len(held))).release()
                else:
                    await attempt(one, held)
                await asyncio.sleep(rng.uniform(0, QUICK["refresh_seconds"] / 2))
        writes.take()
        await settle(space, one)
        for lease in held:
            await lease.release()


async def test_a_refused_router_leaves_slots_to_others_for_some_time(space: Space) -> None:
    """One router sends again as soon as writes work; the sessions of the other one are not back yet."""
    writes, held = Writes(space, "NOREPLICAS"), list[Lease]()
    async with routers(space, 2) as (one, other):
        writes.refuse()
        while await attempt(one, held):
            pass
        assert not await attempt(one, held)
        while await attempt(other, held):
            pass
        asked = asyncio.get_running_loop().time()
        writes.take()
        while await attempt(one, held):
            pass
        assert asyncio.get_running_loop().time() - asked < SETTLING_SECONDS
        await settle(space, one, other)
        for lease in held:
            await lease.release()
        held.clear()
        await settle(space, one, other)
        await until(lambda: attempt(one, held), seconds=SETTLING_SECONDS + 10)
        for lease in held:
            await lease.release()


async def test_the_queue_gives_no_session_a_slot_of_another_share(space: Space) -> None:
    """What a router frees in a good moment is its own again in the next bad one."""
    writes, held = Writes(space, "NOREPLICAS"), list[Lease]()
    async with routers(space, 2) as (one, other):
        writes.refuse()
        owned = []
        while await attempt(one, held):
            owned.append(held[-1])
        while await attempt(other, held):
            pass
        writes.take()
        await until(lambda: len(leases(space)) == len(held) == sum(CAPACITIES.values()))
        placement = other._parts.placement
        with mock.patch.object(placement.ledger, "give_up", wraps=placement.ledger.give_up) as give_up:
            waiting = asyncio.create_task(other.acquire(timeout=20))
            await until(lambda: not waiting.done() and bool(placement._queue._waiters))
            await asyncio.sleep(0.1)
            held.remove(owned[0])
            await owned[0].release()
            await until(lambda: waiting.done() or give_up.called)
        assert not (waiting.done() and placement.outage.left_to_others())
        if waiting.done():
            held.append(waiting.result())
        writes.refuse()
        await attempt(one, held)
        writes.take()
        await settle(space, one, other)
        if not waiting.done():
            await held.pop().release()
        late = await waiting
        for lease in {*held, late}:
            await lease.release()


async def test_a_share_shrinks_by_slots_granted_to_others(space: Space) -> None:
    """One router keeps to its share; another one, which received no refused write, is given all of it by Redis."""
    writes, held = Writes(space, "NOREPLICAS"), list[Lease]()
    async with routers(space, 2) as (one, other):
        with mock.patch.object(other._parts.placement.outage, "note_failure"):
            writes.refuse()
            assert await attempt(one, held)
            await held.pop().release()
            writes.take()
            while await attempt(other, held):
                pass
            assert len(held) == sum(CAPACITIES.values())
            writes.refuse()
            assert not await attempt(one, held)
        writes.take()
        for lease in held:
            await lease.release()
        await settle(space, one, other)


async def test_placements_during_the_outage_are_recorded_first(space: Space) -> None:
    writes, held = Writes(space, "READONLY"), list[Lease]()
    async with routers(space, 1) as (one,):

        async def compare() -> None:
            raise StoreUnavailable("not by itself")

        with mock.patch.object(one._parts.placement.reconciler, "_compare", compare):
            writes.refuse()
            for _ in range(3):
                assert await attempt(one, held)
            writes.take()
            assert await attempt(one, held)
            assert leases(space).keys() == {lease.id for lease in held}
            assert not held[-1].is_degraded
        for lease in held:
            await lease.release()
        await settle(space, one)
