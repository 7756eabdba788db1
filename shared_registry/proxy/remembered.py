"""Remembers a value that is expensive to read, so that any number of requests read it only so often."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Remembered(Generic[T]):
    """A value that is read at most once in a given time. Concurrent calls wait for one reading."""

    def __init__(self, read: Callable[[], Awaitable[T]], *, seconds: float) -> None:
        """Read nothing yet.

        Args:
            read: Reads the value.
            seconds: How long a value is used. With 0 it serves only the calls that wait for its reading.
        """
        self._read = read
        self._seconds = seconds
        self._values: list[T] = []
        self._read_at = 0.0
        self._reads = 0
        self._reading = asyncio.Lock()

    async def get(self) -> T:
        """Return the value, which may be as old as the time given. A failure to read is raised, and not remembered."""
        reads_before = self._reads
        async with self._reading:
            now = asyncio.get_running_loop().time()
            is_of_this_call = self._reads > reads_before  # another call has read while this one waited
            if not is_of_this_call and (not self._values or now - self._read_at >= self._seconds):
                self._values = [await self._read()]
                self._read_at = now
                self._reads += 1
            return self._values[0]
