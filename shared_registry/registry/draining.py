"""Waits until a replica has no sessions.

Redis tells nobody when a session ends: that happens all the time. What this router hears of the replica, such as that
one of its own leases ended or that the replica was removed, makes it read the number of sessions at once. The end of
another router's session shows at the next reading, and the pauses between readings grow.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from shared_registry.aio.clock import Clock, wait_until
from shared_registry.happenings import Emitter, Happening, LeaseEnded, ReplicaHappening, RouterHappening, ViewLoaded

SHORTEST_PAUSE_SECONDS = 0.02
LONGEST_PAUSE_SECONDS = 0.5


async def until_drained(
    in_flight: Callable[[], Awaitable[int | None]], key: str, emitter: Emitter, *, deadline: float, clock: Clock
) -> bool:
    """Return whether the replica has no sessions, as soon as that is so, or at the deadline.

    Args:
        in_flight: Reads the number of its sessions.
        key: The replica's canonical url.
        emitter: Delivers what this router hears.
        deadline: A time on that clock.
        clock: Used for pauses.
    """
    changed = asyncio.Event()

    def note(happening: Happening) -> None:
        if _may_change(happening, key):
            changed.set()

    end = emitter.subscribe(note)
    try:
        pause = SHORTEST_PAUSE_SECONDS
        while await in_flight():
            now = clock.monotonic()
            if now >= deadline:
                return False
            await wait_until(clock, min(now + pause, deadline), changed)
            # What was heard may be on its way to Redis: short pauses follow.
            pause = SHORTEST_PAUSE_SECONDS if changed.is_set() else min(2 * pause, LONGEST_PAUSE_SECONDS)
            changed.clear()
        return True
    finally:
        end()


def _may_change(happening: Happening, key: str) -> bool:
    if isinstance(happening, LeaseEnded):
        return happening.key == key
    if isinstance(happening, ReplicaHappening):
        return happening.record.key == key
    return isinstance(happening, RouterHappening | ViewLoaded)
