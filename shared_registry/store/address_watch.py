"""Asks the sentinels every second whether the primary has moved.

In a planned failover the old primary stays up, and is demoted only seconds after the sentinels name the new one. What a
router writes to it meanwhile is lost, and nothing on its connections shows that.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from redis.exceptions import RedisError

from shared_registry.aio.clock import Clock
from shared_registry.aio.time_limit import time_limit
from shared_registry.store.failover import Failover

ASK_SECONDS = 1.0


async def watch_address(
    ask: Callable[[], Awaitable[object]], failover: Failover, *, timeout_seconds: float, clock: Clock
) -> None:
    """Ask until cancelled. Sentinels that do not answer are asked again; the other calls tell that Redis is away.

    Args:
        ask: Asks for the primary's address, and calls `Failover.moved` if it differs from the one known.
        failover: Closes idle connections to the former primary. Those in use are closed after their call.
        timeout_seconds: How long to wait for an answer.
        clock: Used for the pauses.
    """
    while True:
        await clock.sleep(ASK_SECONDS)
        try:
            async with time_limit(timeout_seconds):
                await ask()
                if failover.is_due:
                    await failover.renew()
        except (RedisError, OSError, TimeoutError):
            continue
