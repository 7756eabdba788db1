"""Removal that waits for sessions, tombstones that outlast them, and leases put back after Redis lost or moved them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from shared_registry.model import AdminState, EventKind
from shared_registry.store.replies import Denial, Denied, Departure, Grant, Restored
from tests.support.lease_commands import (
    ONE,
    TWO,
    acquire,
    denied,
    has_departed,
    heartbeat,
    held_by,
    in_flight,
    lease_id,
    remove_when_drained,
    serve,
)
from tests.support.space import A, B, C, Space

# --- tombstones ---


async def test_a_tombstone_outlives_its_last_session(space: Space) -> None:
    await serve(space)
    first, _ = await acquire(space)
    second, _ = await acquire(space)
    await space.remove()
    for lease, count in ((first, 1), (second, 0)):
        assert space.raw.pttl(space.keys.replica(A)) == -1
        await space.store.release(lease)
        assert in_flight(space) == count
    assert has_departed(space)


async def test_sessions_of_an_earlier_life_count_in_the_next(space: Space) -> None:
    await serve(space)
    lease, _ = await acquire(space)
    await space.remove()
    await serve(space, A, capacity=1)
    assert await denied(space) is Denial.SATURATED
    await space.store.release(lease)
    await acquire(space)
    assert space.raw.pttl(space.keys.replica(A)) == -1


# --- removal when drained ---


async def by_release(space: Space, lease: str) -> None:
    (event,) = await space.store.release(lease)
    assert event.kind is EventKind.REPLICA_DEREGISTERED


async def by_leave(space: Space, lease: str) -> None:
    assert await space.store.leave() is Departure.DONE


async def by_reap(space: Space, lease: str) -> None:
    space.expire_router(ONE)
    assert await space.store_of(TWO).reap(ONE) is Departure.DONE


async def by_move(space: Space, lease: str) -> None:
    await serve(space, B)
    await space.store.restore_leases({lease: B})


ENDS: dict[str, Callable[[Space, str], Awaitable[None]]] = {
    "release": by_release,
    "leave": by_leave,
    "reap": by_reap,
    "move": by_move,
}


@pytest.mark.parametrize("how", ENDS)
async def test_a_replica_to_be_removed_goes_with_its_last_session(space: Space, how: str) -> None:
    """Whatever ends that session."""
    await serve(space)
    other, _ = await acquire(space, router=TWO)
    lease, _ = await acquire(space)
    await remove_when_drained(space)
    await space.store_of(TWO).release(other)
    assert space.fields(A)["admin"] == "draining"
    assert await denied(space) is Denial.NO_HEALTHY
    await ENDS[how](space, lease)
    assert has_departed(space)
    assert "removes_when_drained" not in space.fields(A)
    (event,) = (one for one in await space.reader.last_events(9) if one.kind is EventKind.REPLICA_DEREGISTERED)
    assert (event.by, event.reason) == ("last session ended", "old")
    assert event.router == (TWO if how == "reap" else ONE)
    assert event.record is not None
    assert event.record.admin is AdminState.REMOVED


@pytest.mark.parametrize("state", ["draining", "disabled", "removed"])
@pytest.mark.parametrize("how", ["release", "leave", "reap", "move"])
async def test_the_last_session_on_a_closed_replica_is_reported(space: Space, how: str, state: str) -> None:
    """However it ends, and only the last one."""
    await serve(space)
    other, _ = await acquire(space, router=TWO)
    lease, _ = await acquire(space)
    if state == "removed":
        await space.remove()
    else:
        await space.store.set_admin(A, AdminState(state), by="o", reason="r")
    assert await space.store_of(TWO).release(other) == []
    if how == "release":
        (event,) = await space.store.release(lease)
        assert (event.kind, event.reported) == (EventKind.REPLICA_EMPTIED, A)
    else:
        await ENDS[how](space, lease)
    (event,) = (one for one in await space.reader.last_events(9) if one.kind is EventKind.REPLICA_EMPTIED)
    assert (event.reported, event.record) == (A, None)
    assert event.router == (TWO if how == "reap" else ONE)
    assert in_flight(space) == 0


async def test_sessions_on_an_active_replica_end_without_an_event(space: Space) -> None:
    await serve(space)
    lease, _ = await acquire(space)
    revision = (await space.reader.head()).revision
    await space.store.release(lease)
    assert (await space.reader.head()).revision == revision


async def test_a_repeated_release_reports_nothing(space: Space) -> None:
    await serve(space)
    lease, _ = await acquire(space)
    await space.store.set_admin(A, AdminState.DRAINING, by="o", reason="r")
    assert len(await space.store.release(lease)) == 1
    assert await space.store.release(lease) == []


async def test_without_sessions_a_replica_is_removed_at_once(space: Space) -> None:
    await serve(space)
    await remove_when_drained(space)
    assert has_departed(space)


async def test_asking_again_changes_nothing_and_insisting_removes_at_once(space: Space) -> None:
    await serve(space)
    await acquire(space)
    await remove_when_drained(space)
    before = space.dump()
    await remove_when_drained(space)
    assert space.dump() == before
    await space.remove()
    assert space.fields(A)["admin"] == "removed"
    assert space.raw.pttl(space.keys.replica(A)) == -1


@pytest.mark.parametrize(
    ("state", "stays"), [(AdminState.ACTIVE, True), (AdminState.DRAINING, False), (AdminState.DISABLED, False)]
)
async def test_only_enabling_a_replica_cancels_its_removal(space: Space, state: AdminState, stays: bool) -> None:
    await serve(space)
    lease, _ = await acquire(space)
    await remove_when_drained(space)
    await space.store.set_admin(A, state)
    await space.store.release(lease)
    assert space.fields(A)["admin"] == (state.value if stays else "removed")


async def test_draining_alone_removes_nothing(space: Space) -> None:
    await serve(space)
    lease, _ = await acquire(space)
    await space.store.set_admin(A, AdminState.DRAINING)
    await space.store.release(lease)
    assert space.fields(A)["admin"] == "draining"


# --- leases put back ---


async def test_leases_that_redis_lost_are_counted_again_exactly_once(space: Space) -> None:
    await serve(space, A, B)
    leases = {lease_id(): A, lease_id(): A, lease_id(): B}
    assert await space.store.restore_leases(leases) == Restored(3, [], [])
    assert held_by(space) == leases
    assert (in_flight(space, A), in_flight(space, B)) == (2, 1)
    before = space.dump()
    assert await space.store.restore_leases(leases) == Restored(0, [], [])
    assert space.dump() == before


async def test_a_router_that_is_not_live_puts_nothing_back(space: Space) -> None:
    await serve(space)
    before = space.dump()
    assert await space.store_of("router~9").restore_leases({lease_id(): A}) is None
    assert space.dump() == before


async def test_a_lease_recorded_on_another_replica_is_moved(space: Space) -> None:
    await serve(space, A, B)
    lease, _ = await acquire(space, "anna", excluded=[B])
    assert (await space.store.restore_leases({lease: B})) == Restored(1, [], [])
    assert held_by(space) == {lease: B}
    assert (in_flight(space, A), in_flight(space, B)) == (0, 1)
    assert space.raw.get(space.keys.affinity_prefix + "anna") == B


async def test_leases_on_missing_replicas_are_named_and_left_out(space: Space) -> None:
    await serve(space)
    known = lease_id()
    answer = await space.store.restore_leases({lease_id(): B, known: A, lease_id(): C})
    assert answer is not None
    assert (answer.count, answer.over_capacity, sorted(answer.not_there)) == (1, [], [B, C])
    assert held_by(space) == {known: A}
    assert not space.raw.exists(space.keys.replica(B))


async def test_leases_put_back_over_capacity_are_reported_and_block_newcomers(
    space: Space,
) -> None:
    """No session gets a slot before there is room again."""
    await serve(space, A, capacity=2)
    other, _ = await acquire(space, router=TWO)
    mine = {lease_id(): A, lease_id(): A}
    assert await space.store.restore_leases(mine) == Restored(2, [A], [])
    assert in_flight(space) == 3
    for lease in mine:
        assert await denied(space) is Denial.SATURATED
        await space.store.release(lease)
    assert await space.store_of(TWO).restore_leases({lease_id(): A}) == Restored(1, [], [])
    assert await denied(space) is Denial.SATURATED
    await space.store_of(TWO).release(other)
    await acquire(space)


async def test_leases_put_back_on_a_tombstone_keep_it(space: Space) -> None:
    await serve(space)
    await space.remove()
    lease = lease_id()
    assert await space.store.restore_leases({lease: A}) == Restored(1, [], [])
    assert space.raw.pttl(space.keys.replica(A)) == -1
    await space.store.release(lease)
    assert has_departed(space)


async def test_a_lease_put_back_binds_its_session_until_it_ends(space: Space) -> None:
    await serve(space)
    lease, _ = await acquire(space, "anna")
    await space.store.release(lease, affinity_seconds=60)
    await space.store.restore_leases({lease: A})
    assert space.raw.pttl(space.keys.affinity_prefix + "anna") == -1


async def test_after_total_loss_leases_are_gone_until_put_back(space: Space) -> None:
    await serve(space)
    lease, _ = await acquire(space)
    space.raw.delete(*space.dump())
    assert await space.store.acquire(lease) == Denied(Denial.NOT_REGISTERED)
    assert await space.store.restore_leases({lease: A}) is None
    assert (await heartbeat(space)).leases == 0
    assert await space.store.restore_leases({lease: A}) == Restored(0, [], [A])
    await serve(space)
    assert await space.store.restore_leases({lease: A}) == Restored(1, [], [])
    assert isinstance(await space.store.acquire(lease), Grant)
    assert in_flight(space) == 1
