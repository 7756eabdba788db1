"""The cooldown: this router chooses a replica last, for some time after it failed to connect to the replica.

A replica that other routers reach and this one does not is chosen last until this router reaches it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

from shared_registry.aio.clock import Clock, wait_until
from shared_registry.selection.view import View

REACH_SECONDS = 0.05
"""How long what one probe has found out waits for others, because each change costs time for each replica."""


class Cooldown:
    """Starts and ends cooldowns in the view, so that a selection reads no clock. Only one `run` at a time."""

    def __init__(self, view: View, *, seconds: float, clock: Clock) -> None:
        """Set up.

        Args:
            view: The view that is told which replicas come last.
            seconds: How long a cooldown lasts; 0 turns cooldowns off.
            clock: Used for the end of each cooldown.
        """
        self._view = view
        self._seconds = seconds
        self._clock = clock
        self._until: dict[str, float] = {}
        self._unreached: set[str] = set()
        self._is_changed = asyncio.Event()
        self._is_pending = False

    def reload(self, seconds: float) -> None:
        """Change the length of the cooldowns that begin from now on."""
        self._seconds = seconds

    def begin(self, key: str) -> None:
        """Begin the cooldown of a replica, or extend it."""
        if self._seconds > 0:
            self._until[key] = self._clock.monotonic() + self._seconds
            self._show()

    def end(self, key: str) -> None:
        """End the cooldown of a replica, because connecting to it has succeeded."""
        was_unreached = key in self._unreached
        self._unreached.discard(key)
        if self._until.pop(key, None) is not None or was_unreached:
            self._show()

    def reach(self, keys: Sequence[str], is_reached: bool) -> None:  # noqa: FBT001  the state to set
        """Record whether probes of this router reach replicas. Until one does, a replica is chosen last.

        `run` tells the view soon, of the results of many probes at once.
        """
        before = len(self._unreached)
        (self._unreached.difference_update if is_reached else self._unreached.update)(keys)
        if len(self._unreached) != before:
            self._is_pending = True
            self._is_changed.set()

    async def run(self) -> None:
        """End each cooldown when it is over, and tell the view what probes find out, until cancelled."""
        while True:
            if self._is_pending:
                await self._clock.sleep(REACH_SECONDS)
                self._show()
            self._is_changed.clear()
            now = self._clock.monotonic()
            if over := [key for key, until in self._until.items() if until <= now]:
                for key in over:
                    del self._until[key]
                self._show()
            due = min(self._until.values(), default=math.inf)
            await wait_until(self._clock, min(due, now + 3600), self._is_changed)

    def _show(self) -> None:
        self._is_pending = False
        self._view.cool(self._until.keys() | self._unreached)
        self._is_changed.set()
