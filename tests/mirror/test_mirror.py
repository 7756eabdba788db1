"""The mirror equals the shared state: it loads, follows, notices what it missed, and outlives an outage."""

from __future__ import annotations

import asyncio
import logging

import pytest

from shared_registry.errors import KeyConflict, StoreError, StoreRefused, StoreUnavailable
from shared_registry.model import ORIGIN, AdminState, ReplicaStatus
from tests.support.fake_clock import FakeClock
from tests.support.mirroring_router import REFRESH, MirroringRouter, following
from tests.support.scripted_reader import History, url_of


async def test_before_the_first_read_the_view_is_empty(clock: FakeClock, history: History) -> None:
    router = MirroringRouter(clock, history, max_staleness=1.0)
    assert router.mirror.revision == ORIGIN
    assert not router.is_stale()
    router.mirror.apply_reply([], 0)
    assert router.shown() == []


async def test_loading_shows_all_replicas_and_the_revision(clock: FakeClock, history: History) -> None:
    history.elect("leader~1")
    router = MirroringRouter(clock, history)
    assert (router.mirror.history_id, router.mirror.age_seconds, router.mirror.generation) == (None, None, 0)
    await router.mirror.load()
    assert router.is_equal
    assert router.shown() == [url_of(1), url_of(2), url_of(3)]
    assert (router.mirror.history_id, router.mirror.epoch, router.mirror.generation) == ("history id 1", 1, 1)
    assert router.mirror.leader == history.leader
    assert router.mirror.age_seconds == 0


async def test_loading_retries_while_the_history_moves_too_fast(clock: FakeClock, history: History) -> None:
    router = MirroringRouter(clock, history)
    router.reader.gaps = 3
    loading = asyncio.ensure_future(router.mirror.load())
    await clock.run_until(loading.done, within=3)
    assert router.is_equal
    assert router.reader.count("snapshot") == 4


async def test_a_failed_load_raises_and_keeps_the_view(clock: FakeClock, history: History) -> None:
    router = MirroringRouter(clock, history)
    router.reader.error = StoreUnavailable("away")
    with pytest.raises(StoreUnavailable):
        await router.mirror.load()
    assert router.shown() == []


async def test_events_are_applied_as_they_arrive(clock: FakeClock, history: History, router: MirroringRouter) -> None:
    history.register(4)
    await clock.settle()
    assert router.shown()[-1] == url_of(4)
    history.change(1, status=ReplicaStatus.UNHEALTHY)
    history.remove(2)
    await clock.settle()
    assert router.is_equal
    assert router.first() is router.handle(3)
    assert router.mirror.generation == 1


async def test_handles_stay_the_same_objects_over_changes_gaps_and_removals(
    clock: FakeClock, history: History, router: MirroringRouter
) -> None:
    handle = router.handle(1)
    history.change(1, admin=AdminState.DRAINING)
    await clock.settle()
    assert router.handle(1) is handle
    admin = [handle.admin]
    history.remove(1)
    await clock.settle()
    admin.append(handle.admin)
    history.register(1)
    history.join()
    history.trim()
    await clock.advance(3)
    assert router.mirror.generation == 2
    assert router.handle(1) is handle
    assert [*admin, handle.admin] == [AdminState.DRAINING, AdminState.REMOVED, AdminState.ACTIVE]


async def test_the_leader_and_the_highest_epoch_are_followed(
    clock: FakeClock, history: History, router: MirroringRouter
) -> None:
    history.elect("a~1")
    await clock.settle()
    leader = router.leader()
    assert leader is not None
    assert (leader.router, leader.epoch, router.mirror.epoch) == ("a~1", 1, 1)
    history.resign()
    await clock.settle()
    assert router.leader() is None
    assert router.mirror.epoch == 1


async def test_at_rest_one_read_a_refresh_and_no_full_one(clock: FakeClock, router: MirroringRouter) -> None:
    router.reader.calls.clear()
    await clock.advance(60)
    assert router.reader.count("poll") == 0, "the reads that wait for events bring the head"
    assert 59 <= router.reader.count("wait_events") <= 61
    assert router.reader.count("snapshot") == 0
    assert router.mirror.age_seconds is not None
    assert router.mirror.age_seconds <= REFRESH


async def test_listeners_receive_every_change_and_an_empty_one_after_reloading(
    clock: FakeClock, history: History, router: MirroringRouter
) -> None:
    with router.mirror.subscribed(router.listen):
        ids = [history.join().id, history.change(1, admin=AdminState.DRAINING).id]
        await clock.settle()
        assert router.received == [ids]
        history.join()
        history.join()
        history.trim()
        await clock.settle()
        assert router.received == [ids, [], []]
    history.join()
    await clock.settle()
    assert len(router.received) == 3


async def test_an_event_with_another_predecessor_causes_a_full_read(
    clock: FakeClock, history: History, router: MirroringRouter
) -> None:
    history.remove(1)
    history.register(4)
    history.heal(4)
    history.trim()
    await clock.settle()
    assert router.is_equal
    assert router.mirror.generation == 2


async def test_events_before_a_gap_count_although_the_read_fails(
    clock: FakeClock, history: History, router: MirroringRouter
) -> None:
    router.reader.snapshot_error = StoreUnavailable("away")
    history.change(1, status=ReplicaStatus.UNHEALTHY)
    lost = history.change(2, status=ReplicaStatus.UNHEALTHY)
    history.change(3, status=ReplicaStatus.UNHEALTHY)
    history.events.remove(lost)
    await clock.advance(1)
    assert router.first() is router.handle(2)
    router.reader.snapshot_error = None
    await clock.advance(2)
    assert router.first() is None
    assert router.is_equal


async def test_a_newer_polled_revision_without_events_causes_a_full_read(
    clock: FakeClock, history: History, router: MirroringRouter
) -> None:
    history.change(1, status=ReplicaStatus.UNHEALTHY)
    history.events.clear()
    history.changed.clear()
    await clock.advance(2 * REFRESH)
    assert router.is_equal
    assert router.mirror.generation == 2


async def test_an_older_polled_revision_causes_a_full_read(
    clock: FakeClock, history: History, router: MirroringRouter
) -> None:
    fail_over = history.saved()
    history.remove(1)
    await clock.settle()
    assert url_of(1) not in router.shown()
    fail_over()  # a failover lost the last write
    await clock.advance(2 * REFRESH)
    assert router.is_equal
    assert url_of(1) in router.shown()


async def test_a_failover_that_replaced_writes_is_noticed_at_once(
    clock: FakeClock, history: History, router: MirroringRouter
) -> None:
    """It lost some writes and has others instead."""
    fail_over = history.saved()
    history.remove(1)
    await clock.settle()
    fail_over()
    history.change(2, status=ReplicaStatus.UNHEALTHY)
    await clock.settle()
    assert router.is_equal


async def test_a_gap_is_remembered_through_an_outage_before_the_read(
    clock: FakeClock, history: History, router: MirroringRouter, caplog: pytest.LogCaptureFixture
) -> None:
    router.reader.snapshot_error = StoreUnavailable("away")
    history.change(1, status=ReplicaStatus.UNHEALTHY)
    history.change(2, status=ReplicaStatus.UNHEALTHY)
    history.trim()
    await clock.advance(30)
    assert router.task is not None
    assert not router.task.done()
    assert caplog.messages == ["redis: keeping the last view: away"]
    assert router.reader.count("snapshot") <= 70
    router.reader.snapshot_error = None
    await clock.advance(1)
    assert router.is_equal


async def test_a_new_history_is_given_the_old_view_first(
    clock: FakeClock, router: MirroringRouter, caplog: pytest.LogCaptureFixture
) -> None:
    other = History("history id 2", first=100)
    other.register(9)
    router.reader.history = other

    async def contribute() -> None:
        other.register(1)

    router.on_lost = contribute
    await clock.advance(2 * REFRESH)
    assert router.lost == [("history id 1", [url_of(1), url_of(2), url_of(3)])]
    assert router.is_equal
    assert router.shown() == [url_of(1), url_of(9)]
    assert router.mirror.history_id == "history id 2"
    assert caplog.messages == ["redis: another history (history id 2) has replaced history id 1"]


async def test_a_new_history_with_older_revisions_is_accepted(clock: FakeClock, history: History) -> None:
    old = History(first=500)
    old.register(1)
    async with following(clock, old) as router:
        router.reader.history = history
        await clock.advance(2 * REFRESH)
        assert router.is_equal
        assert router.mirror.revision == history.revision


async def test_an_empty_namespace_keeps_the_view_until_a_history_begins(
    clock: FakeClock, router: MirroringRouter, caplog: pytest.LogCaptureFixture
) -> None:
    empty = History()
    empty.history_id = None
    router.reader.history = empty
    await clock.advance(30)
    assert router.shown() == [url_of(1), url_of(2), url_of(3)]
    assert router.first() is router.handle(1)
    assert router.lost == []
    assert len(caplog.messages) == 1
    assert "empty" in caplog.messages[0]
    empty.history_id = "history id 2"
    await clock.advance(2)
    assert [history_id for history_id, _ in router.lost] == ["history id 1"]
    assert router.shown() == []


async def test_a_failed_contribution_is_repeated_before_the_new_history_shows(
    clock: FakeClock, router: MirroringRouter
) -> None:
    async def fail() -> None:
        raise StoreUnavailable("away again")

    router.on_lost = fail
    router.reader.history = History("history id 2", first=100)
    await clock.advance(5)
    assert len(router.lost) > 2
    assert router.shown() == [url_of(1), url_of(2), url_of(3)]
    router.on_lost = None
    await clock.advance(2)
    assert router.shown() == []
    assert router.mirror.history_id == "history id 2"


async def test_a_history_lost_during_its_read_gets_the_view_too(clock: FakeClock, router: MirroringRouter) -> None:
    reader = router.reader
    second, third = History("history id 2", first=100), History("history id 3", first=200)

    async def contribute() -> None:
        reader.history.register(1)
        if reader.history is second:
            reader.history = third  # nothing of what was just put back is left when it is read

    router.on_lost = contribute
    reader.history = second
    await clock.advance(3 * REFRESH)
    every = [url_of(1), url_of(2), url_of(3)]
    assert router.lost[0] == ("history id 1", every)
    assert all(shown == every for _, shown in router.lost), "no view was given up that was not put back"
    assert router.mirror.history_id == "history id 3"
    assert router.shown() == [url_of(1)]


@pytest.mark.parametrize("history_id", ["history id 2", None])
async def test_a_history_lost_after_a_gap_gets_the_view(
    clock: FakeClock, history: History, router: MirroringRouter, history_id: str | None
) -> None:
    """The head that is read first shows the old history, and the full read another one, or an empty namespace."""
    other = History("history id 2", first=100)
    other.history_id = history_id
    router.reader.calls.clear()
    router.reader.on_head = lambda: setattr(router.reader, "history", other)

    async def contribute() -> None:
        other.history_id = "history id 2"
        other.register(1)
        other.register(2)

    router.on_lost = contribute
    history.change(1, status=ReplicaStatus.UNHEALTHY)
    history.change(1, status=ReplicaStatus.HEALTHY)
    history.trim()
    await clock.settle()
    assert "snapshot" in router.reader.calls, "there was a gap"
    await clock.advance(5 * REFRESH)
    assert router.lost == [("history id 1", [url_of(1), url_of(2), url_of(3)])]
    assert router.shown() == [url_of(1), url_of(2)]


async def test_an_empty_namespace_after_a_gap_gets_the_view(
    clock: FakeClock, history: History, router: MirroringRouter
) -> None:
    empty = History()
    empty.history_id = None

    async def contribute() -> None:
        empty.history_id, empty.events = "history id 2", []
        empty.register(3)

    router.on_lost = contribute
    history.join()
    history.join()
    history.trim()
    router.reader.history = empty
    router.reader.history.events = history.events
    await clock.advance(2 * REFRESH)
    assert [history_id for history_id, _ in router.lost] == ["history id 1"]
    assert url_of(3) in router.shown()


async def test_loading_an_empty_namespace_says_so_and_shows_nothing(clock: FakeClock, history: History) -> None:
    router = MirroringRouter(clock, history)
    history.history_id = None
    with pytest.raises(StoreUnavailable, match="empty"):
        await router.mirror.load()
    assert (router.shown(), router.mirror.history_id) == ([], None)


async def test_writes_into_another_history_do_not_change_the_contributed_view(
    clock: FakeClock, router: MirroringRouter
) -> None:
    other = History("history id 2", first=100)
    other.register(1)
    was_shown: list[AdminState] = []

    async def contribute() -> None:
        reply = other.change(1, admin=AdminState.DISABLED)
        router.mirror.apply_reply([reply], router.mirror.generation)
        await router.mirror.refresh(at_once=True)
        was_shown.append(router.handle(1).admin)

    router.on_lost = contribute
    router.reader.history = other
    await clock.advance(2 * REFRESH)
    assert was_shown == [AdminState.ACTIVE]
    assert router.handle(1).admin is AdminState.DISABLED, "but it is shown with all else"


async def test_while_redis_is_away_the_last_view_stays_and_ages(
    clock: FakeClock, history: History, router: MirroringRouter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    router.reader.error = StoreUnavailable("away")
    router.reader.calls.clear()
    await clock.advance(60)
    assert router.first() is router.handle(1)
    assert router.mirror.age_seconds is not None
    assert 59 <= router.mirror.age_seconds <= 61
    assert caplog.messages == ["redis: keeping the last view: away"]
    assert 60 <= len(router.reader.calls) <= 140, "about once a second"
    history.remove(1)
    router.reader.error = None
    await clock.advance(1.0)
    assert router.is_equal
    assert router.mirror.age_seconds <= REFRESH
    assert caplog.messages[1:] == ["redis: following the shared state again"]


async def test_each_outage_and_other_trouble_is_logged_once(
    clock: FakeClock, router: MirroringRouter, caplog: pytest.LogCaptureFixture
) -> None:
    troubles: list[StoreError | None] = [StoreUnavailable("away"), StoreRefused("no"), None, StoreUnavailable("away")]
    for error in troubles:
        router.reader.error = error
        await clock.advance(10)
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == [f"redis: keeping the last view: {text}" for text in ("away", "no", "away")]


async def test_after_a_short_outage_missed_changes_are_noticed_at_once(
    clock: FakeClock, history: History, router: MirroringRouter
) -> None:
    await clock.advance(5.1)
    router.reader.lose_connection()
    await clock.advance(0.2)
    history.change(1, status=ReplicaStatus.UNHEALTHY)
    history.events.clear()
    history.changed.clear()
    router.reader.error = None
    await clock.advance(0.25)
    assert router.is_equal


async def test_malformed_data_keeps_the_last_view_and_is_reported(
    clock: FakeClock, history: History, router: MirroringRouter, caplog: pytest.LogCaptureFixture
) -> None:
    history.remove(1)
    router.reader.error = KeyConflict("event 7-0: field kind holds 'x'; run `shared-registry check`")
    await clock.advance(30)
    assert router.first() is router.handle(1)
    assert len(caplog.messages) == 1
    assert "field kind holds 'x'" in caplog.messages[0]
    router.reader.error = None
    await clock.advance(2)
    assert router.is_equal


async def test_an_outdated_view_is_withheld_until_it_is_current_again(
    clock: FakeClock, history: History, caplog: pytest.LogCaptureFixture
) -> None:
    async with following(clock, history, max_staleness=5.0) as router:
        await clock.advance(20)
        assert not router.is_stale()
        router.reader.error = StoreUnavailable("away")
        lost_at = clock.monotonic() - (router.mirror.age_seconds or 0.0)
        await clock.advance(lost_at + 4.99 - clock.monotonic())
        assert router.first() is router.handle(1)
        await clock.advance(0.01)
        assert router.is_stale()
        assert router.first() is None
        assert router.view.preference == ()
        assert router.shown() == [url_of(1), url_of(2), url_of(3)], "still shown, only not selected"
        history.remove(1)
        await clock.advance(30)
        router.reader.error = None
        await clock.advance(1.0)
        assert not router.is_stale()
        assert router.first() is router.handle(2)
        assert sum("max_staleness_seconds" in message for message in caplog.messages) == 1


async def test_each_outage_is_timed_separately(clock: FakeClock, history: History) -> None:
    async with following(clock, history, max_staleness=5.0) as router:
        for _ in range(2):
            router.reader.error = StoreUnavailable("away")
            await clock.advance(3.9)
            assert router.first() is not None
            await clock.advance(1.2)
            assert router.first() is None
            router.reader.error = None
            await clock.advance(2.5)
            assert router.first() is not None


async def test_a_withheld_view_applies_own_writes_without_showing_them(clock: FakeClock, history: History) -> None:
    async with following(clock, history, max_staleness=5.0) as router:
        router.reader.error = StoreUnavailable("away")
        await clock.advance(6)
        router.mirror.apply_reply([history.remove(1)], router.mirror.generation)
        assert router.shown() == [url_of(2), url_of(3)]
        assert router.first() is None


async def test_without_a_limit_a_view_is_never_withheld(clock: FakeClock, router: MirroringRouter) -> None:
    router.reader.error = StoreUnavailable("away")
    await clock.advance(600)
    assert not router.is_stale()
    assert router.first() is router.handle(1)


async def test_a_view_at_its_oldest_age_at_rest_is_shown(clock: FakeClock, history: History) -> None:
    async with following(clock, history, max_staleness=2 * REFRESH) as router:
        withheld = False
        for _ in range(300):
            history.join()
            await clock.advance(0.1)
            withheld = withheld or router.is_stale()
        await clock.advance(30)
        assert not withheld
        assert not router.is_stale()
