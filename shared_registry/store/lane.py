"""Lanes limit how many calls to Redis run at once. Further calls wait for their turn, first come first served.

A wait in a lane is back-pressure of this process and does not mean that Redis is slow. The time of a call starts with
its turn. An outage is different: no call of the lane gets a reply during the maximum time of a call, or many
connections in a row fail. In an outage all waiting calls end with an error.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from shared_registry.errors import StoreError, StoreUnavailable

TICKS = 10
"""The number of timer ticks within one timeout. The event loop needs a few turns to read a reply that has arrived."""
RARE_TICKS = 5
"""Calls are rare if the last tick was due so many ticks ago. Then the timer does not run on after a call has ended."""
FAILURES_PER_CALL = 2
"""How many failures in a row, per call of the lane, count as an outage. All connections of a lane may break at once
although the server works, so that only the failures of new connections show an outage."""


class Busy(StoreError):
    """This process is so busy that a call did not get its turn within the caller's time. The call was not sent."""


class Lane:
    """Gives calls their turn, first come first served. Belongs to one event loop at a time.

    Attributes:
        alarm: Bounds the time of running calls.
        replies: The number of replies so far.
    """

    def __init__(self, size: int, *, seconds: float) -> None:
        """Create an empty lane.

        Args:
            size: The maximum number of calls that run at once.
            seconds: The maximum time of each call.
        """
        self.alarm = SharedAlarm(seconds)
        self.replies = 0
        self._size = size
        self._free = size
        self._failures = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """The number of calls that wait for their turn."""
        return sum(not turn.done() for turn in self._waiting)

    def enter(self) -> bool:
        """Take a free place. Return whether there was one."""
        if self._free:  # a place is free only if no call waits
            self._free -= 1
            return True
        return False

    async def wait(self, patience_seconds: float | None) -> None:
        """Wait for a place, and take it.

        Args:
            patience_seconds: How long to wait; `None` for as long as Redis answers.

        Raises:
            Busy: No place was free in that time.
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
        """Give the place to the next waiting call, or free it."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def leave_answered(self) -> None:
        """Record that a call got a reply, and give its place to the next one, or free it."""
        self.replies += 1
        self._failures = 0
        if self._waiting:
            self.leave()
        else:
            self._free += 1

    def answered(self) -> None:
        """Record that a call got a reply."""
        self.replies += 1
        self._failures = 0

    def failed(self, reason: str) -> None:
        """Record that a call lost its connection or got none. After many of these in a row, end all waits."""
        self._failures += 1
        if self._failures >= FAILURES_PER_CALL * self._size:
            self.end_waits(reason)

    def unanswered(self, replies_before: int, reason: str) -> None:
        """Record that a call got no reply in time. If no other call got one since it was sent, end all waits.

        Args:
            replies_before: The value of `replies` when the call was sent.
            reason: The message for the calls whose wait ends.
        """
        if self.replies == replies_before:
            self.end_waits(reason)

    def end_waits(self, reason: str) -> None:
        """End the waits of all calls with `StoreUnavailable`."""
        waiting, self._waiting = self._waiting, deque()
        for turn in waiting:
            if not turn.done():
                turn.set_exception(StoreUnavailable(reason))


def _refuse(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_exception(Busy("this router is too busy: the call to Redis did not get its turn in time"))


class SharedAlarm:
    """Calls a function a fixed time after it was set, unless it was called off. Belongs to one event loop at a time.

    The event loop sorts its timers and removes the cancelled ones. For a short call that would cost more than
    everything else that bounds it. All alarms have the same length, so they are due in the order in which they were
    set, and need no sorting. One timer that runs from tick to tick serves all of them. It ends with the last alarm if
    alarms are rare.

    A tick that is very late shows that the event loop was busy, or that the process had no processor. A reply may have
    arrived meanwhile that nobody could read. So this delay does not count.
    """

    def __init__(self, seconds: float, *, quiet_seconds: float = 0.0, is_shared: bool = True) -> None:
        """Set no alarm yet.

        Args:
            seconds: The time from `set` to the call.
            quiet_seconds: The part of it, at its beginning, in which the reply is not expected, so that it does not
                matter whether the event loop is late. There are no ticks in it.
            is_shared: Whether more alarms will be set. The timer of one that is not shared ends when it is called off.
        """
        self._seconds = seconds
        self._tick_seconds = (seconds - quiet_seconds) / TICKS
        self._first_tick_seconds = quiet_seconds or self._tick_seconds
        self._is_shared = is_shared
        self._timer: asyncio.TimerHandle | None = None
        self._due: dict[Callable[[], None], float] = {}
        self._armed_on: asyncio.AbstractEventLoop | None = None
        self._next_tick = 0.0
        self._not_counted = 0.0
        self._is_rare = False

    def set(self, ring: Callable[[], None]) -> None:
        """Schedule one call of this function. It may be set again after it was called or called off."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if loop is not self._armed_on:
            self._due.clear()  # they are empty, or their loop was closed and will not run
            self._not_counted = 0.0
            self._is_rare = now - self._next_tick > RARE_TICKS * self._tick_seconds
            self._arm(loop, now + self._first_tick_seconds)
        # An alarm that is set while a tick is late must not be due later than one that is set after that tick.
        self._due[ring] = min(now, self._next_tick) - self._not_counted + self._seconds

    def call_off(self, ring: Callable[[], None]) -> None:
        """Cancel the call of this function, if it has not been made."""
        self._due.pop(ring, None)
        if (self._is_rare or not self._is_shared) and not self._due and self._timer is not None:
            self._timer.cancel()
            self._armed_on = None

    def _arm(self, loop: asyncio.AbstractEventLoop, at: float) -> None:
        self._armed_on = loop
        self._next_tick = at
        self._timer = loop.call_at(at, self._tick, loop)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        now, self._is_rare = loop.time(), False
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
