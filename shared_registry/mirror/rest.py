"""How long a mirror at rest waits for events before it polls: longer while heartbeats confirm what it shows."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import TypeVar

from shared_registry.aio.clock import Clock

T = TypeVar("T")
CONFIRMED_PERIODS = 3
"""How many periods of `refresh_seconds` lie between two polls while heartbeats confirm the view. A poll also shows
whether the connection that waits for events still leads to the primary, so it cannot be left out."""
UNSEEN_SECONDS, UNSEEN_SHARE = 0.25, 0.25
"""How long after a doubt an event may still be on its way, but at most this share of `refresh_seconds`."""


class Rest:
    """The waits of one mirror. `run` must be kept running, or doubts end no wait.

    Attributes:
        refresh_seconds: The time between two polls while nothing confirms the view.
    """

    def __init__(self, *, refresh_seconds: float, heartbeat_seconds: float = math.inf, clock: Clock) -> None:
        """Begin unconfirmed.

        Args:
            refresh_seconds: The time between two polls while nothing confirms the view.
            heartbeat_seconds: The time between two heartbeats. If it is longer, heartbeats save no polls: in between,
                nothing would show that the view is current.
            clock: For the time after a doubt.
        """
        self.refresh_seconds = refresh_seconds
        self._are_frequent = heartbeat_seconds <= refresh_seconds
        self._clock = clock
        self._is_confirmed = False
        self._is_doubted = asyncio.Event()
        self._doubted: asyncio.Timeout | None = None
        self._long_wait: asyncio.Timeout | None = None

    @property
    def poll_seconds(self) -> float:
        """The time between two polls at present."""
        return self.refresh_seconds * (CONFIRMED_PERIODS if self._is_confirmed else 1)

    def confirm(self) -> None:
        """Take note that a heartbeat has confirmed the view."""
        self._is_confirmed = self._are_frequent

    def doubt(self) -> None:
        """Take note that a heartbeat has failed, or that Redis has named another event than the view shows.

        Usually that event is on its way. A long wait is ended if it goes on for `UNSEEN_SECONDS` (see there).
        """
        if self._long_wait is None:
            self._is_confirmed = False
        else:
            self._doubted = self._long_wait
            self._is_doubted.set()

    async def wait(self, read: Callable[[float], Awaitable[T]]) -> T | None:
        """Wait by `read`, whose argument is the longest time in seconds.

        Returns:
            What it returned, or `None` if a doubt has ended the wait; then a poll must follow.
        """
        if not self._is_confirmed:
            return await read(self.refresh_seconds)
        scope = self._long_wait = asyncio.timeout(None)
        try:
            async with scope:
                return await read(self.poll_seconds)
        except TimeoutError:
            if not scope.expired():
                raise
            return None
        finally:
            self._long_wait = None

    async def run(self) -> None:
        """End waits that are doubted, until cancelled."""
        while True:
            await self._is_doubted.wait()
            self._is_doubted.clear()
            doubted = self._doubted
            await self._clock.sleep(min(UNSEEN_SECONDS, UNSEEN_SHARE * self.refresh_seconds))
            if doubted is not None and doubted is self._long_wait:
                self._is_confirmed, self._long_wait = False, None  # it ends once, however long its end takes
                doubted.reschedule(asyncio.get_running_loop().time())
