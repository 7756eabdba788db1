"""Calls that a cancellation of their caller does not cut short."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def completed(work: Coroutine[Any, Any, T], *, is_begun: Callable[[], bool] = lambda: True) -> T:
    """Await work to its end, which must be near. A cancellation that comes meanwhile is raised afterwards.

    For calls to Redis: one that is cut short costs its connection, since nobody knows what comes over it next, and
    leaves in doubt what was done.

    Args:
        work: What is awaited.
        is_begun: Whether it has come to what must not be cut short; before, a cancellation ends it at once.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            cancelled = error
            if not is_begun():
                task.cancel()
    if cancelled is None:
        return task.result()
    if not task.cancelled():
        task.exception()  # seen, though nobody is left to hear of it
    raise cancelled
