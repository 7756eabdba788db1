"""Long computations in the event loop, in pieces short enough for the sessions of the same loop."""

from __future__ import annotations

import asyncio
import time

PIECE_SECONDS = 0.002


class Breath:
    """Gives way to the event loop whenever a piece has taken long enough."""

    def __init__(self) -> None:
        self._until = time.perf_counter() + PIECE_SECONDS

    @property
    def is_over(self) -> bool:
        """Whether this piece has taken `PIECE_SECONDS`."""
        return time.perf_counter() >= self._until

    async def pause(self) -> None:
        """Return at once, or after the loop has run if this piece has taken `PIECE_SECONDS`. Call it for each item."""
        if self.is_over:
            await asyncio.sleep(0)
            self._until = time.perf_counter() + PIECE_SECONDS
