"""Computes how long to wait before the next attempt."""

from __future__ import annotations

import random


class Backoff:
    """Exponential delays with jitter, so that many clients of one outage do not return at once.

    The formula is "equal jitter": half of the step, plus a random share of the other half.
    """

    def __init__(self, *, first_seconds: float = 0.1, longest_seconds: float = 1.0, rng: random.Random) -> None:
        self._first = min(first_seconds, longest_seconds)
        self._longest = longest_seconds
        self._rng = rng
        self._step = self._first

    def next_seconds(self) -> float:
        """Return the next delay, and double the one after it up to the longest."""
        step = self._step
        self._step = min(step * 2, self._longest)
        return step / 2 + self._rng.random() * step / 2

    def reset(self) -> None:
        """Start over after a success."""
        self._step = self._first
