"""Long computations in the event loop, in pieces short enough for the sessions of the same loop.

All computations of a loop share one piece in each turn of the loop. Ten of them together hold up a session for no
longer than one of them would.
"""

from __future__ import annotations

import asyncio
import time

PIECE_SECONDS = 0.002
FORGOTTEN_SECONDS = 1.0
"""After which time a turn is over in any case: its loop may have ended before it could say so."""


class _Turn:
    """The present turn of the loop."""

    def __init__(self) -> None:
        self.is_over = True
        self.until = 0.0

    def end(self) -> None:
        """Let the next computation begin a new piece."""
        self.is_over = True


_turn = _Turn()


class Breath:
    """Gives way to the event loop before a piece takes too long. Make one when a computation begins."""

    def __init__(self) -> None:
        self._item_began_at = time.perf_counter()

    @property
    def is_over(self) -> bool:
        """Whether another item like the last one would exceed `PIECE_SECONDS` of this turn. Read it after each item."""
        turn, now = _turn, time.perf_counter()
        item, self._item_began_at = min(now - self._item_began_at, PIECE_SECONDS), now
        if turn.is_over or now > turn.until + FORGOTTEN_SECONDS:
            turn.is_over, turn.until = False, now - item + PIECE_SECONDS
            asyncio.get_running_loop().call_soon(turn.end)
        return now + item >= turn.until

    async def pause(self) -> None:
        """Return at once, or after the loop has run if the piece of this turn is over. Call it for each item."""
        if self.is_over:
            await asyncio.sleep(0)
            self._item_began_at = time.perf_counter()
