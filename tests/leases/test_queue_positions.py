"""Waiters hear where they stand about once a second, and at once of what is theirs; nobody reads while nobody waits."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator

import pytest
from redis import exceptions

from shared_registry.errors import StoreUnavailable
from shared_registry.leases.queue import RouterQueue, Waiter
from shared_registry.model import ORIGIN
from shared_registry.store.channel import scripts
from shared_registry.store.client import Clients
from shared_registry.store.keys import Keys
from shared_registry.store.lease_reader import WAITERS_AT_ONCE
from shared_registry.store.reader import Reader
from shared_registry.store.replies import Grant, Queued
from tests.support.fake_clock import FakeClock
from tests.support.waiting_router import ROUTER, ScriptedQueue

KNOWN = {"a", "b", "ending"}
GRANT = Grant("http://10.0.0.1:8000", "7-0")


@pytest.fixture
def redis(clock: FakeClock) -> ScriptedQueue:
    return ScriptedQueue(clock)


@pytest.fixture
def strangers() -> list[None]:
    return []


@pytest.fixture
def line(redis: ScriptedQueue, strangers: list[None]) -> RouterQueue:
    return redis.queue(is_known=KNOWN.__contains__, on_orphaned_lease=lambda: strangers.append(None))


@pytest.fixture(autouse=True)
async def running(line: RouterQueue, clock: FakeClock) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.ensure_future(line.run())
    await clock.settle()
    yield task
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


@pytest.fixture
def a(line: RouterQueue, redis: ScriptedQueue) -> Iterator[Waiter]:
    redis.position_of["a"] = 3
    with line.waiting("a") as waiter:
        waiter.move(Queued("77", 3, 9))
        yield waiter


async def test_without_waiters_no_positions_are_read(redis: ScriptedQueue, clock: FakeClock) -> None:
    await clock.advance(60)
    assert (redis.asked, redis.read_after) == ([], [])


async def test_no_position_is_read_for_a_session_outside_the_queue(
    line: RouterQueue, redis: ScriptedQueue, clock: FakeClock
) -> None:
    with line.waiting("a") as waiter:
        await clock.advance(10)
        assert (redis.asked, redis.read_after, waiter.is_called) == ([], [], False)


async def test_another_sessions_position_is_read_without_one_outside_the_queue(
    a: Waiter, line: RouterQueue, redis: ScriptedQueue, clock: FakeClock
) -> None:
    with line.waiting("b") as b:
        await clock.advance(5)
        assert {tuple(ids) for _, ids in redis.asked} == {("a",)}
        assert not b.is_called


async def test_positions_are_read_about_once_a_second(a: Waiter, redis: ScriptedQueue, clock: FakeClock) -> None:
    await clock.advance(100)
    gaps = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(redis.asked)]
    assert 90 <= len(gaps) <= 110
    assert all(0.8 - 1e-6 <= gap <= 1.2 + 1e-6 for gap in gaps)
    assert max(gaps) - min(gaps) > 0.2


async def test_reading_ends_with_the_last_waiter(line: RouterQueue, redis: ScriptedQueue, clock: FakeClock) -> None:
    with line.waiting("a") as first:
        first.move(Queued("1", 1, 9))
        with line.waiting("b") as second:
            second.move(Queued("2", 2, 9))
            assert len(line._waiters) == 2
        redis.position_of["a"] = 1
        await clock.advance(5)
        assert redis.asked[-1][1] == ["a"]
    assert len(line._waiters) == 0
    await clock.advance(2)
    redis.asked.clear()
    redis.read_after.clear()
    await clock.advance(60)
    assert (redis.asked, redis.read_after) == ([], [])


async def test_a_waiter_leaving_during_a_reading_ends_the_readings(
    line: RouterQueue, redis: ScriptedQueue, clock: FakeClock
) -> None:
    gate = asyncio.Event()

    async def wait(call: str) -> None:
        await gate.wait()

    redis.during = wait  # type: ignore[method-assign]
    redis.position_of["a"] = 2
    with line.waiting("a") as waiter:
        waiter.move(Queued("1", 3, 9))
        await clock.advance(1.3)
        assert len(redis.asked) == 1
    gate.set()
    await clock.advance(3)
    redis.read_after.clear()
    await clock.advance(60)
    assert (len(redis.asked), redis.read_after) == (1, [])


async def test_a_waiter_receives_every_move_and_nothing_else(a: Waiter, redis: ScriptedQueue, clock: FakeClock) -> None:
    await asyncio.wait_for(a.wait_changed(), 30)
    news = asyncio.ensure_future(a.wait_changed())
    await clock.advance(10)
    assert not news.done()
    redis.position_of["a"], redis.depth = 2, 5
    await clock.advance(1.3)
    assert news.done()
    assert (a.entry, a.is_called) == (Queued("77", 2, 5), False)


async def test_a_waiter_missing_from_the_queue_is_called(a: Waiter, redis: ScriptedQueue, clock: FakeClock) -> None:
    del redis.position_of["a"]
    await clock.advance(1.3)
    assert a.is_called
    assert a.entry == Queued("77", 3, 9)


async def test_a_wake_up_calls_the_named_waiter_at_once(
    a: Waiter, line: RouterQueue, redis: ScriptedQueue, clock: FakeClock, strangers: list[None]
) -> None:
    with line.waiting("b") as b:
        b.move(Queued("78", 4, 9))
        await clock.advance(0.1)
        redis.wake("b")
        await clock.advance()
        assert (a.is_called, b.is_called, strangers) == (False, True, [])
        redis.wake("a")
        await clock.advance()
        assert a.is_called
    assert redis.read_after[:3] == [ORIGIN, "1-0", "2-0"]


async def test_a_wake_up_before_the_first_position_is_not_lost(
    line: RouterQueue, redis: ScriptedQueue, clock: FakeClock
) -> None:
    with line.waiting("a") as waiter:
        redis.wake("a")
        await clock.advance(5)
        waiter.move(Queued("1", 1, 1))
        await clock.advance()
        assert waiter.is_called


async def test_a_slot_for_an_unknown_lease_is_reported(
    a: Waiter, redis: ScriptedQueue, clock: FakeClock, strangers: list[None]
) -> None:
    redis.wake("ending")
    await clock.advance(0.1)
    assert strangers == []
    redis.wake("stranger")
    await clock.advance(0.1)
    assert len(strangers) == 1
    assert not a.is_called


async def test_after_an_error_the_inbox_is_read_from_its_start(
    a: Waiter, redis: ScriptedQueue, clock: FakeClock
) -> None:
    redis.wake("b")
    redis.wake("b")
    await clock.advance(0.1)
    assert redis.read_after[-1] == "2-0"
    redis.inbox = ["a"]  # another history's
    redis.errors["wait_inbox"] = [StoreUnavailable("away")] * 3
    await clock.advance(2.5)
    assert redis.read_after[-1] == "1-0"
    assert redis.read_after.count(ORIGIN) >= 2
    assert a.is_called


def broken() -> StoreUnavailable:
    error = StoreUnavailable("the connection broke")
    error.__cause__ = exceptions.ConnectionError("Connection reset by peer")
    return error


async def test_one_broken_connection_is_no_outage_for_waiters(
    a: Waiter, redis: ScriptedQueue, clock: FakeClock
) -> None:
    """A waiter that took it for one would be placed without Redis, beside the sessions that Redis places."""
    for call in ("positions", "wait_inbox"):
        redis.errors[call] = [broken()]
        for _ in range(60):
            await clock.advance(0.05)
            assert a.outage is None
        assert redis.errors[call] == []
    redis.errors = {call: [broken() for _ in range(100)] for call in ("positions", "wait_inbox")}
    await clock.advance(3)
    assert a.outage is not None


async def test_during_an_outage_reading_is_retried_with_pauses(
    a: Waiter, redis: ScriptedQueue, clock: FakeClock
) -> None:
    redis.errors = {call: [StoreUnavailable("away")] * 1000 for call in ("positions", "wait_inbox")}
    await clock.advance(30)
    assert 10 <= len(redis.asked) <= 40
    assert 25 <= len(redis.read_after) <= 75
    redis.errors.clear()
    redis.position_of["a"] = 1
    redis.wake("a")
    await clock.advance(2.5)
    assert (a.entry, a.is_called) == (Queued("77", 1, 9), True)


async def test_a_rewound_queue_reads_its_wake_ups_again(
    a: Waiter, line: RouterQueue, redis: ScriptedQueue, clock: FakeClock
) -> None:
    redis.wake("a")
    await clock.advance(0.1)
    a.is_called = False
    await clock.advance(3)
    assert not a.is_called
    line.rewind()
    await clock.advance(2.1)
    assert a.is_called


async def test_all_waiters_can_be_called_at_once(a: Waiter, line: RouterQueue) -> None:
    with line.waiting("b") as b:
        line.call_all()
        assert (a.is_called, b.is_called) == (True, True)
        await asyncio.wait_for(b.wait_changed(), 30)


async def test_moving_waiters_measure_the_speed_of_the_queue(
    line: RouterQueue, redis: ScriptedQueue, clock: FakeClock
) -> None:
    with line.waiting("a") as a:
        a.move(Queued("1", 8, 9))
        redis.position_of |= {"a": 4}
        await clock.advance(1.3)
        a.serve(GRANT)
    seconds = line.speed.seconds_to_pass(clock.monotonic(), 8)
    assert seconds == pytest.approx(1.3, abs=0.01)


async def test_waiters_that_give_up_do_not_measure_speed(
    line: RouterQueue, redis: ScriptedQueue, clock: FakeClock
) -> None:
    with line.waiting("a") as a:
        a.move(Queued("1", 4, 9))
        with line.waiting("b") as b:
            b.move(Queued("2", 8, 9))
            redis.position_of = {"a": 4, "b": 8}
            await clock.advance(1.3)
        redis.position_of = {"a": 4}
        await clock.advance(2.5)
    assert line.speed.seconds_to_pass(clock.monotonic(), 1) is None


async def test_a_pause_after_the_last_waiter_does_not_count(
    line: RouterQueue, redis: ScriptedQueue, clock: FakeClock
) -> None:
    for _ in range(2):
        with line.waiting("a") as a:
            a.move(Queued("1", 2, 9))
            redis.position_of["a"] = 2
            await clock.advance(1.5)
            a.serve(GRANT)
        await clock.advance(25)
    with line.waiting("b") as b:
        b.move(Queued("2", 2, 9))
        redis.position_of["b"] = 2
        await clock.advance(1.3)
        seconds = line.speed.seconds_to_pass(clock.monotonic(), 2)
        assert seconds is not None
        assert seconds < 3


async def test_positions_of_many_waiters_are_read_in_pieces() -> None:
    """The one instant of a command must be short, however many wait."""
    asked: list[int] = []

    class Server:
        async def evalsha(self, digest: str, count: int, key: str, router: str, *lease_ids: str) -> list[str]:
            assert (digest, key, router) == (scripts()["inspect_waiters"].digest, Keys("n").meta, ROUTER)
            asked.append(len(lease_ids))
            return ["inspected", "1000", *("" if one == "7" else one for one in lease_ids)]

        async def eval(self, text: str, count: int, *words: str) -> list[str]:
            return await self.evalsha(scripts()["inspect_waiters"].digest, count, *words)

    reader = Reader(Clients(Server(), None, 1.0), Keys("n"))
    ids = [str(number) for number in range(1, 2 * WAITERS_AT_ONCE + 2)]
    depth, positions = await reader.positions(ROUTER, ids)
    assert asked == [WAITERS_AT_ONCE, WAITERS_AT_ONCE, 1]
    assert depth == 1000
    assert positions == {one: int(one) for one in ids if one != "7"}
