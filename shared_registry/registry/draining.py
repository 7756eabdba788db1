"""Waits until a replica has no sessions.

What this router receives about the replica makes it read the number of sessions at once: that one of its own leases
ended, that the replica was removed, or that the last session ended while the replica took no new ones. Redis reports no
end of a session on an active replica, because that happens all the time, and routers of earlier versions report none at
all. These ends show at the next reading, and the pauses between readings grow.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from shared_registry.aio.clock import Clock, wait_until
from shared_registry.happenings import (
    Happening,
    LeaseEnded,
    Listener,
    ReplicaEmptied,
    ReplicaHappening,
    RouterHappening,
    ViewLoaded,
)

SHORTEST_PAUSE_SECONDS = 0.02
LONGEST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_IF_REPORTED_SECONDS = 5.0


async def until_drained(
    in_flight: Callable[[], Awaitable[int | None]],
    key: str,
    subscribe: Callable[[Listener], Callable[[], None]],
    *,
    is_reported: Callable[[], bool],
    deadline: float,
    clock: Clock,
) -> bool:
    """Return whether the replica has no sessions, as soon as that is so, or at the deadline.

    Args:
        in_flight: Reads the number of its sessions.
        key: The replica's canonical url.
        subscribe: Delivers what this router receives, and returns the function that ends that.
        is_reported: Whether this router receives the end of the replica's last session.
        deadline: A time on that clock.
        clock: Used for pauses.
    """
    changed = asyncio.Event()

    def note(happening: Happening) -> None:
        if _may_change(happening, key):
            changed.set()

    end = subscribe(note)
    try:
        pause = SHORTEST_PAUSE_SECONDS
        while await in_flight():
            now = clock.monotonic()
            if now >= deadline:
                return False
            await wait_until(clock, min(now + pause, deadline), changed)
            longest = LONGEST_PAUSE_IF_REPORTED_SECONDS if is_reported() else LONGEST_PAUSE_SECONDS
            # What was received may be on its way to Redis: short pauses follow.
            pause = SHORTEST_PAUSE_SECONDS if changed.is_set() else min(2 * pause, longest)
            changed.clear()
        return True
    finally:
        end()


def _may_change(happening: Happening, key: str) -> bool:
    if isinstance(happening, LeaseEnded | ReplicaEmptied):
        return happening.key == key
    if isinstance(happening, ReplicaHappening):
        return happening.record.key == key
    return isinstance(happening, RouterHappening | ViewLoaded)
