"""Waits until a router's view shows a replica to select, or a first verdict on every replica."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from shared_registry.mirror.mirror import Mirror
from shared_registry.model import AdminState, Event, ReplicaStatus
from shared_registry.selection.view import View

POLL_SECONDS = 1.0
"""How often the view is checked without a change: it also changes with time, when it becomes too old to be used."""


def is_selectable(view: View) -> bool:
    """Return whether `select()` has a replica to return."""
    return bool(view.preference) or view.is_spread


def is_judged(view: View) -> bool:
    """Return whether a replica is healthy, or every active one has had a first verdict."""
    if view.preference:
        return True
    records = (replica.record for replica in view.all())
    return not any(one.admin is AdminState.ACTIVE and one.health.status is ReplicaStatus.UNKNOWN for one in records)


async def until(mirror: Mirror, holds: Callable[[View], bool], *, timeout_seconds: float | None) -> bool:
    """Wait until a condition on the view holds; return whether it does.

    Args:
        mirror: Keeps the view current.
        holds: The condition.
        timeout_seconds: How long to wait; `None` waits forever.
    """
    changed = asyncio.Event()

    def notice(events: Sequence[Event]) -> None:  # noqa: ARG001
        changed.set()

    with mirror.subscribed(notice), contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_seconds):
            while not holds(mirror.view):
                changed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL_SECONDS):
                        await changed.wait()
    return holds(mirror.view)
