"""Acquiring and releasing: where a session is placed, that no replica takes too many, and where sessions return to."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from shared_registry.leases.ledger import new_lease_id
from shared_registry.model import AdminState
from shared_registry.store.replies import Denial, Denied, Grant
from tests.support.lease_commands import (
    ONE,
    TWO,
    acquire,
    denied,
    held_by,
    in_flight,
    lease_id,
    serve,
)
from tests.support.space import A, B, C, D, E, Space
from tests.support.until import until


async def fill(space: Space, count: int, **how: Any) -> list[str]:
    """Acquire with random ids; return the urls."""
    grants = [await space.store.acquire(new_lease_id(None), **how) for _ in range(count)]
    return [grant.key for grant in grants if isinstance(grant, Grant)]


# --- which replica ---


async def test_a_lease_is_counted_and_recorded_under_its_router(space: Space) -> None:
    await serve(space)
    one, _ = await acquire(space)
    two, _ = await acquire(space, router=TWO)
    assert (held_by(space), held_by(space, TWO)) == ({one: A}, {two: A})
    assert in_flight(space) == 2


async def test_a_lease_goes_to_the_least_loaded_replica(space: Space) -> None:
    await serve(space, A, B, C)
    for _ in range(2):
        await acquire(space, excluded=[B])
    assert (await acquire(space))[1] == B
    assert {url: in_flight(space, url) for url in (A, B, C)} == {A: 1, B: 1, C: 1}


async def test_filling_an_idle_fleet_keeps_it_even_throughout(space: Space) -> None:
    urls = [f"http://10.0.1.{number}:80" for number in range(7)]
    await serve(space, *urls)
    placed: Counter[str] = Counter(dict.fromkeys(urls, 0))
    for _ in range(40):
        placed.update(await fill(space, 1))
        assert max(placed.values()) - min(placed.values()) <= 1


async def test_a_weighted_fleet_stays_within_one_session_of_its_weights(space: Space) -> None:
    weights = {A: 1.0, B: 2.0, C: 3.0, D: 0.5}
    for url, weight in weights.items():
        await serve(space, url, weight=weight)
    placed: Counter[str] = Counter(dict.fromkeys(weights, 0))
    for _ in range(39):
        placed.update(await fill(space, 1))
        level = min(placed[url] / weight for url, weight in weights.items())
        assert all(placed[url] - weight * level <= 1 for url, weight in weights.items())
    assert placed == {A: 6, B: 12, C: 18, D: 3}


async def test_ties_are_spread_evenly_by_the_lease_id(space: Space) -> None:
    await serve(space, A, B, C, D)
    placed: Counter[str] = Counter()
    for tie in range(8):
        lease, url = await acquire(space, tie=tie)
        await space.store.release(lease)
        placed[url] += 1
    assert placed == {A: 2, B: 2, C: 2, D: 2}


@pytest.mark.parametrize("kind", ["avoided", "excluded"])
async def test_ties_are_spread_evenly_over_the_remaining_replicas(space: Space, kind: str) -> None:
    await serve(space, A, B, C, D, E)
    placed: Counter[str] = Counter()
    for tie in range(9):
        lease, url = await acquire(space, tie=tie, **{kind: [B, D]})  # type: ignore[arg-type]  # either takes urls
        await space.store.release(lease)
        placed[url] += 1
    assert placed == {A: 3, C: 3, E: 3}


async def test_the_first_tier_with_room_is_taken(space: Space) -> None:
    await serve(space, A, primary=True, capacity=2)
    await serve(space, B, C)
    first, _ = await acquire(space)
    assert await fill(space, 1) == [A]
    assert sorted(await fill(space, 2)) == [B, C]
    await space.store.release(first)
    assert (await acquire(space))[1] == A


@pytest.mark.parametrize("status", ["unknown", "unhealthy"])
async def test_only_healthy_replicas_are_taken(space: Space, status: str) -> None:
    await space.add()
    if status == "unhealthy":
        await space.make(status)
    assert await denied(space) is Denial.NO_HEALTHY


@pytest.mark.parametrize("admin", [AdminState.DRAINING, AdminState.DISABLED])
async def test_only_active_replicas_are_taken(space: Space, admin: AdminState) -> None:
    await serve(space)
    await space.store.set_admin(A, admin)
    assert await denied(space) is Denial.NO_HEALTHY


async def test_excluded_replicas_are_never_taken(space: Space) -> None:
    await serve(space, A, primary=True)
    await serve(space, B)
    assert (await acquire(space, excluded=[A]))[1] == B
    assert await denied(space, excluded=[A, B]) is Denial.NO_HEALTHY


async def test_avoided_replicas_are_used_only_as_a_last_resort(space: Space) -> None:
    await serve(space, A, primary=True)
    await serve(space, B)
    assert (await acquire(space, avoided=[A]))[1] == B
    assert (await acquire(space, avoided=[A, B]))[1] == A
    assert (await acquire(space, avoided=[A], excluded=[B]))[1] == A


async def test_an_excluded_replica_may_be_named_twice(space: Space) -> None:
    await serve(space, A, B, C)
    assert {(await acquire(space, tie=tie, avoided=[B], excluded=[B]))[1] for tie in range(4)} == {A, C}
    assert await denied(space, avoided=[A, B, C], excluded=[A, B, C]) is Denial.NO_HEALTHY


# --- capacity ---


async def test_capacity_is_exact_however_many_sessions_ask_at_once(space: Space) -> None:
    await serve(space, A, B, C, D, E, capacity=10)
    stores = [space.store, space.store_of(TWO)]
    answers = await asyncio.gather(*(stores[number % 2].acquire(new_lease_id(None)) for number in range(200)))
    granted = Counter(answer.key for answer in answers if isinstance(answer, Grant))
    assert granted == dict.fromkeys((A, B, C, D, E), 10)
    assert [answer for answer in answers if not isinstance(answer, Grant)] == [Denied(Denial.SATURATED)] * 150
    assert space.ready() == (set(), set(), {A, B, C, D, E})


async def test_a_released_slot_can_be_taken_again(space: Space) -> None:
    await serve(space, capacity=1)
    lease, _ = await acquire(space)
    assert await denied(space) is Denial.SATURATED
    await space.store.release(lease)
    await acquire(space, router=TWO)
    assert await denied(space) is Denial.SATURATED


# --- repetition, and who may ask ---


async def test_an_id_sent_again_finds_its_lease(space: Space) -> None:
    """Also if a new lease would go to another replica now."""
    await serve(space, A, capacity=1)
    lease, _ = await acquire(space)
    await serve(space, B)
    await space.store.set_admin(A, AdminState.DISABLED)
    before = space.dump()
    assert await space.store.acquire(lease, excluded=[A]) == Grant(A, space.fields(A)["revision"])
    assert space.dump() == before


async def test_a_router_that_is_not_live_gets_no_lease(space: Space) -> None:
    await serve(space)
    before = space.dump()
    assert await space.store_of("router~9").acquire(lease_id()) == Denied(Denial.NOT_REGISTERED)
    assert space.dump() == before


async def test_a_release_ends_one_lease_exactly_once(space: Space) -> None:
    await serve(space)
    lease, _ = await acquire(space)
    await acquire(space)
    assert await space.store.release(lease) == []
    before = space.dump()
    assert await space.store.release(lease) == []
    assert await space.store.release(lease_id()) == []
    assert space.dump() == before
    assert in_flight(space) == 1


async def test_one_router_cannot_end_another_routers_lease(space: Space) -> None:
    await serve(space)
    lease, _ = await acquire(space)
    await space.store_of(TWO).release(lease)
    assert held_by(space) == {lease: A}


async def test_a_lease_ends_although_its_replicas_count_is_missing(space: Space) -> None:
    """Somebody has deleted the field by hand."""
    await serve(space, A, capacity=2)
    lease = new_lease_id(None)
    assert isinstance(await space.store.acquire(lease), Grant)
    space.raw.hdel(space.keys.replica(A), "in_flight")
    await space.store.set_admin(A, AdminState.DRAINING)
    await space.store.set_admin(A, AdminState.ACTIVE)
    await space.store.release(lease)
    assert held_by(space) == {}
    assert isinstance(await space.store.acquire(new_lease_id(None)), Grant)
    assert in_flight(space, A) == 1


async def test_neither_acquire_nor_release_makes_an_event(space: Space) -> None:
    await serve(space, capacity=1)
    before = space.event_kinds()
    lease, _ = await acquire(space, "anna")
    await space.store.release(lease, affinity_seconds=60)
    assert space.event_kinds() == before


# --- affinity ---


def binding(space: Space, session: str = "anna") -> tuple[str | None, float]:
    """Return where a session is bound, and for how many milliseconds; -1 for as long as it is leased."""
    key = space.keys.affinity_prefix + session
    return space.raw.get(key), space.raw.pttl(key)


async def end(space: Space, session: str = "anna", url: str = A, affinity_seconds: float = 60.0) -> None:
    """Let a session be on a replica, and end."""
    others = {A, B, C} - {url}
    lease, placed = await acquire(space, session, excluded=others)
    assert placed == url
    await space.store.release(lease, affinity_seconds=affinity_seconds)


async def test_a_session_is_bound_while_leased_and_for_some_time(space: Space) -> None:
    """The binding has no expiry while the session has a lease."""
    await serve(space)
    lease, _ = await acquire(space, "anna")
    assert binding(space) == (A, -1)
    await space.store.release(lease, affinity_seconds=60)
    url, left_ms = binding(space)
    assert url == A
    assert 50_000 < left_ms <= 60_000


async def test_a_session_returns_to_a_busier_replica(space: Space) -> None:
    await serve(space, A, B)
    await end(space)
    for _ in range(3):
        await acquire(space, excluded=[B])
    assert (await acquire(space))[1] == B
    assert (await acquire(space, "anna"))[1] == A
    assert binding(space) == (A, -1)


async def test_a_session_returns_even_to_a_later_tier(space: Space) -> None:
    await serve(space, A)
    await serve(space, B, primary=True)
    await end(space)
    assert (await acquire(space, "bert"))[1] == B
    assert (await acquire(space, "anna"))[1] == A


async def test_a_session_without_a_name_is_not_bound(space: Space) -> None:
    await serve(space)
    lease, _ = await acquire(space)
    await space.store.release(lease, affinity_seconds=60)
    assert not list(space.raw.scan_iter(match=space.keys.affinity_prefix + "*", count=1000))


async def test_a_binding_that_has_expired_binds_no_more(space: Space) -> None:
    await serve(space, A, B)
    await end(space, affinity_seconds=0.03)
    await until(lambda: binding(space)[0] is None)
    await acquire(space, excluded=[B])
    assert (await acquire(space, "anna"))[1] == B


async def test_no_affinity_leaves_nothing_behind(space: Space) -> None:
    await serve(space, A)
    await end(space, affinity_seconds=0)
    assert binding(space) == (None, -2)


UNAVAILABLE: dict[str, Callable[[Space], Awaitable[object]]] = {
    "full": lambda space: acquire(space, excluded=[B]),
    "draining": lambda space: space.store.set_admin(A, AdminState.DRAINING),
    "unhealthy": lambda space: space.make("unhealthy", A),
    "removed": lambda space: space.remove(A),
}


@pytest.mark.parametrize("why", UNAVAILABLE)
async def test_a_session_whose_replica_is_unavailable_binds_to_another(space: Space, why: str) -> None:
    await serve(space, A, B, capacity=1)
    await end(space)
    await UNAVAILABLE[why](space)
    assert (await acquire(space, "anna"))[1] == B
    assert binding(space) == (B, -1)


@pytest.mark.parametrize("kind", ["avoided", "excluded"])
async def test_a_session_does_not_return_to_an_excluded_replica(space: Space, kind: str) -> None:
    await serve(space, A, B)
    await end(space)
    assert (await acquire(space, "anna", **{kind: [A]}))[1] == B  # type: ignore[arg-type]  # either takes urls


async def test_two_leases_of_a_session_share_a_replica(space: Space) -> None:
    await serve(space, A, B)
    urls = [(await acquire(space, "anna", tie=1, router=router))[1] for router in (ONE, TWO)]
    assert urls == [B, B]


async def test_the_end_of_an_earlier_lease_keeps_the_later_binding(space: Space) -> None:
    await serve(space, A, B)
    earlier, _ = await acquire(space, "anna", excluded=[B])
    later, _ = await acquire(space, "anna", excluded=[A])
    await space.store.release(earlier, affinity_seconds=60)
    assert binding(space) == (B, -1)
    await space.store.release(later, affinity_seconds=60)
    assert binding(space)[0] == B
