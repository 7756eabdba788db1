"""How long this process was kept waiting: by as much a limit of real time is longer than it says."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Self

STEP_SECONDS = 0.02


class Pauses:
    """Counts from `async with` on.

    Attributes:
        seconds: By how much this event loop was late so far, in all.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _watch(self) -> None:
        began = time.monotonic()
        while True:
            await asyncio.sleep(STEP_SECONDS)
            now = time.monotonic()
            self.seconds += now - began - STEP_SECONDS
            began = now
