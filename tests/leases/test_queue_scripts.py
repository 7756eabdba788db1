"""The queue, command by command: who is served when, who is passed over, and what cannot get in its way."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from redis.exceptions import ResponseError

from shared_registry.admin.check import find_violations
from shared_registry.embedded import EmbeddedServer
from shared_registry.model import AdminState
from shared_registry.store.replies import Denial, Denied, Departure, Grant, Queued
from tests.support.lease_commands import ONE, TWO, acquire, heartbeat, held_by, in_flight, lease_id, leasing, serve
from tests.support.space import A, B, Space, on_server
from tests.support.until import until

LONG_LINE = 10_000
GRANTS_AT_ONCE = 16
CHECKED_AT_ONCE = 512
DEAD = 3 * CHECKED_AT_ONCE + 10


async def wait(space: Space, session: str = "", *, router: str = ONE, sequence: str = "") -> str:
    """Join the line; return the lease id that waits."""
    new = lease_id(0, session)
    place = await space.store_of(router).acquire(new, max_queue=LONG_LINE, sequence=sequence)
    assert isinstance(place, Queued), place
    return new


def line(space: Space) -> list[str]:
    """Return the lease ids that wait, first come first."""
    return [waiter.partition("/")[2] for waiter in space.raw.zrange(space.keys.queue, 0, -1)]


def inbox(space: Space, router: str = ONE) -> list[str]:
    return [fields["lease_id"] for _, fields in space.raw.xrange(space.keys.inbox(router))]


async def fill(space: Space, url: str = A) -> str:
    """Serve one replica with one slot, which is taken."""
    await serve(space, url, capacity=1)
    return (await acquire(space))[0]


def plant(space: Space, count: int, router: str = ONE, session: str = "") -> list[str]:
    """Let so many wait without a look at whether there is room."""
    ids = [lease_id(number, session and f"{session}{number}") for number in range(count)]
    space.raw.zadd(space.keys.queue, {f"{router}/{one}": number + 1 for number, one in enumerate(ids)})
    return ids


# --- order ---


async def test_a_slot_goes_to_the_longest_waiter_and_its_inbox(space: Space) -> None:
    lease = await fill(space)
    first, second, third = await wait(space, router=TWO), await wait(space), await wait(space, router=TWO)
    assert line(space) == [first, second, third]
    await space.store.release(lease)
    assert (held_by(space, TWO), line(space), inbox(space, TWO)) == ({first: A}, [second, third], [first])
    await space.store_of(TWO).release(first)
    assert (held_by(space), line(space), inbox(space)) == ({second: A}, [third], [second])
    assert in_flight(space) == 1


async def test_a_repeated_request_returns_the_position_or_the_lease(space: Space) -> None:
    lease = await fill(space)
    first, second = await wait(space), await wait(space)
    answer = await space.store.acquire(second, max_queue=1)
    assert isinstance(answer, Queued)
    assert (answer.position, answer.depth) == (2, 2)
    assert await space.reader.positions(ONE, [second, first, "0"]) == (2, {first: 1, second: 2})
    await space.store.release(lease)
    granted = Grant(A, space.fields(A)["revision"])
    before = space.dump()
    assert await space.store.acquire(first, max_queue=1) == granted
    assert await space.store.acquire(first) == granted
    assert space.dump() == before


async def test_sequences_rise_whatever_the_clock_says(space: Space) -> None:
    await fill(space)
    await wait(space)
    ahead = space.now_ms() + 10**8
    space.raw.hset(space.keys.meta, "queue_sequence", ahead)
    second, third = await wait(space), await wait(space)
    assert [space.raw.zscore(space.keys.queue, f"{ONE}/{one}") for one in (second, third)] == [ahead + 1, ahead + 2]


async def test_a_forgotten_queue_is_rebuilt_in_its_old_order(space: Space) -> None:
    """The server lost it; the waiters join again with their sequences."""
    lease = await fill(space)
    ids = [await wait(space) for _ in range(3)]
    sequences = dict(space.raw.zrange(space.keys.queue, 0, -1, withscores=True))
    space.raw.delete(space.keys.queue)
    space.raw.hdel(space.keys.meta, "queue_sequence")
    await until(lambda: space.now_ms() > max(sequences.values()))  # who comes in one millisecond is ahead of the clock
    newcomer = await wait(space)
    for one in reversed(ids):
        await space.store.acquire(one, max_queue=LONG_LINE, sequence=f"{sequences[f'{ONE}/{one}']:.0f}")
    assert line(space) == [*ids, newcomer]
    await space.store.release(lease)
    assert held_by(space) == {ids[0]: A}


async def test_giving_up_removes_a_waiter_and_so_does_not_waiting(space: Space) -> None:
    await fill(space)
    first, second = await wait(space), await wait(space)
    assert await space.store.release(first) == []
    assert line(space) == [second]
    assert await space.store.acquire(second) == Denied(Denial.SATURATED, 0)
    assert line(space) == []


async def test_one_script_serves_a_bounded_number_and_newcomers_overtake_nobody(space: Space) -> None:
    await serve(space)
    ids = plant(space, GRANTS_AT_ONCE + 6, TWO)
    assert await space.store.acquire(lease_id()) == Denied(Denial.SATURATED, 6)
    assert line(space) == ids[GRANTS_AT_ONCE:]
    assert inbox(space, TWO) == ids[:GRANTS_AT_ONCE]
    await heartbeat(space)
    assert (line(space), in_flight(space)) == ([], len(ids))


async def test_a_session_excluding_a_free_replica_does_not_join(space: Space) -> None:
    await serve(space, A)
    asked = lease_id()
    assert await space.store.acquire(asked, max_queue=9, excluded=[A]) == Denied(Denial.EXCLUDED, 0)
    await space.store.set_admin(A, AdminState.DRAINING)
    assert isinstance(await space.store.acquire(asked, max_queue=9, excluded=[A]), Queued)
    await space.store.set_admin(A, AdminState.ACTIVE)
    assert held_by(space) == {asked: A}


# --- whose turn does not come ---


async def test_waiters_of_an_expired_router_are_skipped_and_keep_positions(space: Space) -> None:
    lease = await fill(space)
    theirs, mine = await wait(space, router=TWO), await wait(space)
    space.expire_router(TWO)
    await space.store.release(lease)
    assert (held_by(space), line(space)) == ({mine: A}, [theirs])
    await heartbeat(space, TWO)
    await space.store.release(mine)
    assert held_by(space, TWO) == {theirs: A}


@pytest.mark.parametrize("span", [{"reap_until_ms": -1}, {"reap_after_ms": 10**6}])
async def test_after_an_outage_no_router_counts_as_gone(space: Space, span: dict[str, int]) -> None:
    lease = await fill(space)
    theirs, _ = await wait(space, router=TWO), await wait(space)
    space.expire_router(TWO)
    space.raw.hset(space.keys.meta, mapping={name: space.now_ms() + ms for name, ms in span.items()})
    await space.store.release(lease)
    assert held_by(space, TWO) == {theirs: A}


async def test_thousands_of_dead_waiters_delay_nobody(space: Space) -> None:
    lease = await fill(space)
    dead = plant(space, DEAD, TWO)
    mine = await wait(space)
    space.expire_router(TWO)
    await space.store.release(lease)
    for _ in range(DEAD // CHECKED_AT_ONCE - 1):
        assert (await heartbeat(space)).is_partial
    assert not (await heartbeat(space)).is_partial
    assert (held_by(space), line(space)) == ({mine: A}, dead)
    await space.store.release(mine)
    await acquire(space)


async def test_dead_waiters_that_return_are_served_first(space: Space) -> None:
    lease = await fill(space)
    dead = plant(space, DEAD, TWO)
    await wait(space)
    later = await wait(space)
    space.expire_router(TWO)
    await space.store.release(lease)
    while (await heartbeat(space)).is_partial:
        pass
    [served] = held_by(space)
    await heartbeat(space, TWO)
    await space.store.release(served)
    assert held_by(space, TWO) == {dead[0]: A}
    assert line(space) == [*dead[1:], later]


async def test_a_position_among_dead_waiters_is_looked_at(space: Space) -> None:
    lease = await fill(space)
    plant(space, DEAD, TWO)
    await wait(space)
    space.expire_router(TWO)
    await space.store.release(lease)
    while (await heartbeat(space)).is_partial:
        pass
    [served] = held_by(space)
    later, returned = await wait(space), await wait(space, sequence="7")
    await space.store.release(served)
    assert held_by(space) == {returned: A}
    assert line(space)[-1] == later


async def test_ten_thousand_waiters_are_served_in_bounded_calls(space: Space) -> None:
    await fill(space)
    ids = plant(space, LONG_LINE, TWO)
    await serve(space, B, capacity=LONG_LINE)
    calls = 1
    while (await heartbeat(space)).is_partial:
        calls += 1
    assert line(space) == []
    assert sorted(held_by(space, TWO)) == sorted(ids)
    assert LONG_LINE / GRANTS_AT_ONCE - 2 <= calls <= LONG_LINE / GRANTS_AT_ONCE + 2


async def test_a_dead_routers_session_returns_to_a_full_queue(space: Space) -> None:
    await fill(space)
    await wait(space, "ann", router=TWO)
    bob = await wait(space)
    space.expire_router(TWO)
    assert await space.store.reap(TWO, affinity_seconds=60) is Departure.DONE
    ann, new = lease_id(0, "ann"), lease_id(0, "new")
    assert await space.store.acquire(new, max_queue=1) == Denied(Denial.SATURATED, 1)
    assert isinstance(await space.store.acquire(ann, max_queue=1), Queued)
    assert line(space) == [ann, bob]


async def test_waiters_without_a_router_are_dropped_at_their_turn(space: Space) -> None:
    lease = await fill(space)
    plant(space, 3, "gone~1")
    mine = await wait(space)
    await space.store.release(lease)
    assert (held_by(space), line(space)) == ({mine: A}, [])
    assert not space.raw.exists(space.keys.leases("gone~1"))


async def test_a_newcomer_may_take_a_slot_only_dead_waiters_want(space: Space) -> None:
    lease = await fill(space)
    theirs = await wait(space, router=TWO)
    space.expire_router(TWO)
    await space.store.release(lease)
    await acquire(space)
    assert line(space) == [theirs]


@pytest.mark.parametrize("name", ["leases", "inbox", "affinity"])
async def test_a_waiter_with_a_foreign_key_delays_no_other(space: Space, name: str) -> None:
    lease = await fill(space)
    await wait(space, "ann", router=TWO)
    mine = await wait(space)
    key = {"affinity": space.keys.affinity_prefix + "ann"}.get(name) or getattr(space.keys, name)(TWO)
    space.raw.lpush(key, "something else")
    await space.store.release(lease)
    assert held_by(space) == {mine: A}
    assert len(line(space)) == 1
    space.raw.delete(key)
    await heartbeat(space)
    await space.store.release(mine)
    assert len(held_by(space, TWO)) == 1


async def test_foreign_members_of_the_queue_are_dropped(space: Space) -> None:
    lease = await fill(space)
    space.raw.zadd(space.keys.queue, {"nonsense": 1, "/": 2, f"{ONE}/zzz": 3, "": 4})
    mine = await wait(space)
    await space.store.release(lease)
    assert (held_by(space), line(space)) == ({mine: A}, [])


# --- when a router ends ---


async def test_a_reaped_router_leaves_its_sessions_positions_for_some_time(space: Space) -> None:
    lease = await fill(space)
    await wait(space, "ann", router=TWO)
    await wait(space, router=TWO)
    bob = await wait(space, "bob")
    space.expire_router(TWO)
    assert await space.store.reap(TWO, affinity_seconds=60) is Departure.DONE
    assert line(space) == [bob]
    [key] = space.raw.scan_iter(match=f"{space.keys.sequence_prefix}*", count=1000)
    assert key == f"{space.keys.sequence_prefix}ann"
    assert 55_000 < space.raw.pttl(key) <= 60_000
    ann = await wait(space, "ann")
    assert line(space) == [ann, bob]
    assert not space.raw.exists(key), "a place is taken once"
    await space.store.release(ann)
    later = await wait(space, "ann")
    assert line(space) == [bob, later]
    await space.store.release(lease)


@pytest.mark.parametrize("seconds", [0, 60])
async def test_a_stopping_router_leaves_positions_and_frees_its_slots(space: Space, seconds: int) -> None:
    await serve(space, A, capacity=1)
    await acquire(space, router=TWO)
    await wait(space, "ann", router=TWO)
    mine = await wait(space)
    assert await space.store_of(TWO).leave(affinity_seconds=seconds) is Departure.DONE
    assert (held_by(space), line(space)) == ({mine: A}, [])
    assert space.raw.exists(f"{space.keys.sequence_prefix}ann") == (seconds > 0)
    assert not space.raw.exists(space.keys.inbox(TWO))


async def test_a_session_with_an_immediate_slot_loses_its_old_position(space: Space) -> None:
    await serve(space)
    space.raw.set(f"{space.keys.sequence_prefix}ann", "5")
    await acquire(space, "ann")
    assert not space.raw.exists(f"{space.keys.sequence_prefix}ann")


async def test_a_router_with_many_waiters_is_reaped_in_pieces(space: Space) -> None:
    await fill(space)
    mine = [await wait(space) for _ in range(2)]
    plant(space, 5000, TWO, session="s")
    space.expire_router(TWO)
    answers: list[Departure] = []
    while not answers or answers[-1] is Departure.PARTIAL:
        answers.append(await space.store.reap(TWO, affinity_seconds=60))
    assert 3 <= len(answers) <= 12
    assert line(space) == mine
    assert len(list(space.raw.scan_iter(match=f"{space.keys.sequence_prefix}*", count=1000))) == 5000
    assert space.raw.zscore(space.keys.routers, TWO) is None


async def test_a_lease_put_back_leaves_the_queue(space: Space) -> None:
    lease = await fill(space)
    first, second = await wait(space), await wait(space)
    await space.store.restore_leases({first: A})
    assert line(space) == [second]
    await space.store.release(lease)
    assert line(space) == [second], "it was over its capacity"
    await space.store.release(first)
    assert held_by(space) == {second: A}


# --- trouble ---


async def test_slots_are_handed_over_while_memory_is_short(own_server: Callable[..., EmbeddedServer]) -> None:
    server = own_server()
    async with leasing(server.url, "own", ONE, TWO) as space:
        lease = await fill(space)
        first, second = await wait(space), await wait(space, router=TWO)
        space.raw.config_set("maxmemory", 1)
        with pytest.raises(ResponseError, match=r"OOM|maxmemory"):
            space.raw.set("x", "y")
        await space.store.release(lease)
        assert held_by(space) == {first: A}
        await space.store.release(first)
        assert (held_by(space, TWO), inbox(space, TWO)) == ({second: A}, [second])
        space.raw.config_set("maxmemory", 0)


async def test_check_reports_waiters_beside_room_and_of_unknown_routers(space: Space) -> None:
    await serve(space, A, B)
    plant(space, 2)
    plant(space, 1, "gone~1")
    space.raw.xadd(space.keys.inbox("gone~2"), {"lease_id": "0"})
    found = await find_violations(space.reader, space.keys)
    assert {(violation.rule, violation.router) for violation in found} == {
        ("queue", ""),
        ("queue", "gone~1"),
        ("queue", "gone~2"),
    }
    assert any("2 sessions wait, although 2 replicas have room" in violation.message for violation in found)
    await space.store.repair(loads={}, routers=["gone~1", "gone~2"], first_event="", by="me")
    assert (len(held_by(space)), line(space)) == (2, [])
    assert not space.raw.exists(space.keys.inbox("gone~2"))


async def test_repair_goes_through_a_long_queue_in_pages(space: Space) -> None:
    plant(space, 2000, "gone~1")
    ids = plant(space, 2000)
    await space.store.repair(loads={}, routers=["gone~1"], first_event="", by="me")
    assert line(space) == ids


async def test_repair_works_without_the_right_to_unlink(space: Space, server: EmbeddedServer) -> None:
    name = f"no-unlink-{space.keys.namespace}"
    space.raw.hset(space.keys.leases("gone~1"), "00000001", A)
    space.raw.acl_setuser(name, enabled=True, nopass=True, keys=["*"], commands=["+@all", "-unlink"])
    try:
        url = server.url.replace("://", f"://{name}:any@")
        async with on_server(url, space.keys.namespace, raw_url=server.url) as restricted:
            assert await restricted.store.repair(loads={}, routers=["gone~1"], first_event="", by="me") == 1
        assert not space.raw.exists(space.keys.leases("gone~1"))
    finally:
        space.raw.acl_deluser(name)
