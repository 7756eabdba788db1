"""A router reads its own writes: a reply counts before the event stream brings it, and nothing older undoes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from shared_registry.model import AdminState, Event, ReplicaStatus
from shared_registry.store.reader import Head
from tests.support.fake_clock import FakeClock
from tests.support.mirroring_router import REFRESH, MirroringRouter
from tests.support.scripted_reader import History, url_of


async def hold_back_events(clock: FakeClock, router: MirroringRouter) -> None:
    """Let the event stream bring nothing until the gate opens: own writes are known from their replies alone."""
    router.reader.stream_gate.clear()
    await clock.advance(REFRESH)


async def lose_unread(
    clock: FakeClock,
    router: MirroringRouter,
    write: Callable[[], Event],
    fail_over: Callable[[], None],
    then: Callable[[], object] = lambda: None,
) -> None:
    """Show a write, lose it before its event arrives, and expect what is shown to follow the new primary."""
    await hold_back_events(clock, router)
    event = write()
    before = router.shown()
    router.mirror.apply_reply([event], router.mirror.generation)
    assert router.shown() != before, "the reply is shown"
    fail_over()
    then()
    router.reader.stream_gate.set()
    await clock.advance(3 * REFRESH)
    assert router.is_equal


async def test_a_reply_is_shown_before_its_event_arrives(
    clock: FakeClock, history: History, router: MirroringRouter
) -> None:
    """It does not move the revision."""
    await hold_back_events(clock, router)
    before = router.mirror.revision
    event = history.change(1, status=ReplicaStatus.UNHEALTHY)
    router.mirror.apply_reply([event], router.mirror.generation)
    assert router.view.first is router.handle(2)
    assert router.mirror.revision == before
    router.reader.stream_gate.set()
    await clock.settle()
    assert router.is_equal
    assert router.mirror.generation == 1, "the event stream went on unbroken"


async def test_an_older_event_does_not_undo_a_newer_reply(
    clock: FakeClock, history: History, router: MirroringRouter
) -> None:
    await hold_back_events(clock, router)
    older = history.change(1, admin=AdminState.DRAINING)
    newer = history.change(1, admin=AdminState.ACTIVE)
    router.mirror.apply_reply([newer], router.mirror.generation)
    history.events.remove(newer)  # the event stream is read between the two
    router.reader.stream_gate.set()
    await clock.settle()
    assert router.mirror.revision == older.id
    assert router.handle(1).admin is AdminState.ACTIVE


async def test_a_late_reply_does_not_undo_later_events(
    clock: FakeClock, history: History, router: MirroringRouter
) -> None:
    own = history.change(1, admin=AdminState.DRAINING)
    history.change(1, admin=AdminState.ACTIVE)
    await clock.settle()
    router.mirror.apply_reply([own], router.mirror.generation)
    assert router.handle(1).admin is AdminState.ACTIVE
    assert router.is_equal


async def test_a_late_reply_does_not_restore_a_removed_replica(
    clock: FakeClock, history: History, router: MirroringRouter
) -> None:
    own = history.change(1, admin=AdminState.ACTIVE)
    history.remove(1)
    await clock.settle()
    router.mirror.apply_reply([own], router.mirror.generation)
    assert router.view.get(url_of(1)) is None
    assert router.view.first is router.handle(2)


async def test_a_removed_replica_does_not_reappear_through_the_event_stream(
    clock: FakeClock, history: History, router: MirroringRouter
) -> None:
    await hold_back_events(clock, router)
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
    history.changed.set()
    await clock.settle()
    assert router.is_equal


async def test_a_reply_of_an_older_generation_is_not_applied(
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


async def test_an_own_write_newer_than_a_full_read_stays(
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


async def test_own_writes_of_a_lost_history_disappear(
    clock: FakeClock, history: History, router: MirroringRouter
) -> None:
    await hold_back_events(clock, router)
    router.mirror.apply_reply([history.register(7)], router.mirror.generation)
    assert url_of(7) in router.shown()
    other = History("history id 2")
    other.register(9)
    router.reader.history = other
    router.reader.stream_gate.set()
    await clock.advance(2 * REFRESH)
    assert router.shown() == [url_of(9)]


async def test_an_own_write_that_a_failover_lost_disappears(
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


async def test_an_own_write_lost_before_its_event_arrived_disappears(
    clock: FakeClock, history: History, router: MirroringRouter
) -> None:
    """A failover lost it."""
    await lose_unread(clock, router, lambda: history.register(7), history.saved())


async def test_own_and_other_writes_lost_in_one_failover_disappear(
    clock: FakeClock, history: History, router: MirroringRouter
) -> None:
    fail_over = history.saved()
    history.join()
    await clock.settle()
    await lose_unread(clock, router, lambda: history.register(7), fail_over)


async def test_a_lost_own_write_disappears_when_other_writes_follow(
    clock: FakeClock, history: History, router: MirroringRouter
) -> None:
    """A failover lost it."""
    await lose_unread(clock, router, lambda: history.remove(1), history.saved(), then=history.join)


async def test_a_reply_that_overtakes_an_older_poll_is_no_loss(
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


async def test_a_reply_of_another_history_shows_only_deliberate_changes(
    clock: FakeClock, history: History, router: MirroringRouter
) -> None:
    """The leader's reports reach an emptied server before the mirror notices; the view must be put back as it was."""
    await hold_back_events(clock, router)
    drained = history.change(1, admin=AdminState.DRAINING)
    router.mirror.apply_reply([drained], router.mirror.generation)
    event = replace(history.change(1, admin=AdminState.ACTIVE), history_id="another history")
    assert event.record is not None
    reported = replace(event, record=replace(event.record, restored_from="0-0 another"))
    router.mirror.apply_reply([reported], router.mirror.generation)
    assert router.handle(1).admin is AdminState.DRAINING
    router.mirror.apply_reply([event], router.mirror.generation)
    assert router.handle(1).admin is AdminState.ACTIVE
