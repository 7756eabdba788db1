"""Reads the loads of all replicas now and then, for the policies that go by them."""

from __future__ import annotations

import contextlib
import math

from shared_registry.aio.clock import Clock
from shared_registry.errors import StoreError
from shared_registry.selection.view import View
from shared_registry.store.reader import Reader

IDLE_SECONDS = 60.0
"""For how long after the last choice by load the loads are still read, where the router's own policy needs none."""


class LoadUpdates:
    """Keeps the loads of a view fresh. One `run` at a time."""

    def __init__(self, reader: Reader, view: View, *, refresh_seconds: float, clock: Clock) -> None:
        """Set up.

        Args:
            reader: Where the loads are read.
            view: Whose policies go by them.
            refresh_seconds: How often.
            clock: For waiting.
        """
        self._reader = reader
        self._view = view
        self._refresh_seconds = refresh_seconds
        self._clock = clock
        self._used_at = -math.inf

    async def run(self) -> None:
        """Read while a policy goes by what is read, until cancelled. While Redis is away what was read last counts."""
        while True:
            if self._is_wanted():
                with contextlib.suppress(StoreError):  # the mirror says that Redis is away
                    await self._read()
            await self._clock.sleep(self._refresh_seconds)

    def _is_wanted(self) -> bool:
        selection = self._view.selection
        if selection.loads.is_used:
            self._used_at = self._clock.monotonic()
        return selection.goes_by_loads or self._clock.monotonic() - self._used_at < IDLE_SECONDS

    async def _read(self) -> None:
        selection = self._view.selection
        selection.look()
        in_flight, _ = await self._reader.loads(
            {replica.key: replica.endpoint for replica in self._view.preference}, ramping=self._view.ramping
        )
        selection.see(in_flight)
