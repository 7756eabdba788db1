"""One timer of the event loop for many waits of the same length."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class SharedAlarm:
    """Rings some time after it was set, unless that was called off. Belongs to one event loop at a time.

    The loop sorts its timers and sweeps out the cancelled ones, which costs a call that is over at once more than all
    else that bounds it. What is always due in the order in which it was set needs no sorting: one timer goes from the
    first that is left to the next.
    """

    def __init__(self, seconds: float) -> None:
        """Set nothing.

        Args:
            seconds: How long after it was set it rings.
        """
        self._seconds = seconds
        self._due: dict[Callable[[], None], float] = {}
        self._armed_on: asyncio.AbstractEventLoop | None = None

    def set(self, ring: Callable[[], None]) -> None:
        """Have this called once; it may be set again when it was called, or called off."""
        loop = asyncio.get_running_loop()
        due = loop.time() + self._seconds
        if loop is not self._armed_on:
            self._due.clear()  # nothing is left, or its loop was closed and will not ring
            self._arm(loop, due)
        self._due[ring] = due

    def call_off(self, ring: Callable[[], None]) -> None:
        """Have this not called, if it was not yet."""
        self._due.pop(ring, None)

    def _arm(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        self._armed_on = loop
        loop.call_at(due, self._ring, loop)

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._due:
            ring, due = next(iter(self._due.items()))
            if due > loop.time():
                self._arm(loop, due)
                return
            del self._due[ring]
            ring()
        self._armed_on = None
