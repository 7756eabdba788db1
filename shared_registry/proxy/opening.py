"""Holds sessions in a router's first moments, so that nobody is refused only because the router has just started."""

from __future__ import annotations

import asyncio

from shared_registry.registry.facade import SharedReplicaRegistry

HOLD_SECONDS = 5.0
"""How long sessions are held at most: enough for Redis, an election and the first probes, also on a busy machine, and
less than clients and load balancers bear."""


class Opening:
    """A router opens once its view is loaded and has a healthy replica, or a first verdict on every active one.

    Where that takes longer than `HOLD_SECONDS` from the start it opens with what it has; without a loaded view it then
    refuses the sessions that may not wait.
    """

    def __init__(self, registry: SharedReplicaRegistry) -> None:
        self._registry = registry
        self._opened = asyncio.Event()
        self._held_until = 0.0

    @property
    def is_open(self) -> bool:
        """Whether sessions are placed at once."""
        return self._opened.is_set()

    def begin(self) -> None:
        """The router starts: hold sessions from now on."""
        self._opened.clear()
        self._held_until = asyncio.get_running_loop().time() + HOLD_SECONDS

    async def run(self) -> None:
        """Open when it is time. The registry must be started."""
        left = self._held_until - asyncio.get_running_loop().time()
        await self._registry.wait_judged(timeout_seconds=max(0.0, left))
        self._opened.set()

    def end(self) -> None:
        """Hold nobody any more."""
        self._opened.set()

    async def wait(self, deadline: float) -> None:
        """Hold a session until the router opens, or until it has been held for long enough.

        Args:
            deadline: Until when, on the event loop's clock, the session may wait where that is longer.
        """
        if self._opened.is_set():
            return
        until = max(self._held_until, deadline)
        if until > asyncio.get_running_loop().time():
            try:
                async with asyncio.timeout_at(until):
                    await self._opened.wait()
            except TimeoutError:
                return
