"""The replica of a session with several leases at once: it is remembered while any of them lasts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from shared_registry.store.replies import Departure
from tests.support.lease_commands import ONE, TWO, acquire, heartbeat, lease_id, serve
from tests.support.space import A, B, C, Space

FOREVER = -1
GONE = -2
AFFINITY_SECONDS = 60.0

End = Callable[[Space, str], Awaitable[None]]


async def release(space: Space, lease: str) -> None:
    await space.store.release(lease, affinity_seconds=AFFINITY_SECONDS)


async def forget(space: Space, lease: str) -> None:
    await space.store.release(lease, affinity_seconds=0)


async def leave(space: Space, lease: str) -> None:
    assert await space.store.leave(affinity_seconds=AFFINITY_SECONDS) is Departure.DONE
    await heartbeat(space, ONE)


async def reap(space: Space, lease: str) -> None:
    space.expire_router(ONE)
    assert await space.store_of(TWO).reap(ONE, affinity_seconds=AFFINITY_SECONDS) is Departure.DONE
    await heartbeat(space, ONE)


ENDS = pytest.mark.parametrize("end", [release, forget, leave, reap])


def bound(space: Space, session: str = "anna") -> tuple[str | None, int]:
    """Return the replica that is remembered, and for how many ms."""
    key = space.keys.affinity_prefix + session
    return space.raw.get(key), space.raw.pttl(key)


def several(space: Space, session: str = "anna") -> dict[str, str]:
    counts: dict[str, str] = space.raw.hgetall(space.keys.several_prefix + session)
    return counts


@ENDS
async def test_a_session_stays_bound_while_another_lease_lasts(space: Space, end: End) -> None:
    await serve(space, A, B)
    ours, first = await acquire(space, "anna", tie=1)
    theirs, second = await acquire(space, "anna", router=TWO)
    assert (first, second, several(space)) == (B, B, {B: "2"})
    await end(space, ours)
    assert (bound(space), several(space)) == ((B, FOREVER), {})
    assert (await acquire(space, "anna"))[1] == B
    await reap(space, "")
    await space.store_of(TWO).release(theirs, affinity_seconds=AFFINITY_SECONDS)
    url, left_ms = bound(space)
    assert (url, several(space)) == (B, {})
    assert 0 < left_ms <= AFFINITY_SECONDS * 1000


@ENDS
async def test_a_session_returns_to_where_it_still_runs(space: Space, end: End) -> None:
    await serve(space, A, capacity=1)
    theirs, _ = await acquire(space, "anna", router=TWO)
    await serve(space, B)
    ours, url = await acquire(space, "anna")
    assert (url, bound(space), several(space)) == (B, (B, FOREVER), {A: "1", B: "1"})
    await end(space, ours)
    assert (bound(space), several(space)) == ((A, FOREVER), {})
    await space.store_of(TWO).release(theirs, affinity_seconds=0)
    assert bound(space) == (None, GONE)


async def test_the_newest_replica_is_kept_when_an_older_ends(space: Space) -> None:
    await serve(space, A, capacity=1)
    first, _ = await acquire(space, "anna")
    await serve(space, B)
    second, _ = await acquire(space, "anna")
    await forget(space, first)
    assert (bound(space), several(space)) == ((B, FOREVER), {})
    await forget(space, second)
    assert bound(space) == (None, GONE)


async def test_of_several_replicas_the_one_with_most_leases_follows(space: Space) -> None:
    await serve(space, A, B, C)
    await space.store.restore_leases({lease_id(session="anna"): url for url in (A, B, B)})
    last = lease_id(session="anna")
    await space.store.restore_leases({last: C})
    assert several(space) == {A: "1", B: "2", C: "1"}
    await forget(space, last)
    assert (bound(space), several(space)) == ((B, FOREVER), {A: "1", B: "2"})


async def test_leases_put_back_count_once_each(space: Space) -> None:
    await serve(space, A, B)
    leases = {lease_id(session="anna"): A, lease_id(session="anna"): A}
    for _ in range(2):
        await space.store.restore_leases(leases)
        assert (bound(space), several(space)) == ((A, FOREVER), {A: "2"})
    moved, stayed = leases
    await space.store.restore_leases({moved: B})
    assert (bound(space), several(space)) == ((B, FOREVER), {A: "1", B: "1"})
    await space.store.restore_leases({stayed: B})
    assert several(space) == {B: "2"}
    for _ in range(2):
        await forget(space, moved)
    assert (bound(space), several(space)) == ((B, FOREVER), {})


async def test_a_lone_lease_that_is_moved_is_one_lease(space: Space) -> None:
    await serve(space, A, B)
    lease, url = await acquire(space, "anna")
    elsewhere = B if url == A else A
    await space.store.restore_leases({lease: elsewhere})
    assert (bound(space), several(space)) == ((elsewhere, FOREVER), {})


async def test_hundreds_of_leases_of_one_session_are_reaped(space: Space) -> None:
    await serve(space, A, B)
    kept, _ = await acquire(space, "anna", router=TWO)
    await space.store.restore_leases({lease_id(session="anna"): (A, B)[at % 2] for at in range(600)})
    space.expire_router(ONE)
    departures = [Departure.PARTIAL]
    while departures[-1] is Departure.PARTIAL:
        departures.append(await space.store_of(TWO).reap(ONE, affinity_seconds=AFFINITY_SECONDS))
        assert bound(space)[1] == FOREVER
    (url,) = space.raw.hgetall(space.keys.leases(TWO)).values()
    assert (bound(space), several(space)) == ((url, FOREVER), {})
    await space.store_of(TWO).release(kept)


@pytest.mark.parametrize("is_deleted", [True, False])
@pytest.mark.parametrize("comes_again", [True, False])
async def test_counts_of_an_older_version_are_not_trusted(space: Space, is_deleted: bool, comes_again: bool) -> None:
    """A script that knows nothing of these counts ends a lease: it gives the affinity a time to live, or deletes it."""
    await serve(space, A, B)
    first, url = await acquire(space, "anna")
    left = [(await acquire(space, "anna"))[0]]
    space.raw.hdel(space.keys.leases(ONE), first)
    key = space.keys.affinity_prefix + "anna"
    if is_deleted:
        space.raw.delete(key)
    else:
        space.raw.pexpire(key, 60_000)
    if comes_again:
        left.append((await acquire(space, "anna"))[0])
    for lease in left:
        await forget(space, lease)
    assert (bound(space), several(space)) == ((None, GONE), {})
    await space.store.restore_leases({first: url})  # so that the replica's count is right in the end
    space.raw.hincrby(space.keys.replica(url), "in_flight", -1)
    await forget(space, first)
