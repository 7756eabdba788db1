"""Holds sessions while a router starts, so that no session is refused only because the router has just started."""

from __future__ import annotations

import asyncio

from shared_registry.registry.facade import SharedReplicaRegistry

HOLD_SECONDS = 5.0
"""The longest time for which sessions are held. It is enough for Redis, an election and the first probes on a busy
machine, and less than the timeouts of clients and load balancers."""


class Opening:
    """Decides when a router opens, which means that it places sessions without holding them.

    It opens once its view is loaded and has a healthy replica, or has a status other than unknown for every active
    replica. `HOLD_SECONDS` after the start a loaded view is enough. If the view is not loaded by then, sessions that
    may not wait are refused, and the others are held until their deadlines.

    Attributes:
        is_open: Whether sessions are placed without being held.
    """

    def __init__(self, registry: SharedReplicaRegistry) -> None:
        self._registry = registry
        self.is_open = False
        self._opened = asyncio.Event()
        self._held_until = 0.0

    def begin(self) -> None:
        """Hold sessions from now on. Called when the router starts."""
        self.is_open = False
        self._opened.clear()
        self._held_until = asyncio.get_running_loop().time() + HOLD_SECONDS

    async def run(self) -> None:
        """Wait for the conditions, then open. The registry must be started."""
        left = self._held_until - asyncio.get_running_loop().time()
        await self._registry.wait_judged(timeout_seconds=max(0.0, left))
        self.end()

    def end(self) -> None:
        """Open at once, and release all held sessions."""
        self.is_open = True
        self._opened.set()

    async def wait(self, deadline: float) -> None:
        """Hold a session until the router opens, or until `HOLD_SECONDS` after its start or `deadline`.

        Args:
            deadline: The time, on the event loop's clock, until which the session may wait. The later of the two
                times ends the wait.
        """
        if self.is_open:
            return
        until = max(self._held_until, deadline)
        if until > asyncio.get_running_loop().time():
            try:
                async with asyncio.timeout_at(until):
                    await self._opened.wait()
            except TimeoutError:
                return
