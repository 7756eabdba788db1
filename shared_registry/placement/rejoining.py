"""Coming back among the live routers, once for all sessions that find that their router is not among them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from shared_registry.errors import StoreError
from shared_registry.placement.reconciliation import Reconciler


class Rejoining:
    """Joins, and puts back what is held, before anybody is placed. Thousands may call it at once: one does the work."""

    def __init__(self, join: Callable[[], Awaitable[object]], reconciler: Reconciler) -> None:
        self._join = join
        self._reconciler = reconciler
        self._lock = asyncio.Lock()
        self._attempts = 0
        self._failure: StoreError | None = None

    async def __call__(self) -> None:
        """Return when this router is among the live ones again.

        Raises:
            StoreError: It could not join, or what it holds could not be put back.
        """
        attempts = self._attempts
        async with self._lock:
            if self._attempts == attempts:
                await self._try()
            elif self._failure is not None:
                raise type(self._failure)(*self._failure.args) from self._failure.__cause__

    async def _try(self) -> None:
        """Make one attempt; one that is cancelled leaves it to the next caller."""
        try:
            await self._join()
            await self._reconciler.put_back()
        except StoreError as error:
            self._failure = error
            self._attempts += 1
            raise
        self._failure = None
        self._attempts += 1
