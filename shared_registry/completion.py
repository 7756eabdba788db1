"""Calls that a cancellation of their caller does not cut short."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def completed(work: Coroutine[Any, Any, T]) -> T:
    """Await work to its end, which must be near. A cancellation that comes meanwhile is raised afterwards.

    For calls to Redis: one that is cut short costs its connection, since nobody knows what comes over it next, and
    leaves in doubt what was done.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return task.result()
    if not task.cancelled():
        task.exception()  # seen, though nobody is left to hear of it
    raise cancelled
