"""Replicas that this router failed to connect to come last in its own choices, for some time."""

from __future__ import annotations

import asyncio
import math

from shared_registry.aio.clock import Clock, wait_until
from shared_registry.selection.view import View


class Cooldown:
    """Keeps time for the view, so that selecting looks at no clock. One `run` at a time."""

    def __init__(self, view: View, *, seconds: float, clock: Clock) -> None:
        """Set up.

        Args:
            view: Where the replicas come last.
            seconds: For how long; 0 for not at all.
            clock: For that.
        """
        self._view = view
        self._seconds = seconds
        self._clock = clock
        self._until: dict[str, float] = {}
        self._is_changed = asyncio.Event()

    def begin(self, key: str) -> None:
        """Let a replica come last from now on."""
        if self._seconds > 0:
            self._until[key] = self._clock.monotonic() + self._seconds
            self._show()

    def end(self, key: str) -> None:
        """Let a replica be chosen as before: connecting to it has succeeded."""
        if self._until.pop(key, None) is not None:
            self._show()

    async def run(self) -> None:
        """End each in its time, until cancelled."""
        while True:
            self._is_changed.clear()
            now = self._clock.monotonic()
            if over := [key for key, until in self._until.items() if until <= now]:
                for key in over:
                    del self._until[key]
                self._show()
            due = min(self._until.values(), default=math.inf)
            await wait_until(self._clock, min(due, now + 3600), self._is_changed)

    def _show(self) -> None:
        self._view.cool(self._until)
        self._is_changed.set()
