"""A session's hold on a slot of a replica."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from shared_registry.model import Replica


class Lease:
    """Holds a slot until `release()`, the end of an `async with` block, or the end of this router.

    Attributes:
        id: The lease's id in Redis.
        replica: The replica that the session uses.
        session: The session's name that the caller gave, if any.
        acquired_at: When the lease was acquired, in seconds since the Unix epoch on this machine's clock.
        is_degraded: Whether the session was placed while Redis was away, by the loads that this router read last.
        is_spare: Whether the replica was not healthy when the session got it: there is a panic, and no healthy replica
            had a free slot. The replica may be dead.
        sequence: The session's sequence in the queue; empty if it has not waited, and would not have waited without
            this slot. `acquire(exclude=[lease])` gives the session its position back.
    """

    __slots__ = (
        "_end",
        "_lost",
        "acquired_at",
        "id",
        "is_degraded",
        "is_spare",
        "replica",
        "revision",
        "sequence",
        "session",
    )

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
        is_spare: bool = False,
    ) -> None:
        self.id = lease_id
        self.replica = replica
        self.session = session
        self.acquired_at = acquired_at
        self.revision = revision
        self._lost: asyncio.Event | None = None
        self.is_degraded = is_degraded
        self.is_spare = is_spare
        self.sequence = ""
        self._end = end

    def __repr__(self) -> str:
        return f"<Lease {self.id[:8]} on {self.replica.url}>"

    @property
    def lost(self) -> asyncio.Event:
        """An event that is set when the replica turns unhealthy or is removed after the lease was acquired.

        It is information only: the session may go on, and the lease holds the slot until it is released.
        """
        if self._lost is None:
            self._lost = asyncio.Event()  # on demand: few sessions look at it
        return self._lost

    async def release(self) -> None:
        """End the lease. A second call does nothing.

        Never raises because of Redis: if Redis is away, the release is sent once Redis is back. If this call is
        cancelled, the lease still ends, a little later.
        """
        await self._end(self)

    async def __aenter__(self) -> Self:
        """Hold the slot for the block."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the slot."""
        await self.release()
