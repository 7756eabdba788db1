"""A session's hold on a slot of a replica."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from shared_registry.model import Replica


class Lease:
    """Holds a slot until `release()`, or the end of an `async with`, or the end of this router.

    Attributes:
        id: Names it in Redis.
        replica: Where the session goes.
        session: The name that the caller gave, if any.
        acquired_at: When, in seconds since the epoch on this machine's clock.
        lost: Set when the replica has turned unhealthy, or was removed, since. Only news: the session may go on, and
            the slot is held until it is released.
        is_degraded: Whether it was placed while Redis was away, by what this router knew.
    """

    __slots__ = ("_end", "acquired_at", "id", "is_degraded", "lost", "replica", "revision", "session")

    def __init__(
        self,
        lease_id: str,
        replica: Replica,
        *,
        session: str | None,
        acquired_at: float,
        revision: str,
        end: Callable[[Lease], Awaitable[None]],
        is_degraded: bool = False,
    ) -> None:
        self.id = lease_id
        self.replica = replica
        self.session = session
        self.acquired_at = acquired_at
        self.revision = revision
        self.lost = asyncio.Event()
        self.is_degraded = is_degraded
        self._end = end

    def __repr__(self) -> str:
        return f"<Lease {self.id[:8]} on {self.replica.url}>"

    async def release(self) -> None:
        """End it. Again, it does nothing. Never raises for Redis: what cannot be told now is told once Redis is back.

        Cancelled half-way it still ends, a little later.
        """
        await self._end(self)

    async def __aenter__(self) -> Self:
        """Hold it for the block."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release it."""
        await self.release()
