"""In a panic a session that finds no slot of a healthy replica gets one of another: which, how often, and when not."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Collection

import pytest

from shared_registry.admin.check import find_violations
from shared_registry.leases.ledger import new_lease_id
from shared_registry.model import AdminState
from shared_registry.store.replies import Denial, Denied, Grant, Queued
from tests.support.lease_commands import EXPIRY_SECONDS, ONE, TWO, held_by, in_flight, lease_id, serve
from tests.support.space import THRESHOLDS, A, B, C, D, Space, info

HOUR_MS = 3_600_000
NEEDS_HEALTHY = "~healthy"


async def beat(space: Space, percent: float = 50.0, router: str = ONE) -> None:
    await space.store_of(router).heartbeat(info(router), expiry_seconds=EXPIRY_SECONDS, panic_percent=percent)


async def fail(space: Space, *urls: str, **spec: object) -> None:
    """Register replicas that were healthy, and are not any more."""
    await serve(space, *urls, **spec)
    for url in urls:
        await space.make("unhealthy", url)


async def grant(
    space: Space,
    session: str = "",
    *,
    tie: int = 0,
    excluded: Collection[str] = (),
    avoided: Collection[str] = (),
    max_queue: int = 0,
    router: str = ONE,
) -> Grant:
    answer = await space.store_of(router).acquire(
        lease_id(tie, session), excluded=excluded, avoided=avoided, max_queue=max_queue
    )
    assert isinstance(answer, Grant), answer
    return answer


async def refusal(space: Space, *, excluded: Collection[str] = (), takes_spare: bool = True) -> Denial:
    answer = await space.store.acquire(lease_id(), excluded=excluded, takes_spare=takes_spare)
    assert isinstance(answer, Denied), answer
    return answer.reason


async def wait(
    space: Space, *, takes_spare: bool = True, mark: str = "", sequence: str = "", max_queue: int = 99
) -> str:
    waiter = lease_id() + mark
    answer = await space.store.acquire(waiter, max_queue=max_queue, takes_spare=takes_spare, sequence=sequence)
    assert isinstance(answer, Queued), answer
    return waiter


def answered(space: Space, url: str, ago_ms: int) -> None:
    """Let a replica have answered its last probe so long ago."""
    at = space.now_ms() - ago_ms
    space.raw.hset(space.keys.replica(url), "last_ok_at_ms", at)
    space.raw.zadd(space.keys.spare_answered, {url: at})


def spares(space: Space) -> tuple[set[str], set[str]]:
    """Return what is in the two spare sets."""
    found = [set(space.raw.zrange(key, 0, -1)) for key in (space.keys.spare_primary, space.keys.spare_secondary)]
    return found[0], found[1]


# --- which replica ---


async def test_healthy_replicas_with_room_come_first(space: Space) -> None:
    await beat(space)
    await fail(space, A, B, C, primary=True)
    await serve(space, D, capacity=2)
    assert [(await grant(space)).key for _ in range(2)] == [D, D]
    third = await grant(space)
    assert third.key in (A, B, C)
    assert third.is_spare
    assert in_flight(space, third.key) == 1


async def test_the_least_loaded_of_the_first_tier_is_taken(space: Space) -> None:
    await beat(space)
    await fail(space, A, primary=True, weight=2.0, capacity=4)
    await fail(space, B, primary=True, capacity=4)
    await fail(space, C)
    placed = Counter([(await grant(space)).key for _ in range(9)])
    assert placed == {A: 4, B: 4, C: 1}


async def test_ties_are_spread_evenly(space: Space) -> None:
    await beat(space)
    await fail(space, A, B, C, D)
    placed: Counter[str] = Counter()
    for tie in range(8):
        given = lease_id(tie)
        answer = await space.store.acquire(given)
        assert isinstance(answer, Grant)
        placed[answer.key] += 1
        await space.store.release(given)
    assert placed == {A: 2, B: 2, C: 2, D: 2}


async def test_a_named_session_returns_to_its_replica(space: Space) -> None:
    await beat(space)
    await fail(space, A, B, C)
    first = await grant(space, "anna", tie=1)
    for _ in range(4):
        await grant(space, excluded=[one for one in (A, B, C) if one != first.key])
    assert (await grant(space, "anna", tie=2)).key == first.key


async def test_excluded_replicas_are_not_taken_and_avoided_ones_last(space: Space) -> None:
    await beat(space)
    await fail(space, A, B)
    assert (await grant(space, excluded=[A])).key == B
    assert {(await grant(space, avoided=[A])).key for _ in range(3)} == {B}
    assert (await grant(space, avoided=[A, B], excluded=[B])).key == A
    assert await refusal(space, excluded=[A, B]) is Denial.NO_HEALTHY


async def test_one_with_room_that_is_excluded_counts_as_none(space: Space) -> None:
    await beat(space)
    await fail(space, A, B, C)
    await serve(space, D)
    answer = await grant(space, excluded=[D], max_queue=9)
    assert answer.is_spare


@pytest.mark.parametrize("admin", [AdminState.DRAINING, AdminState.DISABLED])
async def test_only_active_replicas_are_taken(space: Space, admin: AdminState) -> None:
    await beat(space)
    await fail(space, A)
    await space.store.set_admin(A, admin)
    assert spares(space) == (set(), set())
    assert await refusal(space) is Denial.NO_HEALTHY
    await space.store.set_admin(A, AdminState.ACTIVE)
    assert (await grant(space)).key == A


async def test_a_removed_replica_is_not_taken(space: Space) -> None:
    await beat(space)
    await fail(space, A)
    await space.remove(A)
    assert await refusal(space) is Denial.NO_HEALTHY


async def test_a_replica_that_never_answered_is_not_taken(space: Space) -> None:
    await beat(space)
    await space.add(A)
    await space.add(B)
    await space.make("unhealthy", B)
    assert spares(space) == (set(), set())
    assert await refusal(space) is Denial.NO_HEALTHY


async def test_a_replica_that_heals_leaves_the_spare_sets(space: Space) -> None:
    await beat(space)
    await fail(space, A)
    await space.make("healthy", A)
    assert spares(space) == (set(), set())
    assert not (await grant(space)).is_spare


async def test_without_a_percentage_nobody_gets_one(space: Space) -> None:
    await fail(space, A, B)
    for percent in (None, 0.0):
        if percent is not None:
            await beat(space, percent)
        assert await refusal(space) is Denial.NO_HEALTHY
    await beat(space, 0.1)
    assert (await grant(space)).is_spare


async def test_who_needs_a_healthy_one_gets_no_other(space: Space) -> None:
    await beat(space)
    await fail(space, A)
    assert await refusal(space, takes_spare=False) is Denial.NO_HEALTHY


# --- the share ---


@pytest.mark.parametrize(("percent", "is_panic"), [(50.0, False), (50.1, True), (100.0, True), (33.3, False)])
async def test_panic_begins_below_the_share(space: Space, percent: float, is_panic: bool) -> None:
    await beat(space, percent)
    await serve(space, A, B, capacity=1)
    await fail(space, C, D)
    for _ in range(2):
        assert not (await grant(space)).is_spare
    if is_panic:
        assert (await grant(space)).is_spare
    else:
        assert await refusal(space) is Denial.SATURATED


async def test_those_at_capacity_count_too(space: Space) -> None:
    """Else the last of four that failed would seem to be one of two."""
    await beat(space)
    await serve(space, A, capacity=1)
    await fail(space, B, C, D, capacity=1)
    assert [(await grant(space)).is_spare for _ in range(4)] == [False, True, True, True]
    assert await refusal(space) is Denial.SATURATED


async def test_those_that_have_been_dead_for_long_do_not_count(space: Space) -> None:
    await beat(space)
    await serve(space, A, capacity=1)
    await fail(space, B, C, D)
    for url in (B, C):
        answered(space, url, HOUR_MS + 1000)
    await grant(space)
    assert await refusal(space) is Denial.SATURATED
    answered(space, C, HOUR_MS - 60_000)
    assert (await grant(space)).is_spare


# --- an hour that passes ---


async def test_a_replica_whose_hour_has_passed_is_dropped_when_met(space: Space) -> None:
    await beat(space)
    await fail(space, A, B)
    answered(space, A, HOUR_MS + 1000)
    assert A in spares(space)[1]
    assert await find_violations(space.reader, space.keys) == []
    assert {(await grant(space, tie=tie)).key for tie in range(4)} == {B}
    assert spares(space) == (set(), {B})
    assert space.raw.zscore(space.keys.spare_answered, A) is None


async def test_a_release_does_not_bring_it_back(space: Space) -> None:
    await beat(space)
    await fail(space, A, B)
    given = lease_id()
    await space.store.acquire(given, excluded=[B])
    await grant(space, excluded=[A])
    answered(space, A, HOUR_MS + 1000)
    assert [(await grant(space)).key for _ in range(2)] == [B, B]
    assert spares(space) == (set(), {B})
    await space.store.release(given)
    assert spares(space) == (set(), {B})


async def test_an_answer_brings_it_back(space: Space) -> None:
    """One success does not make it healthy."""
    await beat(space)
    await fail(space, A)
    answered(space, A, HOUR_MS + 1000)
    assert await refusal(space) is Denial.NO_HEALTHY
    await space.store.record_outcome(space.success(A), THRESHOLDS)
    assert space.fields(A)["status"] == "unhealthy"
    assert (await grant(space)).is_spare


async def test_many_whose_hour_has_passed_are_dropped_in_pieces(space: Space) -> None:
    await beat(space)
    urls = [f"http://10.9.0.{number}:80" for number in range(150)]
    await fail(space, A)
    await space.store.acquire(lease_id())
    at = space.now_ms() - HOUR_MS - 1000
    space.raw.zadd(space.keys.spare_secondary, dict.fromkeys(urls, 0))
    space.raw.zadd(space.keys.spare_answered, dict.fromkeys(urls, at))
    refused = 0
    while isinstance(await space.store.acquire(lease_id()), Denied):
        refused += 1
    assert refused == 2
    assert spares(space) == (set(), {A})


# --- capacity ---


async def test_capacity_is_exact_however_many_ask_at_once(space: Space) -> None:
    urls = [f"http://10.0.2.{number}:80" for number in range(10)]
    await beat(space)
    await beat(space, router=TWO)
    await fail(space, *urls, capacity=10)
    stores = [space.store, space.store_of(TWO)]
    answers = await asyncio.gather(*(stores[number % 2].acquire(new_lease_id(None)) for number in range(500)))
    granted = Counter(answer.key for answer in answers if isinstance(answer, Grant))
    assert granted == dict.fromkeys(urls, 10)
    assert {answer.reason for answer in answers if isinstance(answer, Denied)} == {Denial.NO_HEALTHY}


async def test_a_slot_that_is_released_is_given_again(space: Space) -> None:
    await beat(space)
    await fail(space, A, capacity=1)
    given = lease_id()
    assert isinstance(await space.store.acquire(given), Grant)
    assert spares(space) == (set(), set())
    await space.store.release(given)
    assert (await grant(space)).key == A


async def test_leases_that_were_held_count_when_a_replica_fails(space: Space) -> None:
    await beat(space)
    await serve(space, A, B, capacity=2)
    for _ in range(3):
        await grant(space)
    for url in (A, B):
        await space.make("unhealthy", url)
    assert (await grant(space)).is_spare
    assert await refusal(space) is Denial.NO_HEALTHY


# --- the queue ---


async def test_who_waits_is_served_when_panic_begins(space: Space) -> None:
    await beat(space)
    await serve(space, A, B, C, capacity=1)
    for _ in range(3):
        await grant(space)
    waiting = [await wait(space) for _ in range(2)]
    await space.add(D, capacity=1)
    await space.make("healthy", D)
    assert held_by(space)[waiting[0]] == D
    for url in (A, B, C):
        space.raw.hset(space.keys.replica(url), "capacity", 2)
    await space.make("unhealthy", A)
    assert waiting[1] not in held_by(space)
    await space.make("unhealthy", B)
    assert waiting[1] not in held_by(space)
    await space.make("unhealthy", C)
    assert waiting[1] in held_by(space)
    last = space.raw.xrevrange(space.keys.inbox(ONE), count=1)[0][1]
    assert (last["lease_id"], last["is_spare"]) == (waiting[1], "1")


async def test_who_waits_is_served_at_a_heartbeat(space: Space) -> None:
    await beat(space, 0.0)
    await fail(space, A)
    waiting = await wait(space)
    await beat(space, 50.0)
    assert held_by(space) == {waiting: A}


async def test_one_that_needs_a_healthy_replica_holds_up_nobody(space: Space) -> None:
    await beat(space)
    await fail(space, A, capacity=2)
    strict = [await wait(space, takes_spare=False, mark=NEEDS_HEALTHY) for _ in range(2)]
    newcomer = await grant(space)
    assert newcomer.is_spare
    assert await refusal(space, takes_spare=False) is Denial.NO_HEALTHY
    await serve(space, B, capacity=1)
    assert held_by(space)[strict[0]] == B
    assert space.raw.zrange(space.keys.queue, 0, -1) == [f"{ONE}/{strict[1]}"]


async def test_any_number_that_need_healthy_replicas_hold_up_nobody(space: Space) -> None:
    """Scripts together look past them, and look at them again once a healthy replica has room."""
    await beat(space)
    await fail(space, A, capacity=1)
    taken = await grant(space)
    assert taken.is_spare
    [given] = held_by(space)
    strict = [await wait(space, takes_spare=False, mark=NEEDS_HEALTHY, max_queue=2000) for _ in range(1100)]
    willing = await wait(space, max_queue=2000)
    await space.store.release(given)
    for _ in range(4):
        await beat(space)
    assert held_by(space) == {willing: A}
    await serve(space, B, capacity=1)
    assert held_by(space)[strict[0]] == B


async def test_a_newcomer_passes_nobody_who_would_take_what_it_takes(space: Space) -> None:
    await beat(space)
    await fail(space, A, capacity=1)
    given = lease_id()
    await space.store.acquire(given)
    waiting = await wait(space)
    space.raw.hset(space.keys.replica(A), "capacity", 2)
    await space.store.release(given)
    assert waiting in held_by(space)
    assert (await grant(space)).is_spare


async def test_a_session_that_cannot_use_its_slot_keeps_its_position(space: Space) -> None:
    await beat(space)
    await fail(space, A, capacity=1)
    given = lease_id()
    answer = await space.store.acquire(given, max_queue=99)
    assert isinstance(answer, Grant)
    later = await wait(space, takes_spare=False, mark=NEEDS_HEALTHY)
    await space.store.release(given)
    back = await wait(space, takes_spare=False, mark=NEEDS_HEALTHY, sequence=answer.sequence, max_queue=1)
    line = space.raw.zrange(space.keys.queue, 0, -1, withscores=True)
    assert [waiter for waiter, _ in line] == [f"{ONE}/{back}", f"{ONE}/{later}"]
    assert line[0][1] == int(answer.sequence)


async def test_who_need_not_wait_has_no_place(space: Space) -> None:
    await beat(space)
    await fail(space, A)
    assert (await grant(space)).sequence == ""
    assert not space.raw.hexists(space.keys.meta, "queue_sequence")


async def test_a_lost_reply_costs_nothing(space: Space) -> None:
    await beat(space)
    await fail(space, A)
    given = lease_id()
    first = await space.store.acquire(given, max_queue=99)
    again = await space.store.acquire(given, max_queue=99)
    assert isinstance(first, Grant)
    assert again == Grant(first.key, first.revision, is_spare=True)
    assert in_flight(space) == 1


# --- what is not in order ---


async def test_a_replica_in_the_wrong_set_is_moved(space: Space) -> None:
    """As after a router of a version that does not know these sets has changed a status."""
    await beat(space)
    await fail(space, A, B)
    await serve(space, C, D, capacity=1)
    for _ in range(2):
        await grant(space)
    await space.make("unhealthy", D)
    space.raw.zadd(space.keys.spare_secondary, {C: -1, "http://never": -2})
    assert (await grant(space)).key in (A, B)
    assert spares(space) == (set(), {A, B})
    assert await find_violations(space.reader, space.keys) == []


async def test_check_and_repair_know_the_spare_sets(space: Space) -> None:
    await fail(space, A, primary=True)
    await fail(space, B)
    right = space.dump()
    space.raw.zadd(space.keys.spare_secondary, {A: 0})
    space.raw.zrem(space.keys.spare_secondary, B)
    space.raw.zadd(space.keys.spare_answered, {B: 1, "http://x": 2})
    found = await find_violations(space.reader, space.keys)
    assert {(violation.rule, violation.url) for violation in found} == {
        ("ready", A),
        ("ready", B),
        ("ready", "http://x"),
    }
    assert await space.store.repair(loads=dict.fromkeys([A, B, "http://x"]), routers=[], first_event="", by="me") == 3
    sets = (space.keys.spare_primary, space.keys.spare_secondary, space.keys.spare_answered)
    assert {key: value for key, value in space.dump().items() if key in sets} == {
        key: value for key, value in right.items() if key in sets
    }


async def test_a_newcomer_takes_nothing_before_a_long_queue_is_served(space: Space) -> None:
    """One script serves so many; those that are left come first."""
    await beat(space, 100.0)
    await fail(space, A)
    await serve(space, B, capacity=5)
    ids = [lease_id() for _ in range(17)]
    space.raw.zadd(space.keys.queue, {f"{ONE}/{one}": number + 1 for number, one in enumerate(ids)})
    assert await refusal(space) is Denial.SATURATED
    assert Counter(held_by(space).values()) == {A: 11, B: 5}
    assert (await grant(space)).is_spare
    assert len(held_by(space)) == 18


async def test_placing_on_healthy_replicas_makes_no_call_for_this(space: Space) -> None:
    """As many calls within Redis as without spare sets, however many replicas are in these."""
    await beat(space)
    await serve(space, A, capacity=3)
    await fail(space, B, C, D)
    space.raw.config_resetstat()
    for session, calls in (("", 15), ("anna", 24), ("", 20)):
        assert await calls_of(space, space.store.acquire(lease_id(0, session))) <= calls
    given = next(iter(held_by(space)))
    assert await calls_of(space, space.store.release(given)) <= 12


async def calls_of(space: Space, work: Awaitable[object]) -> int:
    """Return how many commands a script ran."""
    space.raw.config_resetstat()
    await work
    stats = space.raw.info("commandstats")
    names = {name: entry["calls"] for name, entry in stats.items()}
    return sum(
        calls
        for name, calls in names.items()
        if not name.startswith(("cmdstat_config", "cmdstat_eval", "cmdstat_info"))
    )
