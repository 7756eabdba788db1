"""What happens to the leases of this router, and to its sessions that ask for one."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from shared_registry.happenings.happening import Happening


class DenialReason(enum.Enum):
    """Why `acquire` raised an error.

    `SATURATED`: no slot came free in time. `NO_HEALTHY`: no replica is healthy and active. `UNAVAILABLE`: Redis is
    away or refuses, and this router may use no replica without it. `GIVEN_UP`: the call was cancelled, or the registry
    was stopped, or the caller's own function raised.
    """

    SATURATED = "saturated"
    NO_HEALTHY = "no_healthy"
    UNAVAILABLE = "unavailable"
    GIVEN_UP = "given_up"


class LeaseEnd(enum.Enum):
    """Why a lease ended.

    `RELEASED`: its holder released it. `ABANDONED`: its holder lost it without a release. `LEFT`: this router left the
    routers. `RECONCILED`: Redis had it and this router did not know it.
    """

    RELEASED = "released"
    ABANDONED = "abandoned"
    LEFT = "left"
    RECONCILED = "reconciled"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseHappening(Happening):
    """Something happened to a lease or to a request for one.

    Attributes:
        lease_id: The id of the lease. A session that tries again after an outage has another one.
        session: The session's name that the caller gave; `None` if it has none or is not known.
    """

    lease_id: str
    session: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseGranted(LeaseHappening):
    """`acquire` has returned a lease.

    Attributes:
        key: The canonical url of the replica.
        seconds: How long `acquire` took.
        waited_seconds: How long of that the session waited in the queue; `None` if it did not.
        is_spare: Whether the replica is not healthy; see `Lease.is_spare`.
        is_degraded: Whether this router placed the session without Redis.
        has_returned: Whether the session returned to a replica; see `Lease.has_returned`.
    """

    key: str
    seconds: float
    waited_seconds: float | None = None
    is_spare: bool = False
    is_degraded: bool = False
    has_returned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseAwaited(LeaseHappening):
    """A session has begun to wait in the queue. A grant or a denial follows.

    Attributes:
        position: Its position, from 1, among the sessions of all routers.
        depth: The number of sessions that wait, with this one.
    """

    position: int
    depth: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseDenied(LeaseHappening):
    """`acquire` has raised an error.

    Attributes:
        reason: Why there is no lease.
        error: The error as text.
        seconds: How long `acquire` took.
        waited_seconds: How long of that the session waited in the queue; `None` if it did not.
    """

    reason: DenialReason
    error: str
    seconds: float
    waited_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseEnded(LeaseHappening):
    """A lease ended. Its slot comes free as soon as Redis can be told.

    Attributes:
        key: The canonical url of the replica.
        end: Why it ended.
        seconds: How long the session had it; `None` if that is not known.
    """

    key: str
    end: LeaseEnd
    seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasesPutBack(Happening):
    """This router has put leases back that Redis lacked.

    Attributes:
        count: How many.
        over_capacity: Canonical urls of the replicas that now have more sessions than their capacity.
    """

    count: int
    over_capacity: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DegradedBegan(Happening):
    """This router has begun to place sessions without Redis.

    Attributes:
        error: Why Redis could not be asked.
    """

    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DegradedEnded(Happening):
    """This router places sessions through Redis again.

    Attributes:
        placed: How many sessions it has placed without Redis.
    """

    placed: int
