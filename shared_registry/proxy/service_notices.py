"""Tells systemd about the life of a router: when it is ready, when it stops, and that it lives."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from shared_registry.aio.stop_signals import StopRequest
from shared_registry.aio.systemd import ServiceNotifier
from shared_registry.config import RouterConfig

WATCHDOG_SHARE = 1 / 3
"""How often a sign of life is sent, as a share of the time after which systemd takes the service for dead."""
END_SECONDS = 10.0
"""How long a stop may take after the grace period: closing sessions, and leaving a registry whose Redis is slow."""


async def inform(
    notifier: ServiceNotifier,
    stop: StopRequest,
    *,
    url: str,
    config: Callable[[], RouterConfig],
    opened: Callable[[], Awaitable[object]],
    joined: asyncio.Event,
) -> None:
    """Inform systemd until cancelled.

    The router is ready once it places sessions. A router that cannot reach Redis is ready some seconds after its start,
    because it then responds to its clients, and systemd should neither wait with other services nor end it.

    Args:
        notifier: Sends the notices.
        stop: The request to stop.
        url: The router's url.
        config: Returns the settings in force.
        opened: Returns when the router is ready.
        joined: Set once the router has joined the registry.
    """
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(show_life(notifier))
        becoming_ready = tasks.create_task(_announce(notifier, url, opened, joined))
        await stop.asked.wait()
        becoming_ready.cancel()
        seconds = config().grace_seconds
        notifier.stopping(f"stopping; sessions have up to {seconds:g} s to finish", seconds=seconds + END_SECONDS)


async def _announce(
    notifier: ServiceNotifier, url: str, opened: Callable[[], Awaitable[object]], joined: asyncio.Event
) -> None:
    notifier.status("starting")
    await opened()
    if not joined.is_set():
        notifier.ready(f"serving on {url}; waiting for Redis")
        await joined.wait()
        notifier.status(f"serving on {url}")
    else:
        notifier.ready(f"serving on {url}")


async def show_life(notifier: ServiceNotifier) -> None:
    """Show systemd until cancelled that the process lives, if it watches that."""
    while notifier.watchdog_seconds is not None:
        notifier.alive()
        await asyncio.sleep(notifier.watchdog_seconds * WATCHDOG_SHARE)
