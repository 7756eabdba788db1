"""How a session gets its replica: it holds a lease on a slot for as long as it lasts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Coroutine
from typing import Any, TypeVar

from shared_registry.config.rules import OnLost
from shared_registry.errors import RegistryError, Saturated
from shared_registry.model import Replica
from shared_registry.placement import Lease
from shared_registry.registry import SharedReplicaRegistry

T = TypeVar("T")


class NoReplica(Exception):
    """There is no replica to place a session on.

    Attributes:
        is_saturated: Whether there are healthy ones, and all of them are full.
    """

    def __init__(self, reason: str, *, is_saturated: bool = False) -> None:
        super().__init__(reason)
        self.is_saturated = is_saturated


class ReplicaLost(Exception):
    """The replica of a session turned unhealthy, or was removed, and such sessions are to be closed."""


class Placement:
    """Gives sessions their leases, and says what becomes of those whose replica is lost."""

    def __init__(self, registry: SharedReplicaRegistry, on_lost: OnLost) -> None:
        self._registry = registry
        self._on_lost = on_lost

    @contextlib.asynccontextmanager
    async def place(self, key: str | None, *, exclude: Collection[Replica]) -> AsyncIterator[Lease]:
        """Hold a slot for a session, until the context ends.

        Args:
            key: By which the session is recognized when it comes again; `None` for one that is not.
            exclude: Replicas that were tried in vain.

        Raises:
            NoReplica: There is none, on entering.
        """
        try:
            lease = await self._registry.acquire(key, exclude=exclude)
        except Saturated as error:
            raise NoReplica(str(error), is_saturated=True) from error
        except RegistryError as error:
            raise NoReplica(str(error)) from error
        async with lease:
            yield lease

    async def unless_lost(self, lease: Lease, work: Coroutine[Any, Any, T]) -> T:
        """Do a session's work and return its result.

        Raises:
            ReplicaLost: Its replica was lost first, and such sessions are to be closed; the work was cancelled.
        """
        if self._on_lost == "keep":
            return await work
        working = asyncio.ensure_future(work)
        losing = asyncio.ensure_future(lease.lost.wait())
        try:
            await asyncio.wait((working, losing), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
        finally:
            working.cancel()
            losing.cancel()
            await asyncio.gather(working, losing, return_exceptions=True)
        raise ReplicaLost(f"{lease.replica.url} turned unhealthy or was removed")
