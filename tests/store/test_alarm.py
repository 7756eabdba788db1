"""The alarm that many waits share, by the loop's clock and timers in the hands of the test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from shared_registry.store.lane import SharedAlarm

SECONDS = 2.0


class Timers:
    """Stands in for the loop's clock and timers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.set_to: list[tuple[float, Callable[[], Any]]] = []
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "time", lambda: self.now)
        monkeypatch.setattr(loop, "call_at", self._call_at)

    def _call_at(self, when: float, callback: Callable[..., Any], *arguments: Any) -> None:
        self.set_to.append((when, lambda: callback(*arguments)))

    def advance_to(self, now: float) -> None:
        """Let it be that time, with a loop that was never late."""
        while due := [when for when, _ in self.set_to if when <= now]:
            self.jump_to(min(due))
        self.now = now

    def jump_to(self, now: float) -> None:
        """Let it be that time at once, and what is due by then happen."""
        self.now = now
        due = [callback for when, callback in self.set_to if when <= now]
        self.set_to = [(when, callback) for when, callback in self.set_to if when > now]
        for callback in due:
            callback()


class Rung(list[str]):
    """Who was rung, in order."""

    def bell(self, name: str) -> Callable[[], None]:
        return lambda: self.append(name)


@pytest.fixture
async def timers(monkeypatch: pytest.MonkeyPatch) -> Timers:
    return Timers(monkeypatch)


async def test_each_alarm_rings_once_at_its_own_time(timers: Timers) -> None:
    """One timer serves all."""
    alarm, rung = SharedAlarm(SECONDS), Rung()
    for number in range(3):
        timers.advance_to(100.0 + number / 10)
        alarm.set(rung.bell(f"{number}"))
        assert len(timers.set_to) == 1
    for now, expected in [(101.9, ""), (102.01, "0"), (102.05, "0"), (102.11, "01"), (102.21, "012"), (200.0, "012")]:
        timers.advance_to(now)
        assert "".join(rung) == expected
        assert len(timers.set_to) == (len(rung) < 3)


async def test_a_cancelled_alarm_does_not_ring_and_others_do(timers: Timers) -> None:
    alarm, rung = SharedAlarm(SECONDS), Rung()
    bells = {name: rung.bell(name) for name in "abcd"}
    for bell in bells.values():
        alarm.set(bell)
    timers.advance_to(101.0)
    alarm.set(late := rung.bell("late"))
    for name in "ac":
        alarm.call_off(bells[name])
    alarm.call_off(bells["a"])
    timers.advance_to(102.01)
    assert rung == ["b", "d"]
    alarm.call_off(bells["b"])
    timers.advance_to(103.01)
    assert rung == ["b", "d", "late"]
    alarm.call_off(late)


async def test_without_alarms_the_timer_stops_and_starts_again(timers: Timers) -> None:
    alarm, rung = SharedAlarm(SECONDS), Rung()
    alarm.set(bell := rung.bell("a"))
    alarm.call_off(bell)
    timers.advance_to(102.0)
    assert timers.set_to == []
    alarm.set(bell)
    timers.advance_to(104.01)
    assert rung == ["a"]


async def test_an_alarm_set_during_an_idle_timer_rings_in_time(timers: Timers) -> None:
    """Set in the last moment of a timer that finds no other alarm."""
    alarm, rung = SharedAlarm(SECONDS), Rung()
    alarm.set(bell := rung.bell("a"))
    alarm.call_off(bell)
    timers.advance_to(100.19)
    alarm.set(bell)
    timers.advance_to(102.0)
    assert rung == []
    timers.advance_to(102.2)
    assert rung == ["a"]


async def test_a_ringing_alarm_may_set_and_cancel_others(timers: Timers) -> None:
    alarm, rung = SharedAlarm(SECONDS), Rung()
    other = rung.bell("other")

    def first() -> None:
        rung.append("first")
        alarm.call_off(other)
        alarm.set(first)

    alarm.set(first)
    alarm.set(other)
    alarm.set(rung.bell("last"))
    timers.advance_to(102.01)
    assert rung == ["first", "last"]
    timers.advance_to(104.02)
    assert rung == ["first", "last", "first"]
    alarm.call_off(first)
    timers.advance_to(106.0)
    assert timers.set_to == []


async def test_time_while_the_loop_was_blocked_does_not_count(timers: Timers) -> None:
    alarm, rung = SharedAlarm(SECONDS), Rung()
    alarm.set(rung.bell("before"))
    timers.advance_to(101.0)
    timers.now = 106.0  # what held up the loop sets another before the loop goes on
    alarm.set(rung.bell("during"))
    timers.jump_to(107.0)
    alarm.set(rung.bell("after"))
    assert rung == []
    timers.advance_to(107.8)
    assert rung == []
    timers.advance_to(108.1)
    assert rung == ["before"]
    timers.advance_to(108.8)
    assert rung == ["before"]
    timers.advance_to(109.2)
    assert rung == ["before", "during", "after"]


async def test_a_repeatedly_late_loop_still_runs_its_turns(timers: Timers) -> None:
    alarm, rung = SharedAlarm(SECONDS), Rung()
    alarm.set(rung.bell("a"))
    turns = 0
    while not rung:
        turns += 1
        timers.jump_to(timers.now + 5.0)
    assert turns >= 10


async def test_small_lateness_counts(timers: Timers) -> None:
    alarm, rung = SharedAlarm(SECONDS), Rung()
    alarm.set(rung.bell("a"))
    while not rung:
        timers.jump_to(timers.set_to[0][0] + 0.09)
    assert timers.now < 102.2


async def test_a_failing_alarm_does_not_stop_the_others(timers: Timers) -> None:
    alarm, rung = SharedAlarm(SECONDS), Rung()

    def fail() -> None:
        raise RuntimeError

    alarm.set(fail)
    alarm.set(rung.bell("a"))
    with pytest.raises(RuntimeError):
        timers.advance_to(102.01)
    timers.advance_to(102.3)
    assert rung == ["a"]


def test_after_a_loop_closed_alarms_ring_on_the_next() -> None:
    alarm, rung = SharedAlarm(0.01), Rung()

    async def set_only() -> None:
        alarm.set(rung.bell("lost"))

    async def wait() -> None:
        rings = asyncio.Event()
        alarm.set(rings.set)
        async with asyncio.timeout(5):
            await rings.wait()

    asyncio.run(set_only())
    asyncio.run(wait())
    assert rung == []


async def test_a_quiet_alarm_ticks_only_near_its_end(timers: Timers) -> None:
    alarm, rung = SharedAlarm(SECONDS, quiet_seconds=1.0, is_shared=False), Rung()
    alarm.set(rung.bell("a"))
    assert [when for when, _ in timers.set_to] == [101.0]
    timers.advance_to(101.05)
    assert [when for when, _ in timers.set_to] == [pytest.approx(101.1)]
    timers.advance_to(101.99)
    assert rung == []
    timers.advance_to(102.01)
    assert rung == ["a"]


async def test_a_pause_past_the_quiet_time_does_not_count(timers: Timers) -> None:
    alarm, rung = SharedAlarm(SECONDS, quiet_seconds=1.0, is_shared=False), Rung()
    alarm.set(rung.bell("a"))
    timers.jump_to(105.0)
    timers.advance_to(105.9)
    assert rung == []
    timers.advance_to(106.2)
    assert rung == ["a"]


async def test_an_alarm_that_is_not_shared_leaves_no_timer() -> None:
    """Each timer would wake an idle process."""
    alarm, rung = SharedAlarm(SECONDS, is_shared=False), Rung()
    alarm.set(bell := rung.bell("a"))
    alarm.call_off(bell)
    assert alarm._timer is not None
    assert alarm._timer.cancelled()


async def test_a_rare_alarm_called_off_leaves_no_timer() -> None:
    """An idle process would wake for it. Where calls follow each other, the timer runs on instead."""
    loop, rung = asyncio.get_running_loop(), Rung()
    alarm, timers = SharedAlarm(SECONDS), list[asyncio.TimerHandle]()
    first, second = rung.bell("first"), rung.bell("second")

    def call_at(when: float, callback: Callable[..., Any], *arguments: Any) -> asyncio.TimerHandle:
        timers.append(type(loop).call_at(loop, when, callback, *arguments))
        return timers[-1]

    loop.call_at = call_at  # type: ignore[assignment, method-assign]
    try:
        for ring in (first, second, first):
            alarm.set(ring)
            alarm.call_off(ring)
    finally:
        del loop.call_at
    assert [timer.cancelled() for timer in timers] == [True, False]
    timers[1].cancel()
