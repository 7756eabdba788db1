"""Measures how late the event loop is."""

from __future__ import annotations

import asyncio

from shared_registry.tallies import FAST_SECONDS, Distribution

PERIOD_SECONDS = 1.0


class LoopLag:
    """How late timers are called, measured with one timer.

    Attributes:
        lags: The lags so far, in seconds.
    """

    def __init__(self) -> None:
        self.lags = Distribution(FAST_SECONDS)

    async def run(self) -> None:
        """Measure periodically until cancelled."""
        now = asyncio.get_running_loop().time
        while True:
            due = now() + PERIOD_SECONDS
            await asyncio.sleep(PERIOD_SECONDS)
            self.lags.add(max(0.0, now() - due))
