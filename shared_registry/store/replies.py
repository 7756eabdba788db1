"""What the store's verbs answer. Pure data.

Where an answer is a replica's or an event's state, it is that of `model`.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from shared_registry.model import Event, Leader


@dataclass(frozen=True, slots=True)
class Elected:
    """This candidate leads, under that epoch."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Held:
    """Somebody else leads, for at most that long unless they renew."""

    leader: Leader
    remaining_seconds: float


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a batch of probe results.

    Attributes:
        events: The status changes that it made.
        dropped: Results for replicas that were removed, or removed and registered again, meanwhile.
        is_duplicate: The batch had been applied before; the event stream brings its events.
    """

    events: Sequence[Event] = ()
    dropped: int = 0
    is_duplicate: bool = False


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a heartbeat learned.

    Attributes:
        joined: The router was not among the live ones before.
        expired: Routers that may be reaped.
        leases: How many it holds, as far as Redis knows.
    """

    history_id: str
    revision: str
    joined: bool
    expired: Sequence[str]
    leases: int = 0


class Parting(enum.Enum):
    """How far a router's removal has come."""

    DONE = "done"
    PARTIAL = "partial"
    REFUSED = "refused"


class Denial(enum.Enum):
    """Why a session gets no replica, and is not to wait for one."""

    SATURATED = "saturated"
    NO_HEALTHY = "no_healthy"
    EXCLUDED = "excluded"
    NOT_REGISTERED = "not_registered"


@dataclass(frozen=True, slots=True)
class Denied:
    """A session gets no replica.

    Attributes:
        why: Why not. `EXCLUDED` where it was to wait, but others than it excluded have room.
        depth: How many sessions wait.
    """

    why: Denial
    depth: int = 0


@dataclass(frozen=True, slots=True)
class Queued:
    """A session's place in the queue.

    Attributes:
        sequence: What the line is ordered by; brings the place back where the server forgets it.
        position: Counted from 1, over all routers.
        depth: How many sessions wait.
    """

    sequence: str
    position: int
    depth: int


@dataclass(frozen=True, slots=True)
class Restored:
    """What became of leases put back.

    Attributes:
        count: How many Redis did not have, or had on another replica.
        over_capacity: Canonical urls of replicas that have more sessions now than they may take.
        not_there: Canonical urls of replicas that Redis does not know; leases on these were not put back.
    """

    count: int
    over_capacity: Sequence[str]
    not_there: Sequence[str]


@dataclass(frozen=True, slots=True)
class Grant:
    """A session's slot.

    Attributes:
        key: The replica's canonical url.
        revision: The event that last changed the replica before the slot was taken.
    """

    key: str
    revision: str
