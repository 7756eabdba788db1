"""A lock that can also be taken without waiting, outside of a coroutine."""

from __future__ import annotations

import asyncio
from collections import deque


class PromptLock:
    """Is with one holder after the other, in the order of their requests. Bound to one event loop."""

    __slots__ = ("_is_taken", "_waiting")

    def __init__(self) -> None:
        self._is_taken = False
        self._waiting: deque[asyncio.Future[None]] | None = None

    @property
    def is_taken(self) -> bool:
        """Whether somebody has the turn."""
        return self._is_taken

    def try_take(self) -> bool:
        """Take the turn if nobody has it."""
        if self._is_taken:
            return False
        self._is_taken = True
        return True

    async def take(self) -> None:
        """Wait for the turn. A caller that is cancelled has no turn."""
        if self.try_take():
            return
        if self._waiting is None:
            self._waiting = deque()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back()  # it came together with the cancellation
            raise

    def give_back(self) -> None:
        """End the turn; the next one in line has it."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._is_taken = False
