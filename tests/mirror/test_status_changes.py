"""One event changes the status of several replicas, and carries no more of them than that."""

from __future__ import annotations

from dataclasses import replace

from shared_registry.happenings import Happening, ReplicaReturned, ReplicaUnhealthy
from shared_registry.mirror.news import News
from shared_registry.model import AdminState, Event, EventKind, ReplicaStatus, StatusChange
from tests.support.fake_clock import FakeClock
from tests.support.mirroring_router import REFRESH, MirroringRouter
from tests.support.scripted_reader import History, url_of

DOWN, UP = ReplicaStatus.UNHEALTHY, ReplicaStatus.HEALTHY


def down(router: MirroringRouter) -> list[int]:
    return [number for number in (1, 2, 3) if not router.handle(number).is_healthy]


async def test_the_event_changes_them_together(clock: FakeClock, history: History, router: MirroringRouter) -> None:
    history.turn([1, 3], DOWN)
    await clock.settle()
    assert down(router) == [1, 3]
    assert router.view.first is router.handle(2)
    history.turn([3, 1], UP)
    history.turn([1, 2, 3], DOWN)
    await clock.settle()
    assert (down(router), router.is_equal, router.mirror.generation) == ([1, 2, 3], True, 1)


async def test_listeners_get_the_event_with_all_records(
    clock: FakeClock, history: History, router: MirroringRouter
) -> None:
    """The reply to an own command is told once more by the stream, as with all events."""
    told: list[Event] = []
    with router.mirror.subscribed(told.extend):
        router.reader.stream_gate.clear()
        await clock.advance(REFRESH)
        event = history.turn([1, 3], DOWN)
        router.mirror.apply_reply([event], router.mirror.generation)
        router.reader.stream_gate.set()
        await clock.settle()
    carried = [(one.id, one.kind, [record.key for record in one.carried]) for one in told]
    assert carried == [(event.id, EventKind.REPLICA_UNHEALTHY, [url_of(1), url_of(3)])] * 2
    assert {record for one in told for record in one.carried} == {router.handle(number).record for number in (1, 3)}


async def test_each_return_is_reported_with_its_own_reason(
    clock: FakeClock, history: History, router: MirroringRouter
) -> None:
    for number in (1, 2):
        history.change(number, ejected_until=9.0)
    await clock.settle()
    heard: list[Happening] = []
    router.mirror.emitter.subscribe(heard.append)
    news = News(router.mirror.emitter, router.mirror)
    news.start()
    before = {number: router.handle(number).record for number in (1, 2)}
    reasons = {1: "timeout", 2: "refused"}
    changes = tuple(StatusChange(url_of(one), before[one].revision, 3, None, "", (), reasons[one]) for one in (1, 2))
    with router.mirror.subscribed(news.notice):
        history.emit(EventKind.REPLICA_UNHEALTHY, changes=changes)
        await clock.settle()
    returned = [(one.record.key, one.reason) for one in heard if isinstance(one, ReplicaReturned)]
    assert returned == [(url_of(1), "timeout"), (url_of(2), "refused")]
    assert [one.reason for one in heard if isinstance(one, ReplicaUnhealthy)] == ["timeout", "refused"]


async def test_a_reply_waits_for_changes_in_between(
    clock: FakeClock, history: History, router: MirroringRouter
) -> None:
    """The reply alone would hide what another router has changed just before."""
    router.reader.stream_gate.clear()
    await clock.advance(REFRESH)
    history.change(1, admin=AdminState.DRAINING)
    own = history.turn([1, 2], DOWN)
    router.mirror.apply_reply([own], router.mirror.generation)
    assert down(router) == [2]
    router.reader.stream_gate.set()
    await clock.settle()
    assert (down(router), router.handle(1).admin) == ([1, 2], AdminState.DRAINING)
    assert (router.is_equal, router.mirror.generation) == (True, 1)


async def test_a_late_event_undoes_nothing(clock: FakeClock, history: History, router: MirroringRouter) -> None:
    router.reader.stream_gate.clear()
    await clock.advance(REFRESH)
    history.turn([1, 2], DOWN)
    own = history.heal(1)
    router.mirror.apply_reply([own], router.mirror.generation)
    removal = history.remove(2)
    router.mirror.apply_reply([removal], router.mirror.generation)
    router.reader.stream_gate.set()
    await clock.settle()
    assert router.handle(1).is_healthy
    assert (router.shown(), router.is_equal, router.mirror.generation) == ([url_of(1), url_of(3)], True, 1)


async def test_an_event_about_removed_replicas_tells_nothing(
    clock: FakeClock, history: History, router: MirroringRouter
) -> None:
    """No events would tell listeners that everything was read anew."""
    router.reader.stream_gate.clear()
    await clock.advance(REFRESH)
    event = history.turn([1, 2], DOWN)
    removals = [history.remove(1), history.remove(2)]
    router.mirror.apply_reply(removals, router.mirror.generation)
    told: list[list[str]] = []
    with router.mirror.subscribed(lambda events: told.append([one.id for one in events])):
        router.mirror.apply_reply([event], router.mirror.generation)
        router.reader.stream_gate.set()
        await clock.settle()
    assert told
    assert [] not in told
    assert (router.is_equal, router.mirror.generation) == (True, 1)


async def test_an_unknown_revision_makes_the_mirror_read_everything(
    clock: FakeClock, history: History, router: MirroringRouter
) -> None:
    """Somebody has changed a replica by hand, or deleted and restored it."""
    key = url_of(2)
    history.records[key] = replace(history.records[key], revision="99-0", last_error="by hand")
    history.turn([2, 3], DOWN)
    await clock.settle()
    assert (down(router), router.handle(2).record.last_error, router.mirror.gap) == ([2, 3], "down", "damaged")
    assert (router.is_equal, router.mirror.generation) == (True, 2)


async def test_an_unknown_replica_makes_the_mirror_read_everything(
    clock: FakeClock, history: History, router: MirroringRouter
) -> None:
    """Its hash was damaged, so the mirror has left it out, and somebody has repaired it."""
    record = history.records[url_of(3)]
    strange = replace(record, key=url_of(9), endpoint=replace(record.endpoint, url=url_of(9), order=9))
    history.records[strange.key] = strange
    change = StatusChange(strange.key, strange.revision, 3, None, "", (), "down")
    event = history.emit(EventKind.REPLICA_UNHEALTHY, changes=(change,))
    history.records[strange.key] = event.after(change, strange)
    await clock.settle()
    assert (router.shown()[-1], router.mirror.generation, router.is_equal) == (strange.key, 2, True)


async def test_many_in_one_event_are_all_taken_over(
    clock: FakeClock, history: History, router: MirroringRouter
) -> None:
    for number in range(4, 64):
        history.register(number)
    history.turn(range(4, 64), UP)
    history.turn(range(1, 64), DOWN)
    await clock.settle()
    assert not any(replica.is_healthy for replica in router.view.all())
    assert (router.is_equal, router.mirror.generation) == (True, 1)
