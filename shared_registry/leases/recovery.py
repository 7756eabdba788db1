"""Restores this router's leases in Redis before the next request, after anything that separated the two."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from shared_registry.errors import StoreError
from shared_registry.leases.reconciliation import Reconciler


class Recovery:
    """Brings Redis in line with this router's leases. Of thousands of concurrent callers, one does the work for all."""

    def __init__(self, join: Callable[[], Awaitable[object]], reconciler: Reconciler) -> None:
        """Set up; nothing is sent yet.

        Args:
            join: Sends a heartbeat, by which this router joins the live routers.
            reconciler: Puts back leases.
        """
        self._join = join
        self._reconciler = reconciler
        self._lock = asyncio.Lock()
        self._attempts = 0
        self._failure: StoreError | None = None

    async def catch_up(self) -> None:
        """Put back the sessions that were placed without Redis.

        Raises:
            StoreError: The leases could not be written to Redis.
        """
        await self._reconciler.put_back_unrecorded()

    async def rejoin(self) -> None:
        """Join the live routers and put back the held leases, before a new session is placed.

        Raises:
            StoreError: This router could not join, or its leases could not be put back.
        """
        attempts = self._attempts
        async with self._lock:
            if self._attempts == attempts:
                await self._try()
            elif self._failure is not None:
                raise type(self._failure)(*self._failure.args) from self._failure.__cause__

    async def _try(self) -> None:
        """Make one attempt. If it is cancelled, the next caller makes another one."""
        try:
            await self._join()
            await self._reconciler.put_back()
        except StoreError as error:
            self._failure = error
            self._attempts += 1
            raise
        self._failure = None
        self._attempts += 1
