"""The lag of the event stream, from readings of a clock that is not this router's."""

from __future__ import annotations

import pytest

from shared_registry.mirror.stream_lag import ClockReading, StreamLag
from shared_registry.model import Event, EventKind

AHEAD = 1_000_000.0


def event(at: float) -> Event:
    return Event("1-0", EventKind.ROUTER_JOINED, at, "0-0", "r", 0)


def reading(now: float, *, ahead: float = AHEAD, takes: float = 0.002) -> ClockReading:
    return ClockReading(now + ahead, now - takes / 2, now + takes / 2)


def lag_of(lag: StreamLag, written_at: float, *, now: float) -> float:
    before = lag.lags.total
    lag.note([event(written_at)], now=now)
    return lag.lags.total - before


def test_nothing_is_counted_before_the_clocks_were_compared() -> None:
    lag = StreamLag()
    lag.note([event(5.0)], now=5.0)
    assert sum(lag.lags.counts) == 0


def test_a_lag_is_measured_by_the_server_clock() -> None:
    lag = StreamLag()
    lag.compare(reading(10.0))
    assert lag_of(lag, AHEAD + 10.5, now=10.75) == pytest.approx(0.25)


def test_the_quickest_reading_counts() -> None:
    lag = StreamLag()
    lag.compare(reading(10.0))
    slow = ClockReading(11.0 + AHEAD, 10.0, 11.001)  # the reply took long
    lag.compare(slow)
    assert lag_of(lag, AHEAD + 12.0, now=12.1) == pytest.approx(0.1)


def test_another_server_with_another_clock_is_noticed() -> None:
    lag = StreamLag()
    lag.compare(reading(10.0))
    lag.compare(reading(20.0, ahead=AHEAD + 7.0, takes=0.1))
    assert lag_of(lag, AHEAD + 7.0 + 20.0, now=20.5) == pytest.approx(0.5)


def test_clocks_that_run_apart_slowly_do_not_contradict() -> None:
    lag = StreamLag()
    for at in range(5):
        lag.compare(reading(at * 60.0, ahead=AHEAD + at * 0.006, takes=0.0001 * (at + 1)))
    assert lag_of(lag, AHEAD + 0.024 + 239.9, now=240.0) == pytest.approx(0.1, abs=0.001)


def test_a_lag_is_never_negative() -> None:
    lag = StreamLag()
    lag.compare(reading(10.0))
    assert lag_of(lag, AHEAD + 10.01, now=10.0) == 0.0
