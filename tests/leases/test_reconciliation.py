"""What is held and missing is put back, what is nobody's is released, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from shared_registry.errors import KeyConflict, StoreError, StoreUnavailable
from shared_registry.happenings import Emitter
from shared_registry.leases.lease_news import LeaseNews
from shared_registry.leases.ledger import Ledger
from shared_registry.leases.reconciliation import EVERY_SECONDS, RELEASED_AT_ONCE, RESTORED_AT_ONCE, Member, Reconciler
from tests.support.fake_clock import FakeClock
from tests.support.leasing_router import A, B, ScriptedReader, ScriptedStore, hold


@pytest.fixture
def store() -> ScriptedStore:
    return ScriptedStore()


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def reconciler(store: ScriptedStore, ledger: Ledger, clock: FakeClock) -> Reconciler:
    return Reconciler(
        store.as_store(),
        ScriptedReader(store).as_reader(),
        ledger,
        LeaseNews(Emitter(), clock),
        Member("r~1", store.join),
        affinity_seconds=60.0,
        clock=clock,
        rng=random.Random(1),
    )


@pytest.fixture
async def running(reconciler: Reconciler, clock: FakeClock) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.ensure_future(reconciler.run())
    await clock.settle()
    yield task
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


def comparisons(store: ScriptedStore) -> int:
    return store.calls.count("leases")


async def test_without_a_difference_no_lease_is_written(
    reconciler: Reconciler, store: ScriptedStore, ledger: Ledger
) -> None:
    for lease_id in "abcde":
        hold(ledger, lease_id)
        store.leases[lease_id] = A
    await reconciler.reconcile()
    assert store.calls == ["leases"]


async def test_missing_leases_are_put_back_and_orphaned_leases_released(
    reconciler: Reconciler, store: ScriptedStore, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    for lease_id in "abc":
        hold(ledger, lease_id)
    store.leases = {"a": A, "x": A, "y": B, "z": B}
    await reconciler.reconcile()
    assert store.leases == dict.fromkeys("abc", A)
    assert store.restored == [{"b": A, "c": A}]
    assert sorted(store.released) == ["x", "y", "z"]
    assert caplog.messages == ["placement: put back 2 leases that Redis did not have"]


async def test_a_lease_recorded_on_another_replica_is_moved(
    reconciler: Reconciler, store: ScriptedStore, ledger: Ledger
) -> None:
    hold(ledger, "a", B)
    store.leases = {"a": A}
    await reconciler.reconcile()
    assert (store.leases, store.released) == ({"a": B}, [])


async def test_leases_being_acquired_or_ended_are_not_orphaned(
    reconciler: Reconciler, store: ScriptedStore, ledger: Ledger
) -> None:
    ledger.ask("acquiring")
    for lease_id in ("being told", "untold"):
        hold(ledger, lease_id)
        ledger.begin_end(lease_id)
    ledger.fail_to_end("untold")
    ledger.ask("given up")
    ledger.give_up("given up")
    store.leases = dict.fromkeys(("acquiring", "being told", "untold", "given up"), A)
    await reconciler.reconcile()
    assert store.leases == {"acquiring": A, "being told": A}
    assert ledger.ending == []


async def test_a_waiter_of_no_known_session_leaves_the_queue(
    reconciler: Reconciler, store: ScriptedStore, ledger: Ledger
) -> None:
    """As after a cancelled acquire whose end Redis never received, when the id is no longer known."""
    ledger.ask("waiting")
    ledger.ask("given up")
    ledger.give_up("given up")
    store.waiting = [("r~2", "x"), ("r~1", "x"), ("r~1", "waiting"), ("r~1", "given up"), ("r~10", "y")]
    await reconciler.reconcile()
    assert store.waiting == [("r~2", "x"), ("r~1", "waiting"), ("r~10", "y")]
    assert sorted(store.released) == ["given up", "x"]
    assert ledger.ending == []


async def test_a_waiter_that_already_has_a_lease_stays(
    reconciler: Reconciler, store: ScriptedStore, ledger: Ledger
) -> None:
    """Putting the lease back takes it out of the queue."""
    hold(ledger, "a")
    store.waiting = [("r~1", "a")]
    await reconciler.reconcile()
    assert (store.leases, store.released) == ({"a": A}, [])


async def test_each_page_is_compared_with_what_is_known_then(
    reconciler: Reconciler, store: ScriptedStore, ledger: Ledger
) -> None:
    """A lease that is acquired while the leases are paged is on a later page."""
    store.leases = {"x": A, "y": A, "new": A}

    async def acquire(call: str) -> None:
        if not ledger.knows("new"):
            hold(ledger, "new")

    store.during = acquire  # type: ignore[method-assign]
    await reconciler.reconcile()
    assert store.leases == {"new": A}
    assert store.restored == []


async def test_many_leases_are_put_back_in_pieces(reconciler: Reconciler, store: ScriptedStore, ledger: Ledger) -> None:
    for number in range(2 * RESTORED_AT_ONCE + 1):
        hold(ledger, str(number))
    await reconciler.reconcile()
    assert [len(piece) for piece in store.restored] == [RESTORED_AT_ONCE, RESTORED_AT_ONCE, 1]
    assert len(store.leases) == 2 * RESTORED_AT_ONCE + 1


async def test_a_release_begun_during_a_put_back_is_sent_again(
    reconciler: Reconciler, store: ScriptedStore, ledger: Ledger
) -> None:
    hold(ledger, "a")
    hold(ledger, "b")

    async def release(call: str) -> None:
        if call == "restore_leases":
            ledger.begin_end("a")
            store.leases.pop("a", None)
            ledger.end("a")

    store.during = release  # type: ignore[method-assign]
    await reconciler.reconcile()
    assert store.leases == {"b": A}


async def test_a_lease_that_ended_during_the_reading_stays_ended(
    reconciler: Reconciler, store: ScriptedStore, ledger: Ledger
) -> None:
    hold(ledger, "a")
    store.leases = {"x": B}

    async def release(call: str) -> None:
        ledger.begin_end("a")
        ledger.end("a")

    store.during = release  # type: ignore[method-assign]
    await reconciler.reconcile()
    assert (store.leases, store.restored) == ({}, [])


async def test_a_reaped_router_joins_before_it_puts_leases_back(
    reconciler: Reconciler, store: ScriptedStore, ledger: Ledger
) -> None:
    hold(ledger, "a")
    store.is_registered = False
    await reconciler.reconcile()
    assert (store.joins, store.leases) == (1, {"a": A})


async def test_a_router_that_cannot_join_reports_it(
    reconciler: Reconciler, store: ScriptedStore, ledger: Ledger
) -> None:
    hold(ledger, "a")
    store.is_registered = False

    async def join() -> None:
        store.joins += 1

    reconciler._join = join
    with pytest.raises(StoreUnavailable, match="not among the live ones"):
        await reconciler.reconcile()
    assert store.joins == 1


async def test_replicas_over_their_capacity_are_reported(
    reconciler: Reconciler, store: ScriptedStore, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = hold(ledger, "a"), hold(ledger, "b", B)
    store.full = {B}
    await reconciler.reconcile()
    assert (a.is_contested, b.is_contested) == (False, True)
    store.full = set()
    await reconciler.reconcile()
    assert b.is_contested
    assert caplog.messages[1:] == [
        f"placement: {B} has more sessions than its capacity after leases were put back",
    ]


async def test_an_excess_is_reported_once_the_answer_comes(
    reconciler: Reconciler, store: ScriptedStore, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    a = hold(ledger, "a")
    hold(ledger, "b")
    store.full, store.answers_are_lost = {A}, True
    with pytest.raises(StoreError):
        await reconciler.reconcile()
    assert (store.leases, caplog.messages, a.is_contested) == ({"a": A, "b": A}, [], False)
    ledger.begin_end("b")
    store.answers_are_lost = False
    await reconciler.reconcile()
    assert a.is_contested
    assert caplog.messages == [f"placement: {A} has more sessions than its capacity after leases were put back"]
    assert store.restored[1:] == [{"a": A}]
    await reconciler.reconcile()
    assert len(store.restored) == 2


async def test_leases_on_replicas_missing_in_redis_do_not_count(
    reconciler: Reconciler, store: ScriptedStore, ledger: Ledger
) -> None:
    hold(ledger, "a")
    hold(ledger, "b", B)
    store.unknown = {B}
    await reconciler.reconcile()
    assert (store.leases, ledger.unconfirmed) == ({"a": A}, {"b"})
    store.unknown = set()
    await reconciler.reconcile()
    assert (store.leases, ledger.unconfirmed) == ({"a": A, "b": B}, set())


async def test_a_degraded_lease_found_in_redis_is_confirmed(
    reconciler: Reconciler, store: ScriptedStore, ledger: Ledger
) -> None:
    hold(ledger, "a", is_degraded=True)
    store.leases = {"a": A}
    await reconciler.reconcile()
    assert ledger.unconfirmed == set()


async def test_leases_are_compared_once_a_minute(
    running: asyncio.Task[None], store: ScriptedStore, clock: FakeClock
) -> None:
    await clock.advance(EVERY_SECONDS - 0.1)
    assert comparisons(store) == 0
    await clock.advance(0.2)
    assert comparisons(store) == 1
    store.leases = {"x": A}
    await clock.advance(EVERY_SECONDS)
    assert (comparisons(store), store.leases) == (2, {})


async def test_requests_to_compare_are_met_at_once_and_together(
    running: asyncio.Task[None], reconciler: Reconciler, store: ScriptedStore, clock: FakeClock
) -> None:
    for _ in range(5):
        reconciler.ask()
    await clock.advance()
    assert comparisons(store) == 1
    await clock.advance(EVERY_SECONDS / 2)
    assert comparisons(store) == 1


async def test_an_end_is_sent_without_comparing(
    running: asyncio.Task[None], reconciler: Reconciler, store: ScriptedStore, ledger: Ledger, clock: FakeClock
) -> None:
    store.leases = {"x": A}
    for lease_id in "ab":
        ledger.ask(lease_id)
        store.waiting.append(("r~1", lease_id))
        ledger.give_up(lease_id)
        reconciler.ask_to_end()
    await clock.advance()
    assert store.calls == ["release", "release"]
    assert (store.waiting, store.leases, ledger.ending) == ([], {"x": A}, [])
    await clock.advance(EVERY_SECONDS - 1)
    assert len(store.calls) == 2
    await clock.advance(1)
    assert (comparisons(store), store.leases) == (1, {})


async def test_an_end_that_failed_is_sent_later_without_comparing(
    running: asyncio.Task[None], reconciler: Reconciler, store: ScriptedStore, ledger: Ledger, clock: FakeClock
) -> None:
    ledger.ask("a")
    store.waiting = [("r~1", "a")]
    ledger.give_up("a")
    store.errors["release"] = [StoreUnavailable("away")] * 3
    reconciler.ask_to_end()
    await clock.advance(5)
    assert store.calls == ["release"] * 4
    assert (store.waiting, ledger.ending) == ([], [])


async def test_in_doubt_leases_are_compared_even_after_an_end(
    running: asyncio.Task[None], reconciler: Reconciler, store: ScriptedStore, ledger: Ledger, clock: FakeClock
) -> None:
    ledger.ask("a")
    ledger.give_up("a")
    store.leases = {"a": A, "x": A}
    reconciler.ask()
    reconciler.ask_to_end()
    await clock.advance()
    assert (comparisons(store), store.leases) == (1, {})
    ledger.ask("b")
    ledger.give_up("b")
    reconciler.ask_to_end()
    await clock.advance()
    assert (comparisons(store), ledger.ending) == (1, [])


async def test_a_doubt_while_an_end_waits_leads_to_comparing(
    running: asyncio.Task[None], reconciler: Reconciler, store: ScriptedStore, clock: FakeClock
) -> None:
    store.leases = {"x": A}
    is_comparing = asyncio.Event()

    async def hang(call: str) -> None:
        is_comparing.set()
        if comparisons(store) == 1:
            await asyncio.Event().wait()

    store.during = hang  # type: ignore[method-assign]
    other = asyncio.create_task(reconciler.reconcile())
    await is_comparing.wait()
    reconciler.ask_to_end()
    await clock.settle()
    other.cancel()
    await asyncio.wait([other])
    await clock.advance()
    assert (comparisons(store), store.leases) == (2, {})


async def test_a_cancelled_end_is_requested_again(
    reconciler: Reconciler, store: ScriptedStore, ledger: Ledger, clock: FakeClock
) -> None:
    ledger.ask("a")
    ledger.give_up("a")
    store.errors["release"] = [StoreUnavailable("away")]
    task = asyncio.create_task(reconciler.run())
    reconciler.ask_to_end()
    await clock.settle()
    task.cancel()
    await asyncio.wait([task])
    assert reconciler._is_asked.is_set()


async def test_a_request_during_a_comparison_leads_to_another_one(
    running: asyncio.Task[None], reconciler: Reconciler, store: ScriptedStore, clock: FakeClock
) -> None:
    store.leases = {"x": A}

    async def ask(call: str) -> None:
        if comparisons(store) == 1:
            reconciler.ask()

    store.during = ask  # type: ignore[method-assign]
    reconciler.ask()
    await clock.advance()
    assert comparisons(store) == 2


async def test_a_failing_comparison_is_retried_with_pauses_and_logged_once(
    running: asyncio.Task[None],
    reconciler: Reconciler,
    store: ScriptedStore,
    clock: FakeClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for _ in range(2):
        store.calls.clear()
        store.errors["leases"] = [StoreUnavailable("away")] * 100
        reconciler.ask()
        await clock.advance(20)
        assert 20 <= comparisons(store) <= 60
        store.errors.clear()
        store.leases = {"x": A}
        await clock.advance(1)
        assert store.leases == {}
    assert caplog.messages == ["placement: leases cannot be compared: away"] * 2


@pytest.mark.parametrize("call", ["restore_leases", "release"])
async def test_a_comparison_that_fails_halfway_is_completed_next_time(
    running: asyncio.Task[None],
    reconciler: Reconciler,
    store: ScriptedStore,
    ledger: Ledger,
    clock: FakeClock,
    call: str,
) -> None:
    hold(ledger, "a")
    store.leases = {"x": B}
    store.errors[call] = [StoreUnavailable("away")]
    reconciler.ask()
    await clock.advance(1)
    assert store.leases == {"a": A}


async def test_a_cancelled_comparison_is_requested_again(
    reconciler: Reconciler, store: ScriptedStore, ledger: Ledger
) -> None:
    store.leases = {"x": A}
    gate = asyncio.Event()

    async def wait(call: str) -> None:
        await gate.wait()

    store.during = wait  # type: ignore[method-assign]
    task = asyncio.create_task(reconciler.reconcile())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert reconciler._is_asked.is_set()


async def test_a_lease_that_cannot_be_put_back_blocks_no_other(
    reconciler: Reconciler, store: ScriptedStore, ledger: Ledger
) -> None:
    for lease_id in "abc":
        hold(ledger, lease_id, is_degraded=True)
    conflict = KeyConflict("a key holds something else")
    store.errors["restore_leases"] = [conflict, conflict]
    await reconciler.put_back_unrecorded()
    assert (len(store.leases), ledger.unrecorded, len(ledger.unconfirmed)) == (2, set(), 1)
    await reconciler.reconcile()
    assert store.leases.keys() == set("abc")
    assert ledger.unconfirmed == set()


async def test_callers_waiting_for_a_put_back_share_one_attempt(
    reconciler: Reconciler, store: ScriptedStore, ledger: Ledger
) -> None:
    hold(ledger, "a", is_degraded=True)
    store.errors["restore_leases"] = [StoreUnavailable("away")]
    waiting = [asyncio.ensure_future(reconciler.put_back_unrecorded()) for _ in range(5)]
    await asyncio.gather(*waiting, return_exceptions=True)
    assert store.calls.count("restore_leases") == 1
    assert all(isinstance(one.exception(), StoreUnavailable) for one in waiting)
    assert ledger.unrecorded == {"a"}


async def test_a_slot_is_freed_once_its_next_lease_is_recorded(
    reconciler: Reconciler, store: ScriptedStore, ledger: Ledger
) -> None:
    hold(ledger, "old")
    store.leases = {"old": A}
    ledger.begin_end("old")
    hold(ledger, "new", is_degraded=True)
    store.errors["restore_leases"] = [StoreUnavailable("away")]
    with pytest.raises(StoreUnavailable):
        await reconciler._release_all(["old"])
    assert (store.released, store.leases) == ([], {"old": A})
    await reconciler._release_all(["old"])
    assert store.leases == {"new": A}


async def test_many_leases_are_released_a_few_at_a_time(
    reconciler: Reconciler, store: ScriptedStore, ledger: Ledger
) -> None:
    store.leases = {str(number): A for number in range(100)}
    store.page_size = 100
    under_way, most = 0, 0

    async def count(call: str) -> None:
        nonlocal under_way, most
        if call == "release":
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0)
            under_way -= 1

    store.during = count  # type: ignore[method-assign]
    await reconciler.reconcile()
    assert (store.leases, most, len(store.released)) == ({}, RELEASED_AT_ONCE, 100)


async def test_putting_leases_back_does_not_wait_for_releases(
    running: asyncio.Task[None], reconciler: Reconciler, store: ScriptedStore, ledger: Ledger, clock: FakeClock
) -> None:
    store.leases = {"x": A}

    async def hang(call: str) -> None:
        if call == "release":
            await asyncio.Event().wait()

    store.during = hang  # type: ignore[method-assign]
    reconciler.ask()
    await clock.settle()
    hold(ledger, "a")
    async with asyncio.timeout(5):
        await reconciler.put_back()
    assert store.leases == {"x": A, "a": A}


async def test_one_damaged_session_keeps_no_other_slot(
    reconciler: Reconciler, store: ScriptedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, many = store.release, [f"x{number:03}" for number in range(3 * RELEASED_AT_ONCE)]

    async def refuse_the_first(lease_id: str, **options: bool) -> object:
        if lease_id == many[0]:
            raise KeyConflict("its affinity is a list")
        await asyncio.sleep(0)
        return await release(lease_id, **options)

    monkeypatch.setattr(store, "release", refuse_the_first)
    store.leases = dict.fromkeys(many, A)
    with pytest.raises(KeyConflict):
        await reconciler.reconcile()
    assert store.leases == {many[0]: A}
