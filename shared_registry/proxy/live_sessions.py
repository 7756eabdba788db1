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
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def total(self) -> int:
        """The number of sessions of the whole."""
        return self.count if self._whole is None else self._whole.count

    def begin(self) -> None:
        """Count a session until `end()`."""
        self.count += 1
        if self.count == 1:
            self._idle.clear()
        if self._whole is not None:
            self._whole.begin()

    def end(self) -> None:
        """End a session."""
        self.count -= 1
        if not self.count:
            self._idle.set()
        if self._whole is not None:
            self._whole.end()

    async def until_idle(self) -> None:
        """Wait until no session is under way."""
        await self._idle.wait()
