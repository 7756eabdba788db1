"""Runs background tasks, logs their failures, and starts them again."""

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
    """Run work until cancelled. If it fails or returns, log that, with the traceback of a failure, and start it again.

    Args:
        name: The name of the work in the log.
        work: Called anew at each start.
        clock: Used for the pauses between starts. They grow while the work keeps failing soon after its start.
        rng: Used for the jitter of the pauses.
    """
    backoff = Backoff(longest_seconds=LONGEST_PAUSE_SECONDS, rng=rng)
    while True:
        started_at = clock.monotonic()
        try:
            await work()
            if not is_cancelled():
                logger.error("%s ended by itself; starting it again", name)
        except asyncio.CancelledError:
            if is_cancelled():
                raise
            logger.exception("%s failed; starting it again", name)  # not this task was cancelled, but one it awaited
        except Exception:
            if not _has_loop():
                return  # the event loop was closed under the work, which is deleted
            if is_cancelled():
                logger.exception("%s failed while it ended", name)
            else:
                logger.exception("%s failed; starting it again", name)
        if is_cancelled():
            raise asyncio.CancelledError
        if clock.monotonic() - started_at > LONGEST_PAUSE_SECONDS:
            backoff.reset()
        await clock.sleep(backoff.next_seconds())


def is_cancelled() -> bool:
    """Return whether the present task is to end.

    What it awaits may hide that: a task group whose tasks fail at that moment raises their errors instead.
    """
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _has_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
