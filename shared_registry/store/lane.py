"""Lanes: how many calls to Redis are under way at once, for how long, and who waits for the next free place.

Waiting in a lane is back-pressure of this process and says nothing of Redis. A call's time runs from its turn on. An
outage is something else: no reply to any call of the lane for as long as a call may take, or one failed connection
after the other. Then nobody goes on waiting.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from shared_registry.errors import StoreError, StoreUnavailable

TICKS = 10
"""How often the timer rings within the length of a wait: the loop needs a few turns to read an answer that has come."""
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


class SharedAlarm:
    """Rings some time after it was set, unless that was called off. Belongs to one event loop at a time.

    The loop sorts its timers and sweeps out the cancelled ones, which costs a call that is over at once more than all
    else that bounds it. What is always due in the order in which it was set needs no sorting: one timer goes from tick
    to tick for all.

    A tick that comes much too late shows that the loop was busy with something else, or the process had no processor.
    An answer may have come meanwhile that nobody could read. That time is not counted.
    """

    def __init__(self, seconds: float) -> None:
        """Set nothing.

        Args:
            seconds: How long after it was set it rings.
        """
        self._seconds = seconds
        self._tick_seconds = seconds / TICKS
        self._due: dict[Callable[[], None], float] = {}
        self._armed_on: asyncio.AbstractEventLoop | None = None
        self._next_tick = 0.0
        self._not_counted = 0.0

    def set(self, ring: Callable[[], None]) -> None:
        """Have this called once; it may be set again when it was called, or called off."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if loop is not self._armed_on:
            self._due.clear()  # nothing is left, or its loop was closed and will not ring
            self._not_counted = 0.0
            self._arm(loop, now + self._tick_seconds)
        # What comes after a tick that is late already must not be due later than what comes after that tick.
        self._due[ring] = min(now, self._next_tick) - self._not_counted + self._seconds

    def call_off(self, ring: Callable[[], None]) -> None:
        """Have this not called, if it was not yet."""
        self._due.pop(ring, None)

    def _arm(self, loop: asyncio.AbstractEventLoop, at: float) -> None:
        self._armed_on = loop
        self._next_tick = at
        loop.call_at(at, self._tick, loop)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        late = now - self._next_tick
        if late > self._tick_seconds / 2:
            self._not_counted += late
        self._next_tick = now
        try:
            self._ring_due(now)
        finally:
            if self._due:
                first = next(iter(self._due.values())) + self._not_counted
                self._arm(loop, min(first, now + self._tick_seconds))
            else:
                self._armed_on = None

    def _ring_due(self, now: float) -> None:
        while self._due:
            ring, due = next(iter(self._due.items()))
            if due + self._not_counted > now:
                return
            del self._due[ring]
            ring()
