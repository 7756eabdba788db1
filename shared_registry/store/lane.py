"""Lanes: how many calls to Redis are under way at once, and who waits for the next free place.

Waiting in a lane is back-pressure of this process and says nothing of Redis. A call's time runs from its turn on. An
outage is something else: no reply to any call of the lane for as long as a call may take, or one failed connection
after the other. Then nobody goes on waiting.
"""

from __future__ import annotations

import asyncio
from collections import deque

from shared_registry.errors import StoreError, StoreUnavailable
from shared_registry.store.deadlines import SharedAlarm

FAILURES_PER_PLACE = 2
"""All connections of a lane may break at once while the server is fine: only the next attempts tell."""


class Busy(StoreError):
    """This process has so much to do that a call had no turn in the time that its caller gave it. It was not sent."""


class Lane:
    """Gives calls their turn, first come first. Belongs to one event loop at a time.

    Attributes:
        alarm: Bounds the calls that are under way.
        replies: How many came.
    """

    def __init__(self, size: int, *, seconds: float) -> None:
        """Set up.

        Args:
            size: How many calls may be under way at once.
            seconds: How long each may take.
        """
        self.alarm = SharedAlarm(seconds)
        self.replies = 0
        self._size = size
        self._free = size
        self._failures = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """How many calls wait for their turn."""
        return sum(not turn.done() for turn in self._waiting)

    def enter(self) -> bool:
        """Take a place if there is one; return whether there was."""
        if self._free:  # only where nobody waits
            self._free -= 1
            return True
        return False

    async def wait(self, patience_seconds: float | None) -> None:
        """Return with a place.

        Args:
            patience_seconds: How long to wait for it; `None` for as long as Redis answers.

        Raises:
            Busy: It did not come in that time.
            StoreUnavailable: Redis has stopped answering.
        """
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        timer = None if patience_seconds is None else turn.get_loop().call_later(patience_seconds, _refuse, turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.leave()  # the turn came together with the cancellation
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def leave(self) -> None:
        """Hand one's place on."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def heard(self) -> None:
        """A call was answered."""
        self.replies += 1
        self._failures = 0

    def failed(self, why: str) -> None:
        """A call has lost its connection, or got none. When that goes on, nobody waits any longer."""
        self._failures += 1
        if self._failures >= FAILURES_PER_PLACE * self._size:
            self.turn_away(why)

    def unanswered(self, replies_before: int, why: str) -> None:
        """A call that was sent after so many replies was not answered in time; where no other was, nobody waits on."""
        if self.replies == replies_before:
            self.turn_away(why)

    def turn_away(self, why: str) -> None:
        """Let nobody wait any longer."""
        waiting, self._waiting = self._waiting, deque()
        for turn in waiting:
            if not turn.done():
                turn.set_exception(StoreUnavailable(why))


def _refuse(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_exception(Busy("this router has so much to do that Redis could not be asked in time"))
