"""Counts the sessions under way."""

from __future__ import annotations

import asyncio


class LiveSessions:
    """The sessions under way at one pool, or at a whole router, including HTTP requests and sessions that wait.

    Attributes:
        count: Their number.
    """

    def __init__(self, whole: LiveSessions | None = None) -> None:
        """Start at 0. `whole` counts each session as well."""
        self.count = 0
        self._whole = whole
        self._idle: asyncio.Event | None = None

    def begin(self) -> None:
        """Count a session until `end()`."""
        self.count += 1
        if self._whole is not None:
            self._whole.count += 1

    def end(self) -> None:
        """End a session."""
        self.count -= 1
        if self._whole is not None:
            self._whole.end()
        if not self.count and self._idle is not None:
            self._idle.set()

    async def until_idle(self) -> None:
        """Wait until no session is under way."""
        while self.count:
            self._idle = asyncio.Event()
            await self._idle.wait()
