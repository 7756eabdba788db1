"""The timeout that makes up for an event loop that stood still."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from shared_registry.aio.time_limit import LATE_SECONDS, time_limit

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

    async def ring_at(self, now: float) -> None:
        """Let it be that time, and everything due then happen."""
        self.now = now
        due = [handle for when, handle in self.pending if when <= now and not handle.cancelled()]
        self.pending = [(when, handle) for when, handle in self.pending if when > now]
        for handle in due:
            handle._run()
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
    await alarms.ring_at(100.0)
    await alarms.ring_at(100.0 + LIMIT - 0.01)
    assert not task.done()
    await alarms.ring_at(100.0 + LIMIT + LATE_SECONDS / 2)
    assert task.done()
    assert task.result() == "timeout"


async def test_a_limit_not_reached_leaves_no_alarm(alarms: Alarms) -> None:
    answer = asyncio.Event()
    task = asyncio.create_task(limited(answer))
    await alarms.ring_at(101.0)
    answer.set()
    assert await task == "answered"
    assert alarms.next_at == []


@pytest.mark.parametrize(("late", "extension"), [(LATE_SECONDS + 0.01, LATE_SECONDS + 0.01), (1.0, 1.0), (60.0, LIMIT)])
async def test_lateness_of_the_loop_extends_the_limit_once_only(alarms: Alarms, late: float, extension: float) -> None:
    """Within bounds."""
    answer = asyncio.Event()
    tasks = [asyncio.create_task(limited(answer)) for _ in range(2)]
    await alarms.ring_at(100.0)
    rings_at = 100.0 + LIMIT + late
    await alarms.ring_at(rings_at)
    assert not any(task.done() for task in tasks)
    assert alarms.next_at == pytest.approx([rings_at + extension] * 2)
    await alarms.ring_at(rings_at + extension + 60.0)
    assert [task.result() for task in tasks] == ["timeout", "timeout"]


async def test_an_answer_that_has_already_arrived_is_used(alarms: Alarms) -> None:
    answer = asyncio.Event()
    task = asyncio.create_task(limited(answer))
    await alarms.ring_at(100.0)
    answer.set()
    await alarms.ring_at(160.0)
    assert task.result() == "answered"


async def test_cancelling_the_caller_cancels_the_work(alarms: Alarms) -> None:
    task = asyncio.create_task(limited(asyncio.Event()))
    await alarms.ring_at(101.0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert alarms.next_at == []
