"""Deadlines on a clock, and the clock that the other tests rely on."""

from __future__ import annotations

import asyncio
import math
import time

import pytest

from shared_registry.aio.clock import Clock, SystemClock, finish_by, wait_until
from tests.support.fake_clock import START, FakeClock

LONG_SECONDS = 30.0


class Work:
    """Something that takes as long as the test wants, and says how it ended."""

    def __init__(self) -> None:
        self.is_started = False
        self.is_cancelled = False
        self.may_end: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def __call__(self) -> str:
        self.is_started = True
        try:
            return await asyncio.shield(self.may_end)
        except asyncio.CancelledError:
            self.is_cancelled = True
            raise


@pytest.fixture
async def work() -> Work:
    return Work()


async def test_work_that_ends_before_the_deadline_gives_its_result(clock: FakeClock, work: Work) -> None:
    waiting = asyncio.ensure_future(finish_by(clock, START + 2, work()))
    await clock.advance(1.9)
    assert work.is_started
    work.may_end.set_result("done")
    assert await waiting == "done"
    assert clock.next_wake is None


async def test_work_that_ends_at_the_very_deadline_is_in_time(clock: FakeClock) -> None:
    assert clock.next_wake is None

    async def exactly() -> str:
        await clock.sleep(2)
        return "done"

    waiting = asyncio.ensure_future(finish_by(clock, START + 2, exactly()))
    await clock.advance(2)
    assert waiting.result() == "done"


async def test_work_that_does_not_end_is_cancelled_at_the_deadline(clock: FakeClock, work: Work) -> None:
    waiting = asyncio.ensure_future(finish_by(clock, START + 2, work()))
    await clock.advance(1.9)
    assert not waiting.done()
    await clock.advance(0.1)
    assert work.is_cancelled
    with pytest.raises(TimeoutError):
        waiting.result()


async def test_work_that_fails_raises_its_own_error(clock: FakeClock, work: Work) -> None:
    waiting = asyncio.ensure_future(finish_by(clock, START + 2, work()))
    await clock.settle()
    work.may_end.set_exception(LookupError("no"))
    with pytest.raises(LookupError):
        await waiting
    assert clock.next_wake is None


async def test_a_deadline_already_passed_cancels_work_that_needs_time(clock: FakeClock, work: Work) -> None:
    with pytest.raises(TimeoutError):
        await finish_by(clock, START - 1, work())


async def test_a_cancelled_caller_takes_the_work_and_the_alarm_along(clock: FakeClock, work: Work) -> None:
    waiting = asyncio.ensure_future(finish_by(clock, START + 2, work()))
    await clock.settle()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert work.is_cancelled
    assert clock.next_wake is None


async def test_work_that_ends_while_it_is_cancelled_is_waited_for(clock: FakeClock) -> None:
    ended: list[float] = []

    async def reluctant() -> None:
        try:
            await clock.sleep(60)
        finally:
            await asyncio.shield(clock.sleep(1))
            ended.append(clock.monotonic())

    waiting = asyncio.ensure_future(finish_by(clock, START + 2, reluctant()))
    await clock.advance(2.5)
    assert not waiting.done()
    await clock.advance(1)
    assert ended == [START + 3]
    with pytest.raises(TimeoutError):
        waiting.result()


async def test_the_system_clock_is_monotonic_and_lets_others_run() -> None:
    clock: Clock = SystemClock()
    turns: list[str] = []

    async def other() -> None:
        turns.append("other")

    before = time.monotonic()
    task = asyncio.ensure_future(other())
    await clock.sleep(-1.0)
    assert turns == ["other"]
    assert before <= clock.monotonic() <= time.monotonic()
    await task


async def test_sleepers_wake_in_order_each_at_its_own_time(clock: FakeClock) -> None:
    woken: list[tuple[str, float]] = []

    async def sleeper(name: str, *naps: float) -> None:
        for nap in naps:
            await clock.sleep(nap)
            woken.append((name, clock.monotonic() - START))

    tasks = [asyncio.ensure_future(sleeper("a", 3, 1)), asyncio.ensure_future(sleeper("b", 1, 1, 1))]
    await clock.advance(2.5)
    assert woken == [("b", 1), ("b", 2)]
    await clock.advance(1.5)
    assert woken == [("b", 1), ("b", 2), ("a", 3), ("b", 3), ("a", 4)]
    assert clock.monotonic() == START + 4
    await asyncio.gather(*tasks)


async def test_after_a_jump_all_late_sleepers_wake_in_one_turn(clock: FakeClock) -> None:
    woken: list[float] = []

    async def sleeper(nap: float) -> None:
        await clock.sleep(nap)
        woken.append(clock.monotonic() - START)

    tasks = [asyncio.ensure_future(sleeper(nap)) for nap in (1, 2, 100)]
    await clock.settle()
    clock.jump(50)
    await clock.settle()
    assert woken == []
    await clock.advance()
    assert woken == [50, 50]
    await clock.advance(50)
    assert woken == [50, 50, 100]
    await asyncio.gather(*tasks)


async def test_waiting_for_a_condition_goes_from_sleeper_to_sleeper(clock: FakeClock) -> None:
    ticks: list[float] = []

    async def tick() -> None:
        while True:
            await clock.sleep(1)
            ticks.append(clock.monotonic())

    task = asyncio.ensure_future(tick())
    assert await clock.run_until(lambda: len(ticks) == 3) == 3
    with pytest.raises(AssertionError, match="within 2 s"):
        await clock.run_until(lambda: False, within=2)
    task.cancel()
    with pytest.raises(AssertionError, match="nobody sleeps"):
        await clock.run_until(lambda: False)


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 0.05])
async def test_a_wait_without_an_event_ends_at_its_time(seconds: float) -> None:
    clock = SystemClock()
    deadline = clock.monotonic() + seconds
    async with asyncio.timeout(LONG_SECONDS):
        await wait_until(clock, deadline, asyncio.Event())
    assert clock.monotonic() >= deadline


async def test_a_wait_ends_with_its_event_or_its_task() -> None:
    event, begun = asyncio.Event(), len(asyncio.all_tasks())
    for end in (event.set, None):
        event.clear()
        waiting = asyncio.create_task(wait_until(SystemClock(), math.inf, event))
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == begun + 1, "it needs no task of its own"
        (end or waiting.cancel)()
        async with asyncio.timeout(LONG_SECONDS):
            await asyncio.wait((waiting,))
        assert waiting.cancelled() is (end is None)
