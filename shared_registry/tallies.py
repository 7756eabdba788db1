"""Counts of what has happened, cheap enough for the path of a request. Pure; for one event loop, without locks."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import repeat

FAST_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Upper bounds for what should take milliseconds: a call to Redis, a connection, a turn of the event loop."""
SLOW_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
"""Upper bounds for what depends on replicas and clients: a response, a session, a wait in the queue."""


class Distribution:
    """How values are spread over ranges.

    Attributes:
        bounds: The upper bounds of the ranges, each inclusive. There is one more range, without a bound.
        counts: The number of values in each range.
        total: The sum of all values.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def add_all(self, values: Sequence[float]) -> None:
        """Count many values."""
        counts = self.counts
        for at in map(bisect_left, repeat(self.bounds), values):
            counts[at] += 1
        self.total += sum(values)
