"""What happens to a replica, for all routers: this router learns it from the shared state."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from shared_registry.happenings.happening import Happening
from shared_registry.model import ReplicaEndpoint, ReplicaRecord, ReplicaStatus


class FailureCause(enum.Enum):
    """What turned a replica unhealthy.

    `CONNECT`: no connection. `TIMEOUT`: no answer in time. `STATUS`: an HTTP status that is no success. `BODY`: an
    answer that cannot be read or is not the expected one. `SESSION`: sessions of clients failed. `OTHER`: the text of
    the error says.
    """

    CONNECT = "connect"
    TIMEOUT = "timeout"
    STATUS = "status"
    BODY = "body"
    SESSION = "session"
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaHappening(Happening):
    """Something happened to a replica.

    Attributes:
        record: The replica afterwards. Its `in_flight` may be older.
        by: Who requested the change, or the router that decided it; empty if that is not known.
        reason: The reason that was given, or the error; empty if there is none.
    """

    record: ReplicaRecord
    by: str = ""
    reason: str = ""

    @property
    def label(self) -> str:
        """The replica's name, or its url if it has none."""
        return self.record.endpoint.name or self.record.endpoint.url


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaRegistered(ReplicaHappening):
    """A replica was registered, or came back after a loss of data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaUpdated(ReplicaHappening):
    """What is configured of a replica has changed.

    Attributes:
        former: What was configured before.
    """

    former: ReplicaEndpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaHealthy(ReplicaHappening):
    """A replica turned healthy.

    Attributes:
        former: Its status before.
    """

    former: ReplicaStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaUnhealthy(ReplicaHappening):
    """A replica turned unhealthy. `reason` is the error of the probe or the session.

    Attributes:
        former: Its status before.
        cause: The kind of the error.
    """

    former: ReplicaStatus
    cause: FailureCause


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaUnjudged(ReplicaHappening):
    """The status of a replica is unknown again, because a repair found it damaged.

    Attributes:
        former: Its status before.
    """

    former: ReplicaStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSuspected(ReplicaHappening):
    """Probes of the router `by` fail, and other routers are asked whether they reach the replica."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaCleared(ReplicaHappening):
    """A suspicion ended, and the replica is as healthy as before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaDrained(ReplicaHappening):
    """A replica takes no new sessions: it drains."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaExpired(ReplicaHappening):
    """An announced replica takes no new sessions: no heartbeat came within its time to live."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaEmptied(Happening):
    """The last session has ended on a replica that is drained, disabled or removed.

    Attributes:
        key: The canonical url of the replica.
        router: The key of the router that had the session, or that has reaped the session's router.
    """

    key: str
    router: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaDisabled(ReplicaHappening):
    """A replica takes no new sessions, and is not probed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaEnabled(ReplicaHappening):
    """A replica may take sessions again, after it was drained or disabled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaEjected(ReplicaHappening):
    """A healthy replica takes no new sessions until `record.ejected_until`, because sessions fail on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaReturned(ReplicaHappening):
    """The ejection of a replica is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaRemoved(ReplicaHappening):
    """A replica was removed. Sessions that run on it go on."""
