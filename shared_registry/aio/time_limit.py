"""A timeout that does not blame others for this process's pauses."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

LATE_SECONDS = 0.05
"""How late an alarm must ring for the event loop to count as having stood still."""


@contextlib.asynccontextmanager
async def time_limit(seconds: float) -> AsyncIterator[asyncio.Timeout]:
    """Bound the body like `asyncio.timeout`, but an event loop that stood still at the deadline makes up for it, once.

    A loop held up by a busy callback finds the deadline passed and the answer waiting in the socket; `asyncio.timeout`
    would discard the answer. Here the deadline moves by as much as the alarm was late, at most by `seconds`.

    Raises:
        TimeoutError: The limit was reached; `expired()` of what is yielded tells it from others.
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
