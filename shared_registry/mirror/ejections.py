"""Ends ejections in this router's view by this router's clock, so that they end also while Redis is away.

Heartbeats end ejections in Redis. While Redis can be used, the event of that comes first.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

from shared_registry.aio.clock import Clock, wait_until
from shared_registry.errors import StoreError
from shared_registry.mirror.mirror import Mirror
from shared_registry.model import Event
from shared_registry.store.reader import Reader


class Ejections:
    """Watches the ejections that a view shows. Only one `run` may be active."""

    def __init__(
        self, reader: Reader, mirror: Mirror, *, base_seconds: float, grace_seconds: float, clock: Clock
    ) -> None:
        """Read nothing yet; `run` does.

        Args:
            reader: Reads the server's time.
            mirror: Its view shows the ejections.
            base_seconds: The length of a first ejection, for one whose end cannot be converted to this router's clock.
            grace_seconds: How long to wait for the event of a heartbeat after the end.
            clock: For measuring and waiting.
        """
        self._reader = reader
        self._mirror = mirror
        self._base_seconds = base_seconds
        self._grace_seconds = grace_seconds
        self._clock = clock
        self._known: dict[str, tuple[float, float]] = {}
        self._ended: dict[str, float] = {}
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """End each ejection when it is over, until cancelled."""
        with self._mirror.subscribed(self._notice):
            while True:
                self._changed.clear()
                await self._follow()
                await wait_until(self._clock, self._end_due(), self._changed)

    def _notice(self, events: Sequence[Event]) -> None:
        # An end that comes by an event needs no watch any more; `_follow` finds that out when the watch ends.
        if not events or any(event.record and event.record.ejected_until is not None for event in events):
            self._changed.set()

    async def _follow(self) -> None:
        """Find the ejections of the view, and convert the ends of new ones to this router's clock."""
        ejected = self._mirror.view.ejected
        self._known = {key: known for key, known in self._known.items() if ejected.get(key) == known[0]}
        if len(self._known) == len(ejected):
            return
        try:
            server_now: float | None = await self._reader.server_time()
        except StoreError:
            server_now = None
        now = self._clock.monotonic()
        for key, until in ejected.items():
            if key not in self._known:
                left = self._base_seconds if server_now is None else max(0.0, until - server_now)
                self._known[key] = until, now + left + self._grace_seconds

    def _end_due(self) -> float:
        """End the ejections that are over. Return when the next one is, or when to look again."""
        now = self._clock.monotonic()
        if over := {key: until for key, (until, end) in self._known.items() if end <= now}:
            for key in over:
                del self._known[key]
            self._ended = {
                key: until for key, until in self._ended.items() if self._mirror.view.get(key) is not None
            } | over
            self._mirror.view.end_ejections(self._ended)
        due = min((end for _, end in self._known.values()), default=math.inf)
        return min(due, now + 3600.0)
