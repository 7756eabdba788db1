"""Calls that a cancellation of their caller does not cut short."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def completed(work: Coroutine[Any, Any, T], *, is_begun: Callable[[], bool] = lambda: True) -> T:
    """Await work to its end, which must be near. A cancellation during that time is raised afterwards.

    This is for calls to Redis. A call that is cut short costs its connection, because the connection may still receive
    the reply. It also leaves in doubt whether Redis has executed the command.

    Args:
        work: The work to await.
        is_begun: Returns whether the work has reached the part that must not be cut short. Before that, a cancellation
            ends the work at once.
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
        task.exception()  # retrieved, so that asyncio does not log it
    raise cancelled
