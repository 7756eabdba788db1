"""A timeout that does not count a pause of this process's event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

LATE_SECONDS = 0.05
"""How late the alarm must be for the event loop to count as having been blocked."""


@contextlib.asynccontextmanager
async def time_limit(seconds: float) -> AsyncIterator[asyncio.Timeout]:
    """Bound the body like `asyncio.timeout`, but extend the deadline once if the event loop was blocked at that time.

    After a long callback, the loop finds that the deadline has passed and that the reply waits in the socket.
    `asyncio.timeout` would discard that reply. Here the deadline moves by as much as the alarm was late, at most by
    `seconds`.

    Raises:
        TimeoutError: The limit was reached. `expired()` of the yielded object distinguishes it from other timeouts.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds

    def ring() -> None:
        late = loop.time() - deadline
        scope.reschedule(loop.time() + (min(late, seconds) if late > LATE_SECONDS else 0))

    async with asyncio.timeout(None) as scope:
        alarm = loop.call_at(deadline, ring)
        try:
            yield scope
        finally:
            alarm.cancel()
