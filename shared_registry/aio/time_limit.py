"""A timeout that does not count a pause of this process's event loop."""

from __future__ import annotations

import asyncio
from types import TracebackType

LATE_SECONDS = 0.05
"""How late an alarm must be for the event loop to count as having been blocked."""
STEPS = 8
"""Into how many steps a limit is divided. A pause that ends within a step goes unnoticed if no alarm was due in it."""
READ_SECONDS = 0.01
"""The time for one more read of the socket when the limit ends with a pause."""


class time_limit:  # noqa: N801  it is used like asyncio.timeout
    """Bound the body like `asyncio.timeout`, but extend the limit by the time for which the event loop was blocked.

    After a long callback, the loop finds that the deadline has passed and that the reply waits in the socket.
    `asyncio.timeout` would discard that reply. A pause before the deadline is made up for as well: a connection that
    needed several round trips had less time for them. Pauses at the end of the limit extend it by at most `seconds` in
    total, so that a process that is always too busy does not wait for ever. After the last one the socket is read once
    more.

    Raises:
        TimeoutError: The limit was reached. `expired()` of the yielded object distinguishes it from other timeouts.
    """

    __slots__ = ("_alarm", "_scope", "_seconds")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._scope = asyncio.timeout(None)
        self._alarm: _Alarm

    async def __aenter__(self) -> asyncio.Timeout:
        scope = await self._scope.__aenter__()
        self._alarm = _Alarm(scope, self._seconds)
        return scope

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._alarm.cancel()
        await self._scope.__aexit__(kind, error, trace)


class _Alarm:
    """Rings once a step. How late it rings shows how long the event loop was blocked."""

    __slots__ = ("_deadline", "_due", "_handle", "_loop", "_scope", "_spare", "_step")

    def __init__(self, scope: asyncio.Timeout, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._scope = scope
        self._step = max(seconds / STEPS, LATE_SECONDS)
        self._spare = seconds
        now = self._loop.time()
        self._deadline = now + seconds
        self._set(now)

    def cancel(self) -> None:
        self._handle.cancel()

    def _set(self, now: float) -> None:
        self._due = min(now + self._step, self._deadline)
        self._handle = self._loop.call_at(self._due, self._ring)

    def _ring(self) -> None:
        now = self._loop.time()
        late = now - self._due
        if late > LATE_SECONDS:
            left = self._deadline - self._due
            extension = max(min(late, self._spare) - left, 0.0)
            self._spare -= extension
            self._deadline = now + left + extension
            if self._deadline <= now:
                self._scope.reschedule(now + READ_SECONDS)
                return
        if now < self._deadline:
            self._set(now)
        else:
            self._scope.reschedule(now)
