"""Background tasks that do not die unnoticed."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from shared_registry.aio.backoff import Backoff
from shared_registry.aio.clock import Clock

LONGEST_PAUSE_SECONDS = 5.0
logger = logging.getLogger(__name__)


async def keep_running(name: str, work: Callable[[], Awaitable[None]], *, clock: Clock, rng: random.Random) -> None:
    """Run work until cancelled; if it fails or returns, log that with its traceback and start it again.

    Args:
        name: What it is called in the log.
        work: Started anew each time.
        clock: For the pauses between starts, which grow while it keeps failing soon.
        rng: For their jitter.
    """
    backoff = Backoff(longest_seconds=LONGEST_PAUSE_SECONDS, rng=rng)
    while True:
        started_at = clock.monotonic()
        try:
            await work()
            logger.error("%s ended by itself; starting it again", name)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            logger.exception("%s failed; starting it again", name)  # something that it awaited was cancelled, not we
        except Exception:
            logger.exception("%s failed; starting it again", name)
        if clock.monotonic() - started_at > LONGEST_PAUSE_SECONDS:
            backoff.reset()
        await clock.sleep(backoff.next_seconds())
