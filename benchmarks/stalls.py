"""Measures how long the event loop of a process works without giving way, and how much of that is garbage collection.

It counts the CPU time of the loop's thread between two ticks of a timer, so that other processes on the machine do not
count. A tick comes each millisecond, so a stall is measured at most that much too long.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Mapping

TICK_SECONDS = 0.001


class Stalls:
    """Watches the running event loop from its making on."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._longest = self._longest_collection = 0.0
        self._collected_at = 0.0
        self._used = time.thread_time()
        gc.callbacks.append(self._on_collection)
        self._tick()

    def take(self) -> dict[str, float]:
        """Return the longest stall, and the longest garbage collection, in seconds since the last call."""
        found = {"stall": self._longest, "collection": self._longest_collection}
        self._longest = self._longest_collection = 0.0
        return found

    def _tick(self) -> None:
        used = time.thread_time()
        self._longest = max(self._longest, used - self._used)
        self._used = used
        self._loop.call_later(TICK_SECONDS, self._tick)

    def _on_collection(self, phase: str, _: Mapping[str, int]) -> None:
        now = time.thread_time()
        if phase == "start":
            self._collected_at = now
        else:
            self._longest_collection = max(self._longest_collection, now - self._collected_at)
