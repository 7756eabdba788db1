"""Measures how late events reach this router. Pure.

An event has the time of the Redis server at which it was written, and this router receives it by a clock of its own. So
the two clocks are compared, by readings of the server's clock that are made for the metrics anyway. Of a reading it is
known that the server made it between the request and the reply. So of the last readings the quickest one counts, unless
it is old.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from shared_registry.model import Event
from shared_registry.tallies import FAST_SECONDS, Distribution

READINGS = 8
EVENT_SECONDS = 0.001
"""The resolution of an event's time."""
DRIFT = 0.0002
"""How far two clocks may run apart, as a share of the time between two readings."""


class ClockReading(NamedTuple):
    """The server's time, and between which two moments of this router's monotonic clock it was read. In seconds."""

    server_time: float
    asked_at: float
    answered_at: float

    @property
    def ahead(self) -> float:
        """How far the server's clock is ahead of this router's monotonic clock."""
        return self.server_time - (self.asked_at + self.answered_at) / 2

    @property
    def doubt(self) -> float:
        """How wrong that may be."""
        return (self.answered_at - self.asked_at) / 2


class StreamLag:
    """Counts the lags of one router's event stream. Before the first reading of the server's clock it counts none.

    Attributes:
        lags: The time from the writing of an event until this router received it, in seconds.
    """

    def __init__(self) -> None:
        self.lags = Distribution(FAST_SECONDS)
        self._readings: deque[ClockReading] = deque(maxlen=READINGS)

    def compare(self, reading: ClockReading) -> None:
        """Use a reading of the server's clock. Earlier ones that contradict it were of another server, or clock."""
        if any(_contradict(one, reading) for one in self._readings):
            self._readings.clear()
        self._readings.append(reading)

    def note(self, events: Sequence[Event], *, now: float) -> None:
        """Count events of the stream that have just been received.

        Args:
            events: The events.
            now: The monotonic clock.
        """
        if not self._readings:
            return
        best = min(self._readings, key=lambda one: one.doubt + DRIFT * (now - one.answered_at))
        server_now = now + best.ahead
        for event in events:
            self.lags.add(max(0.0, server_now - event.at))


def _contradict(one: ClockReading, other: ClockReading) -> bool:
    allowed = one.doubt + other.doubt + EVENT_SECONDS + DRIFT * abs(other.answered_at - one.answered_at)
    return abs(one.ahead - other.ahead) > allowed
