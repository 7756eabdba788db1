"""The timeout that makes up for an event loop that stood still."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from shared_registry.aio.time_limit import LATE_SECONDS, READ_SECONDS, time_limit

LIMIT = 2.0


class Alarms:
    """Stands in for the loop's clock and timers: they ring when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.pending: list[tuple[float, asyncio.Handle]] = []
        self._loop = asyncio.get_running_loop()
        monkeypatch.setattr(self._loop, "time", lambda: self.now)
        monkeypatch.setattr(self._loop, "call_at", self._call_at)

    def _call_at(self, when: float, callback: Callable[..., Any], *arguments: Any, **_: Any) -> asyncio.Handle:
        handle = asyncio.Handle(callback, arguments, self._loop)
        self.pending.append((when, handle))
        return handle

    async def stand_still_until(self, now: float) -> None:
        """Let it be that time at once, and everything happen that became due meanwhile."""
        self.now = now
        due = [handle for when, handle in self.pending if when <= now and not handle.cancelled()]
        self.pending = [(when, handle) for when, handle in self.pending if when > now]
        for handle in due:
            handle._run()
        await self._turns()

    async def run_until(self, now: float) -> None:
        """Let time pass, and every alarm ring when it is due."""
        await self._turns()
        while (next_at := min(self.next_at, default=now + 1)) <= now:
            await self.stand_still_until(next_at)
        self.now = now
        await self._turns()

    async def _turns(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    @property
    def next_at(self) -> list[float]:
        return [when for when, handle in self.pending if not handle.cancelled()]


async def limited(answer: asyncio.Event) -> str:
    try:
        async with time_limit(LIMIT) as scope:
            await answer.wait()
    except TimeoutError:
        assert scope.expired()
        return "timeout"
    assert not scope.expired()
    return "answered"


@pytest.fixture
async def alarms(monkeypatch: pytest.MonkeyPatch) -> Alarms:
    return Alarms(monkeypatch)


async def test_work_is_cancelled_at_the_limit(alarms: Alarms) -> None:
    task = asyncio.create_task(limited(asyncio.Event()))
    await alarms.run_until(100.0 + LIMIT - 0.01)
    assert not task.done()
    await alarms.stand_still_until(100.0 + LIMIT + LATE_SECONDS / 2)
    assert task.done()
    assert task.result() == "timeout"


async def test_a_limit_not_reached_leaves_no_alarm(alarms: Alarms) -> None:
    answer = asyncio.Event()
    task = asyncio.create_task(limited(answer))
    await alarms.run_until(101.0)
    answer.set()
    assert await task == "answered"
    assert alarms.next_at == []


@pytest.mark.parametrize(("late", "extension"), [(LATE_SECONDS + 0.01, LATE_SECONDS + 0.01), (1.0, 1.0), (60.0, LIMIT)])
async def test_lateness_at_the_end_is_made_up_for_within_bounds(alarms: Alarms, late: float, extension: float) -> None:
    tasks = [asyncio.create_task(limited(asyncio.Event())) for _ in range(2)]
    await alarms.run_until(100.0 + LIMIT - 0.01)
    rings_at = 100.0 + LIMIT + late
    await alarms.stand_still_until(rings_at)
    await alarms.run_until(rings_at + extension - 0.01)
    assert not any(task.done() for task in tasks)
    await alarms.run_until(rings_at + extension + 0.01)
    assert [task.result() for task in tasks] == ["timeout", "timeout"]


@pytest.mark.parametrize("pauses", [[1.5], [0.4, 0.3, 0.8]])
async def test_pauses_before_the_end_do_not_count(alarms: Alarms, pauses: list[float]) -> None:
    task = asyncio.create_task(limited(asyncio.Event()))
    await alarms.run_until(100.0)
    lost = 0.0
    for pause in pauses:
        due = alarms.next_at[0]
        await alarms.run_until(due - 0.01)
        await alarms.stand_still_until(due + pause)
        lost += pause
    await alarms.run_until(100.0 + LIMIT + lost - 0.01)
    assert not task.done()
    await alarms.run_until(100.0 + LIMIT + lost + 0.01)
    assert task.result() == "timeout"


async def test_a_loop_that_is_always_late_still_ends(alarms: Alarms) -> None:
    task = asyncio.create_task(limited(asyncio.Event()))
    await alarms.run_until(100.0)
    pauses = 0
    while not task.done():
        await alarms.stand_still_until(alarms.next_at[0] + 2 * LATE_SECONDS)
        pauses += 1
    assert pauses < 50
    assert alarms.now < 100.0 + 4 * LIMIT


@pytest.mark.parametrize("is_there", [True, False])
async def test_a_reply_is_read_after_the_last_pause(alarms: Alarms, is_there: bool) -> None:
    answer = asyncio.Event()
    task = asyncio.create_task(limited(answer))
    await alarms.run_until(100.0)
    left = LIMIT
    while left > READ_SECONDS + 0.001:
        await alarms.stand_still_until(alarms.next_at[0] + 60)
        assert not task.done(), "every pause leaves time for one more read"
        left = alarms.next_at[0] - alarms.now
    if is_there:
        answer.set()
    await alarms.run_until(alarms.now + 60)
    assert task.result() == ("answered" if is_there else "timeout")


async def test_an_answer_that_was_waiting_is_taken(alarms: Alarms) -> None:
    answer = asyncio.Event()
    task = asyncio.create_task(limited(answer))
    await alarms.run_until(100.0)
    answer.set()
    await alarms.stand_still_until(160.0)
    assert task.result() == "answered"


async def test_cancelling_the_caller_cancels_the_work(alarms: Alarms) -> None:
    task = asyncio.create_task(limited(asyncio.Event()))
    await alarms.run_until(101.0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert alarms.next_at == []
