"""Waiting for a condition, with a deadline that a busy machine keeps: no test is about how soon it comes true."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

SECONDS = 30.0
"""Within which whatever is waited for has to happen."""


async def until(
    condition: Callable[[], object | Awaitable[object]], what: str = "the condition", seconds: float = SECONDS
) -> None:
    """Return as soon as the condition holds; fail if it does not in time."""
    deadline = time.monotonic() + seconds
    while True:
        holds = condition()
        if await holds if isinstance(holds, Awaitable) else holds:
            return
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(0.005)


def wait_for(condition: Callable[[], object], what: str = "the condition", seconds: float = SECONDS) -> None:
    """Do the same without an event loop."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.01)
