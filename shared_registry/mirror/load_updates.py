"""Reads the loads of all replicas at intervals, for selection policies that use them."""

from __future__ import annotations

import contextlib
import math

from shared_registry.aio.clock import Clock
from shared_registry.errors import StoreError
from shared_registry.mirror.mirror import REPLICAS_A_SECOND
from shared_registry.selection.view import View
from shared_registry.store.reader import Reader

IDLE_SECONDS = 60.0
"""How long loads are still read after the last choice that used them, if the router's own policy does not need them."""


class LoadUpdates:
    """Keeps the loads of a view up to date. Only one `run` may be active."""

    def __init__(self, reader: Reader, view: View, *, refresh_seconds: float, clock: Clock) -> None:
        """Read nothing yet; `run` does.

        Args:
            reader: Reads the loads from Redis.
            view: The view whose policies use the loads.
            refresh_seconds: The time between two reads. It is longer with so many replicas that more than
                `REPLICAS_A_SECOND` would be read.
            clock: For waiting.
        """
        self._reader = reader
        self._view = view
        self._refresh_seconds = refresh_seconds
        self._clock = clock
        self._used_at = -math.inf

    async def run(self) -> None:
        """Read the loads while a policy uses them, until cancelled. While Redis is unavailable, the last loads stay."""
        while True:
            if self._is_wanted():
                with contextlib.suppress(StoreError):  # the mirror logs that Redis is unavailable
                    await self._read()
            count = len(self._view.preference)
            await self._clock.sleep(max(self._refresh_seconds, count / REPLICAS_A_SECOND))

    def _is_wanted(self) -> bool:
        selection = self._view.selection
        if selection.loads.is_used:
            self._used_at = self._clock.monotonic()
        return selection.uses_loads or self._clock.monotonic() - self._used_at < IDLE_SECONDS

    async def _read(self) -> None:
        selection = self._view.selection
        selection.begin_read()
        in_flight, _ = await self._reader.loads(
            {replica.key: replica.endpoint for replica in self._view.preference}, ramping=self._view.ramping
        )
        selection.update(in_flight)
