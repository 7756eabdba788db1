"""A router reads its own writes: a reply counts before the event stream brings it, and nothing older undoes it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from shared_registry.model import AdminState, Event, ReplicaStatus
from shared_registry.store.reader import Head
from tests.support.fake_clock import FakeClock
from tests.support.mirroring_router import REFRESH, MirroringRouter
from tests.support.scripted_reader import History, url_of


async def test_a_reply_is_shown_before_the_feed_brings_it_and_does_not_move_the_revision(
    clock: FakeClock, history: History, router: MirroringRouter
) -> None:
    router.reader.stream_gate.clear()
    await clock.advance(REFRESH)
    before = router.mirror.revision
    event = history.change(1, status=ReplicaStatus.UNHEALTHY)
    router.mirror.apply_reply([event], router.mirror.generation)
    assert router.view.first is router.handle(2)
    assert router.mirror.revision == before
    router.reader.stream_gate.set()
    await clock.settle()
    assert router.is_equal
    assert router.mirror.generation == 1, "the event stream went on unbroken"


async def test_an_older_event_from_the_feed_does_not_undo_a_newer_reply(
    clock: FakeClock, history: History, router: MirroringRouter
) -> None:
    router.reader.stream_gate.clear()
    await clock.advance(REFRESH)
    older = history.change(1, admin=AdminState.DRAINING)
    newer = history.change(1, admin=AdminState.ACTIVE)
    router.mirror.apply_reply([newer], router.mirror.generation)
    history.events.remove(newer)  # the event stream is read between the two
    router.reader.stream_gate.set()
    await clock.settle()
    assert router.mirror.revision == older.id
    assert router.handle(1).admin is AdminState.ACTIVE


async def test_a_late_reply_does_not_undo_what_the_feed_has_brought_since(
    clock: FakeClock, history: History, router: MirroringRouter
) -> None:
    own = history.change(1, admin=AdminState.DRAINING)
    history.change(1, admin=AdminState.ACTIVE)
    await clock.settle()
    router.mirror.apply_reply([own], router.mirror.generation)
    assert router.handle(1).admin is AdminState.ACTIVE
    assert router.is_equal


async def test_a_late_reply_does_not_bring_back_a_replica_that_was_removed_since(
    clock: FakeClock, history: History, router: MirroringRouter
) -> None:
    own = history.change(1, admin=AdminState.ACTIVE)
    history.remove(1)
    await clock.settle()
    router.mirror.apply_reply([own], router.mirror.generation)
    assert router.view.get(url_of(1)) is None
    assert router.view.first is router.handle(2)


async def test_after_removing_a_replica_the_feed_does_not_show_it_again_for_a_moment(
    clock: FakeClock, history: History, router: MirroringRouter
) -> None:
    router.reader.stream_gate.clear()
    await clock.advance(REFRESH)
    changed, removed = history.change(1, admin=AdminState.ACTIVE), history.remove(1)
    router.mirror.apply_reply([changed], router.mirror.generation)
    router.mirror.apply_reply([removed], router.mirror.generation)
    assert router.view.get(url_of(1)) is None
    history.events.remove(removed)  # the event stream is read between the two
    router.reader.stream_gate.set()
    await clock.settle()
    assert router.mirror.revision == changed.id
    assert router.view.get(url_of(1)) is None
    history.events.append(removed)
    history.news.set()
    await clock.settle()
    assert router.is_equal


async def test_a_reply_to_a_command_of_an_older_generation_is_not_applied(
    clock: FakeClock, history: History, router: MirroringRouter
) -> None:
    generation = router.mirror.generation
    own = history.change(1, admin=AdminState.DRAINING)
    history.change(1, admin=AdminState.ACTIVE)
    history.trim()
    await clock.settle()
    assert router.mirror.generation == generation + 1
    with router.mirror.subscribed(router.listen):
        router.mirror.apply_reply([replace(own, id="999-0")], generation)
    assert router.received == []
    assert router.is_equal


async def test_an_own_write_newer_than_a_full_read_survives_it(
    clock: FakeClock, history: History, router: MirroringRouter
) -> None:
    history.join()
    history.join()
    history.trim()
    router.reader.snapshot_gate.clear()
    await clock.settle()
    assert router.reader.count("snapshot") == 2, "the full read is under way"
    generation = router.mirror.generation
    router.mirror.apply_reply([history.register(7)], generation)
    router.mirror.apply_reply([history.remove(1)], generation)
    router.reader.snapshot_gate.set()
    router.reader.stream_gate.clear()
    await clock.settle()
    assert router.mirror.generation == generation + 1
    assert router.shown() == [url_of(2), url_of(3), url_of(7)]
    router.reader.stream_gate.set()
    await clock.settle()
    assert router.is_equal


async def test_own_writes_of_a_lost_history_do_not_survive_it(
    clock: FakeClock, history: History, router: MirroringRouter
) -> None:
    router.reader.stream_gate.clear()
    await clock.advance(REFRESH)
    router.mirror.apply_reply([history.register(7)], router.mirror.generation)
    assert url_of(7) in router.shown()
    other = History("history id 2")
    other.register(9)
    router.reader.history = other
    router.reader.stream_gate.set()
    await clock.advance(2 * REFRESH)
    assert router.shown() == [url_of(9)]


async def test_an_own_write_that_a_failover_lost_is_not_shown_for_good(
    clock: FakeClock, history: History, router: MirroringRouter
) -> None:
    fail_over = history.saved()
    own = history.register(7)
    router.mirror.apply_reply([own], router.mirror.generation)
    await clock.settle()
    assert url_of(7) in router.shown()
    fail_over()
    await clock.advance(2 * REFRESH)
    assert url_of(7) not in router.shown()
    assert router.is_equal


async def test_an_own_write_that_a_failover_lost_before_the_feed_brought_it_is_not_shown_for_good(
    clock: FakeClock, history: History, router: MirroringRouter
) -> None:
    fail_over = history.saved()
    router.reader.stream_gate.clear()
    await clock.advance(REFRESH)
    own = history.register(7)
    router.mirror.apply_reply([own], router.mirror.generation)
    assert url_of(7) in router.shown()
    fail_over()
    router.reader.stream_gate.set()
    await clock.advance(3 * REFRESH)
    assert router.is_equal


async def test_own_and_other_writes_that_a_failover_lost_together_are_not_shown_for_good(
    clock: FakeClock, history: History, router: MirroringRouter
) -> None:
    fail_over = history.saved()
    history.join()
    await clock.settle()
    router.reader.stream_gate.clear()
    await clock.advance(REFRESH)
    own = history.register(7)
    router.mirror.apply_reply([own], router.mirror.generation)
    fail_over()
    router.reader.stream_gate.set()
    await clock.advance(3 * REFRESH)
    assert router.is_equal


async def test_an_own_write_that_a_failover_lost_and_later_ones_of_others_followed_is_not_shown_for_good(
    clock: FakeClock, history: History, router: MirroringRouter
) -> None:
    fail_over = history.saved()
    router.reader.stream_gate.clear()
    await clock.advance(REFRESH)
    own = history.remove(1)
    router.mirror.apply_reply([own], router.mirror.generation)
    fail_over()
    history.join()
    router.reader.stream_gate.set()
    await clock.advance(3 * REFRESH)
    assert router.is_equal


async def test_a_reply_that_comes_before_that_of_an_older_poll_is_no_sign_of_loss(
    clock: FakeClock, history: History, router: MirroringRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = asyncio.Event()
    poll = router.reader.poll

    async def slow_poll(*, after: str) -> tuple[Head, list[Event]]:
        answer = await poll(after=after)
        await gate.wait()
        return answer

    monkeypatch.setattr(router.reader, "poll", slow_poll)
    await clock.advance(REFRESH)
    router.mirror.apply_reply([history.register(7)], router.mirror.generation)
    gate.set()
    await clock.settle()
    assert router.is_equal
    assert router.mirror.generation == 1


async def test_a_reply_of_another_history_shows_only_what_was_changed_on_purpose(
    clock: FakeClock, history: History, router: MirroringRouter
) -> None:
    """The leader's reports reach an emptied server before the mirror notices; the view must be put back as it was."""
    router.reader.stream_gate.clear()
    await clock.advance(REFRESH)
    drained = history.change(1, admin=AdminState.DRAINING)
    router.mirror.apply_reply([drained], router.mirror.generation)
    event = replace(history.change(1, admin=AdminState.ACTIVE), history_id="another history")
    assert event.record is not None
    reported = replace(event, record=replace(event.record, restored_from="0-0 another"))
    router.mirror.apply_reply([reported], router.mirror.generation)
    assert router.handle(1).admin is AdminState.DRAINING
    router.mirror.apply_reply([event], router.mirror.generation)
    assert router.handle(1).admin is AdminState.ACTIVE
