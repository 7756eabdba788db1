"""A session's hold on a slot of a replica."""

from __future__ import annotations

import asyncio
import sys
import warnings
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from shared_registry.model import Replica


@dataclass(slots=True, eq=False)
class HeldLease:
    """What a router knows of a lease that it holds. It outlives the `Lease` that the caller has.

    Attributes:
        id: The lease's id in Redis.
        replica: The replica that the session uses.
        revision: The revision of the replica when the lease was acquired.
        acquired_at: See `Lease`.
        session: The session's name that the caller gave, if any.
        is_degraded: See `Lease`.
        is_spare: See `Lease`.
        has_returned: See `Lease`.
        is_contested: See `Lease.contested`.
        has_ended: Whether the lease was released or given up, or this router has ended.
        lost: See `Lease.lost`; `None` until somebody looks at it.
    """

    id: str
    replica: Replica
    revision: str
    acquired_at: float = 0.0
    session: str | None = None
    is_degraded: bool = False
    is_spare: bool = False
    has_returned: bool = False
    is_contested: bool = False
    has_ended: bool = False
    lost: asyncio.Event | None = None

    def lose(self) -> None:
        """Record that the replica is lost."""
        self.lost_event().set()

    def lost_event(self) -> asyncio.Event:
        """Return the event; it is made on demand, because few sessions look at it."""
        if self.lost is None:
            self.lost = asyncio.Event()
        return self.lost


class Lease:
    """Holds a slot until `release()`, the end of an `async with` block, or the end of this router.

    A lease that is garbage-collected without having ended causes a `ResourceWarning`, as a file that was not closed
    does. It is released with the next heartbeat.

    Attributes:
        sequence: The session's sequence in the queue; empty if it has not waited, and would not have waited without
            this slot. `acquire(exclude=[lease])` gives the session its position back.
    """

    __slots__ = ("_abandon", "_end", "_record", "sequence")

    def __init__(
        self,
        record: HeldLease,
        *,
        end: Callable[[HeldLease], Awaitable[None]],
        abandon: Callable[[str], object],
        sequence: str = "",
    ) -> None:
        """Make the caller's handle of a lease.

        Args:
            record: The lease, as this router knows it.
            end: Called to release the lease.
            abandon: Called with the lease's id if the handle is collected before the lease has ended. It may be called
                in any thread, between any two steps of the program, and must only take a note.
            sequence: See the class.
        """
        self._record = record
        self.sequence = sequence
        self._end = end
        self._abandon = abandon

    def __repr__(self) -> str:
        return f"<Lease {self.id[:8]} on {self.replica.url}>"

    def __del__(self) -> None:
        if self._record.has_ended or sys.is_finalizing():
            return
        self._abandon(self.id)
        session = "" if self.session is None else f" of session {self.session!r}"
        warnings.warn(
            f"lease {self.id} on {self.replica.url}{session} was not released",
            ResourceWarning,
            source=self,
            stacklevel=2,
        )

    @property
    def id(self) -> str:
        """The lease's id in Redis."""
        return self._record.id

    @property
    def replica(self) -> Replica:
        """The replica that the session uses."""
        return self._record.replica

    @property
    def revision(self) -> str:
        """The revision of the replica when the lease was acquired."""
        return self._record.revision

    @property
    def acquired_at(self) -> float:
        """When the lease was acquired, in seconds since the Unix epoch on this machine's clock."""
        return self._record.acquired_at

    @property
    def session(self) -> str | None:
        """The session's name that the caller gave, if any."""
        return self._record.session

    @property
    def is_degraded(self) -> bool:
        """Whether the session was placed while Redis was away, by the loads that this router read last."""
        return self._record.is_degraded

    @property
    def is_spare(self) -> bool:
        """Whether the replica was not healthy when the session got it.

        Then there is a panic, and no healthy replica had a free slot. The replica may be dead.
        """
        return self._record.is_spare

    @property
    def has_returned(self) -> bool:
        """Whether a session of this name is or was on the replica, so that this one returned to it.

        It is false for a session that has waited in the queue, or was placed while Redis was away: nobody looks then.
        """
        return self._record.has_returned

    @property
    def lost(self) -> asyncio.Event:
        """An event that is set when the replica turns unhealthy or is removed after the lease was acquired.

        It is information only: the session may go on, and the lease holds the slot until it is released.
        """
        return self._record.lost_event()

    @property
    def contested(self) -> bool:
        """Whether another session may be on the same slot.

        It turns true when this router has found that Redis lacks the lease, has put it back, and the replica then had
        more sessions than its capacity. Redis lacks a lease after other routers have reaped this one, because its
        process was paused or cut off from Redis for longer than `router_expiry_seconds`, or after a loss of data.
        Meanwhile the slot was free, and another session may have taken it. The same holds for a session that was
        placed while Redis was away, if the slot was taken.

        It stays true until the lease ends, also if the other session ends first. The session may go on; the replica
        takes no new session before its load is below its capacity. A session that needs its slot for itself should
        stop work, release the lease, and acquire another one. A session that was placed meanwhile is not told.
        """
        return self._record.is_contested

    async def release(self) -> None:
        """End the lease. A second call does nothing.

        Never raises because of Redis: if Redis is away, the release is sent once Redis is back. If this call is
        cancelled, the lease still ends, a little later.
        """
        await self._end(self._record)

    async def __aenter__(self) -> Self:
        """Hold the slot for the block."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the slot."""
        await self.release()
