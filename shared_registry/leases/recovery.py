"""What comes before a question to Redis, after anything that has parted it from this router."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from shared_registry.errors import StoreError
from shared_registry.leases.reconciliation import Reconciler


class Recovery:
    """Brings Redis in line with what this router holds. Thousands may call it at once: one does the work for all."""

    def __init__(self, join: Callable[[], Awaitable[object]], reconciler: Reconciler) -> None:
        """Set up.

        Args:
            join: Makes this router one of the live ones.
            reconciler: Puts back.
        """
        self._join = join
        self._reconciler = reconciler
        self._lock = asyncio.Lock()
        self._attempts = 0
        self._failure: StoreError | None = None

    async def catch_up(self) -> None:
        """Let Redis have what was placed without it.

        Raises:
            StoreError: Redis could not be told.
        """
        await self._reconciler.put_back_unrecorded()

    async def rejoin(self) -> None:
        """Join the live routers, and put back what is held, before anybody is placed.

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
