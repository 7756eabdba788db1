"""One timer of the event loop for many waits of one length, which count only while the loop was there to listen."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

TICKS = 10
"""How often the timer rings within the length of a wait: the loop needs a few turns to read an answer that has come."""


class SharedAlarm:
    """Rings some time after it was set, unless that was called off. Belongs to one event loop at a time.

    The loop sorts its timers and sweeps out the cancelled ones, which costs a call that is over at once more than all
    else that bounds it. What is always due in the order in which it was set needs no sorting: one timer goes from tick
    to tick for all.

    A tick that comes much too late shows that the loop was busy with something else, or the process had no processor.
    An answer may have come meanwhile that nobody could read. That time is not counted.
    """

    def __init__(self, seconds: float) -> None:
        """Set nothing.

        Args:
            seconds: How long after it was set it rings.
        """
        self._seconds = seconds
        self._tick_seconds = seconds / TICKS
        self._due: dict[Callable[[], None], float] = {}
        self._armed_on: asyncio.AbstractEventLoop | None = None
        self._next_tick = 0.0
        self._not_counted = 0.0

    def set(self, ring: Callable[[], None]) -> None:
        """Have this called once; it may be set again when it was called, or called off."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if loop is not self._armed_on:
            self._due.clear()  # nothing is left, or its loop was closed and will not ring
            self._not_counted = 0.0
            self._arm(loop, now + self._tick_seconds)
        # What comes after a tick that is late already must not be due later than what comes after that tick.
        self._due[ring] = min(now, self._next_tick) - self._not_counted + self._seconds

    def call_off(self, ring: Callable[[], None]) -> None:
        """Have this not called, if it was not yet."""
        self._due.pop(ring, None)

    def _arm(self, loop: asyncio.AbstractEventLoop, at: float) -> None:
        self._armed_on = loop
        self._next_tick = at
        loop.call_at(at, self._tick, loop)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        late = now - self._next_tick
        if late > self._tick_seconds / 2:
            self._not_counted += late
        self._next_tick = now
        try:
            self._ring_due(now)
        finally:
            if self._due:
                first = next(iter(self._due.values())) + self._not_counted
                self._arm(loop, min(first, now + self._tick_seconds))
            else:
                self._armed_on = None

    def _ring_due(self, now: float) -> None:
        while self._due:
            ring, due = next(iter(self._due.items()))
            if due + self._not_counted > now:
                return
            del self._due[ring]
            ring()
