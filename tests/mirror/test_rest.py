"""At rest, heartbeats that name the last event replace most polls. One that names another event leads to a poll."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from shared_registry.mirror.rest import CONFIRMED_PERIODS, UNSEEN_SECONDS, Rest
from shared_registry.model import EventKind, ReplicaStatus
from shared_registry.store.replies import Heartbeat
from tests.support.fake_clock import FakeClock
from tests.support.mirroring_router import REFRESH, MirroringRouter, following
from tests.support.scripted_reader import History


@pytest.fixture
async def resting(clock: FakeClock, router: MirroringRouter) -> MirroringRouter:
    """A mirror that waits for events for longer than REFRESH, because heartbeats confirm its view."""
    await router.send_heartbeats(2 * CONFIRMED_PERIODS)
    router.reader.calls.clear()
    while not router.reader.calls:  # a wait that began long ago may end for other reasons
        await router.send_heartbeats(1)
    router.reader.calls.clear()
    return router


async def test_confirmed_at_rest_polls_are_few(clock: FakeClock, resting: MirroringRouter) -> None:
    for _ in range(60):
        await resting.send_heartbeats(1)
        assert resting.mirror.age_seconds is not None
        assert resting.mirror.age_seconds <= REFRESH
    assert 60 / CONFIRMED_PERIODS - 1 <= len(resting.reader.calls) <= 60 / CONFIRMED_PERIODS + 1
    assert set(resting.reader.calls) == {"wait_events"}, "the reads that wait for events bring the head"


async def test_events_are_applied_as_they_arrive_in_long_waits(
    clock: FakeClock, history: History, resting: MirroringRouter
) -> None:
    history.change(1, status=ReplicaStatus.UNHEALTHY)
    await clock.settle()
    assert resting.is_equal
    assert "poll" not in resting.reader.calls


async def test_without_heartbeats_polls_are_as_frequent_as_before(clock: FakeClock, resting: MirroringRouter) -> None:
    resting.mirror.hear(None)
    await clock.advance(UNSEEN_SECONDS)
    assert resting.reader.calls[-2:] == ["poll", "wait_events"], "the long wait has ended"
    resting.reader.calls.clear()
    for _ in range(10):
        resting.mirror.hear(None)
        await clock.advance(REFRESH)
    assert resting.mirror.age_seconds is not None
    assert resting.mirror.age_seconds <= REFRESH
    assert resting.reader.count("wait_events") == 10


async def test_an_event_that_does_not_come_is_polled(
    clock: FakeClock, history: History, resting: MirroringRouter
) -> None:
    resting.reader.stream_gate.clear()
    await clock.advance(CONFIRMED_PERIODS * REFRESH)  # the next wait for events stands still
    resting.hear()
    await clock.advance(CONFIRMED_PERIODS * REFRESH)
    history.change(1, status=ReplicaStatus.UNHEALTHY)
    resting.hear()
    await clock.advance(UNSEEN_SECONDS / 2)
    is_equal = [resting.is_equal]
    await clock.advance(UNSEEN_SECONDS / 2)
    assert [*is_equal, resting.is_equal] == [False, True], "at first the event may be on its way"
    assert resting.mirror.generation == 1, "the event stream has the event"


async def test_an_event_on_its_way_causes_no_poll(clock: FakeClock, history: History, resting: MirroringRouter) -> None:
    news = history.saved()
    history.change(1, status=ReplicaStatus.UNHEALTHY)
    late, history.revision = history.revision, "1-0"
    event = history.events.pop()
    news()
    resting.mirror.hear(Heartbeat("history id 1", late, joined=False, expired=()))
    await clock.advance(UNSEEN_SECONDS / 2)
    history.events.append(event)
    history.revision = late
    history.changed.set()
    await clock.advance(UNSEEN_SECONDS)
    assert resting.mirror.revision == late
    assert "poll" not in resting.reader.calls


@pytest.mark.parametrize("lose", ["event", "history"])
async def test_what_is_lost_is_found_by_the_next_heartbeat(
    clock: FakeClock, history: History, resting: MirroringRouter, lose: str
) -> None:
    if lose == "event":
        history.heal(1)
        history.events.clear()
    else:
        resting.reader.history = History("history id 2")
        resting.reader.history.register(1)
    resting.hear()
    await clock.advance(UNSEEN_SECONDS)
    assert resting.mirror.generation == 2
    assert resting.is_equal


async def test_a_view_with_a_lost_own_write_is_not_confirmed(
    clock: FakeClock, history: History, resting: MirroringRouter
) -> None:
    before = history.saved()
    apply = resting.mirror.begin_write()
    event = history.change(1, status=ReplicaStatus.UNHEALTHY)
    before()
    apply([event])
    assert not resting.is_equal
    resting.hear()
    await clock.advance(UNSEEN_SECONDS)
    assert resting.is_equal


async def test_the_same_event_with_another_mark_is_another_event(
    clock: FakeClock, history: History, resting: MirroringRouter
) -> None:
    resting.mirror.mark = "5"
    told = Heartbeat("history id 1", history.revision, joined=False, expired=(), mark="5")
    resting.mirror.hear(told)
    await clock.advance(UNSEEN_SECONDS)
    assert resting.reader.calls == []
    resting.mirror.hear(replace(told, mark="6"))
    await clock.advance(UNSEEN_SECONDS)
    assert "poll" in resting.reader.calls


async def test_rarer_heartbeats_than_polls_save_none(clock: FakeClock, history: History) -> None:
    async with following(clock, history, heartbeat=1.5 * REFRESH) as router:
        router.reader.calls.clear()
        await router.send_heartbeats(20)
        assert router.reader.count("wait_events") == 20


async def test_heartbeats_do_not_hide_that_the_event_stream_fails(clock: FakeClock, resting: MirroringRouter) -> None:
    resting.reader.lose_connection()
    await clock.settle()
    await resting.send_heartbeats(5)
    age = resting.mirror.age_seconds
    assert age is not None
    assert age >= 5 * REFRESH
    resting.reader.error = None
    await clock.advance(30)
    assert resting.mirror.age_seconds is not None
    assert resting.mirror.age_seconds <= REFRESH


async def test_a_view_is_polled_before_it_counts_as_too_old(clock: FakeClock, history: History) -> None:
    async with following(clock, history, max_staleness=2 * REFRESH) as router:
        await router.send_heartbeats(2 * CONFIRMED_PERIODS)
        for _ in range(50):  # from now on heartbeats get no reply for a long time
            await clock.advance(REFRESH / 10)
            assert not router.is_stale()
        assert router.is_equal


async def test_a_view_that_must_be_read_anew_is_not_confirmed(
    clock: FakeClock, history: History, resting: MirroringRouter
) -> None:
    resting.reader.snapshot_gate.clear()
    history.emit(EventKind.NAMESPACE_REPAIRED)
    await resting.send_heartbeats(5)
    assert resting.mirror.age_seconds is not None
    assert resting.mirror.age_seconds >= 5 * REFRESH
    resting.reader.snapshot_gate.set()
    await clock.settle()
    assert resting.mirror.age_seconds == 0
    await resting.send_heartbeats(2)
    assert resting.mirror.age_seconds <= REFRESH


async def test_doubts_count_also_where_no_wait_lasts_long(
    clock: FakeClock, history: History, resting: MirroringRouter
) -> None:
    resting.reader.longest_wait_seconds = UNSEEN_SECONDS / 2  # as with a client that has a short time limit
    await resting.send_heartbeats(CONFIRMED_PERIODS)
    history.heal(1)
    history.events.clear()
    resting.hear()
    await clock.advance(REFRESH + UNSEEN_SECONDS)
    assert resting.is_equal


class Wait:
    """A read that returns when told to."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.ends = asyncio.Event()

    async def __call__(self, seconds: float) -> str:
        self.seconds.append(seconds)
        await self.ends.wait()
        return "read"


def confirmed(clock: FakeClock) -> Rest:
    rest = Rest(refresh_seconds=1.0, heartbeat_seconds=1.0, clock=clock)
    rest.confirm()
    return rest


async def test_a_doubt_of_one_wait_does_not_end_the_next(clock: FakeClock) -> None:
    rest, wait = confirmed(clock), Wait()
    running, first = asyncio.ensure_future(rest.run()), asyncio.ensure_future(rest.wait(wait))
    await clock.settle()
    rest.doubt()
    await clock.advance(UNSEEN_SECONDS / 2)
    wait.ends.set()
    assert await first == "read"
    wait.ends.clear()
    rest.confirm()
    second = asyncio.ensure_future(rest.wait(wait))
    await clock.advance(UNSEEN_SECONDS)
    assert not second.done()
    rest.doubt()
    await clock.advance(UNSEEN_SECONDS)
    assert await second is None
    assert wait.seconds == [3.0, 3.0]
    running.cancel()


async def test_doubts_in_quick_succession_end_no_later_wait(clock: FakeClock) -> None:
    rest, wait = confirmed(clock), Wait()
    running, first = asyncio.ensure_future(rest.run()), asyncio.ensure_future(rest.wait(wait))
    await clock.settle()
    for _ in range(2):
        rest.doubt()
        await clock.advance(UNSEEN_SECONDS / 4)
    wait.ends.set()
    assert await first == "read"
    wait.ends.clear()
    second = asyncio.ensure_future(rest.wait(wait))
    await clock.advance(4 * UNSEEN_SECONDS)
    assert not second.done()
    second.cancel()
    running.cancel()


async def test_a_wait_that_ends_slowly_is_ended_once(clock: FakeClock) -> None:
    async def read(_: float) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            await clock.sleep(4 * UNSEEN_SECONDS)
        return "read"

    rest = confirmed(clock)
    running, waiting = asyncio.ensure_future(rest.run()), asyncio.ensure_future(rest.wait(read))
    await clock.settle()
    for _ in range(3):
        rest.doubt()
        await clock.advance(UNSEEN_SECONDS)
    assert [running.done(), waiting.done()] == [False, False]
    await clock.advance(4 * UNSEEN_SECONDS)
    assert await waiting is None
    running.cancel()


async def test_a_cancelled_wait_ends_as_cancelled(clock: FakeClock) -> None:
    rest = confirmed(clock)
    waiting = asyncio.ensure_future(rest.wait(Wait()))
    await clock.settle()
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()


async def test_a_time_limit_of_the_read_is_no_doubt(clock: FakeClock) -> None:
    async def fail(_: float) -> str:
        raise TimeoutError("its own")

    rest = confirmed(clock)
    with pytest.raises(TimeoutError, match="its own"):
        await rest.wait(fail)
