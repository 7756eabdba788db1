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
            seconds: How long a value is used.
        """
        self._read = read
        self._seconds = seconds
        self._values: list[T] = []
        self._read_at = 0.0
        self._reading = asyncio.Lock()

    async def get(self) -> T:
        """Return the value, which may be as old as the time given. A failure to read is raised, and not remembered."""
        async with self._reading:
            now = asyncio.get_running_loop().time()
            if not self._values or now - self._read_at >= self._seconds:
                self._values = [await self._read()]
                self._read_at = now
            return self._values[0]
