"""The data model: endpoints, health, records of replicas, live handles on them, and events. Pure data, no I/O.

Times are float seconds since the Unix epoch on the Redis server's clock. `None` means that it never happened.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, NoReturn

from shared_registry.urls import canonical_url

ORIGIN = "0-0"
"""The revision before the first event of a history."""
LEAST_RAMP_SHARE = 0.1
"""The share of its weight that a replica has at the start of its ramp. lua/lib/ready.lua has the same number."""


class ReplicaStatus(enum.Enum):
    """The status of a replica, from its probes and outcomes."""

    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


class Evidence(enum.Enum):
    """What one attempt to reach a replica says of the replica.

    `UNSURE` says nothing: the attempt failed because of this router's own trouble, such as too many open files. It is
    counted neither as a success nor as a failure.
    """

    OK = "ok"
    FAILED = "failed"
    UNSURE = "unsure"


class AdminState(enum.Enum):
    """The state that an operator has set for a replica. Health never overrides it.

    A `DRAINING` replica takes no new session, but is still probed. A `DISABLED` replica is not probed either.
    `REMOVED` marks the tombstone of a deregistered replica.
    """

    ACTIVE = "active"
    DRAINING = "draining"
    DISABLED = "disabled"
    REMOVED = "removed"


class Source(enum.Enum):
    """The source of a replica's spec: a config file at a router's start, or an operator or a program on purpose."""

    SEED = "seed"
    EXPLICIT = "explicit"


class Labels(dict[str, str]):
    """Labels of a replica, such as its zone and model: sorted by name, immutable, hashable.

    It is a dict, so that JSON and `dataclasses.asdict` can handle it. Its text form is `gpu=h100,zone=a`.
    """

    __slots__ = ()

    def __init__(self, labels: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> None:
        """Copy labels. They are validated when the replica enters the registry, not here."""
        super().__init__(sorted(dict(labels).items(), key=lambda label: str(label[0])))

    @classmethod
    def parse(cls, text: str) -> Labels:
        """Return the labels from their text form.

        Raises:
            ValueError: A part of the text has no `=`.
        """
        if not text:
            return NO_LABELS
        parts = [part.partition("=") for part in text.split(",")]
        if not all(equals for _, equals, _ in parts):
            raise ValueError(text)
        return cls((name, value) for name, _, value in parts)

    def __str__(self) -> str:
        return ",".join(f"{name}={value}" for name, value in self.items())

    def __hash__(self) -> int:  # type: ignore[override]  # a dict is mutable and has no hash
        return hash(tuple(self.items()))

    def __reduce__(self) -> tuple[type[Labels], tuple[dict[str, str]]]:
        return Labels, (dict(self),)

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("labels cannot be changed; use dataclasses.replace(endpoint, labels={...})")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse


NO_LABELS = Labels()


@dataclass(frozen=True)
class ReplicaEndpoint:
    """One replica as configured. Validated when it enters the registry, not when built.

    Attributes:
        url: http(s) origin without a path.
        name: A display name; `None` for no name.
        primary: Primaries form the first tier. The other replicas are used when no primary can take a session.
        weight: Relative share of the load, > 0.
        capacity: The maximum number of sessions at once; 0 means unlimited.
        order: Place in the list of replicas, lowest first; `None` appends.
        labels: Further properties, such as `{"zone": "a"}`, for policies and for people; see `Labels`.
        health_check_path: The path that its probes request; `None` for the routers' `health_check_path`.
        health_check_port: The port that its probes connect to; `None` for the routers' `health_check_port`.
    """

    url: str
    name: str | None = None
    primary: bool = False
    weight: float = 1.0
    capacity: int = 0
    order: int | None = None
    labels: Mapping[str, str] = NO_LABELS
    health_check_path: str | None = None
    health_check_port: int | None = None

    def __post_init__(self) -> None:
        labels: object = self.labels
        if not isinstance(labels, Labels) and isinstance(labels, Mapping):
            object.__setattr__(self, "labels", Labels(labels))


@dataclass(frozen=True, slots=True)
class ReplicaHealth:
    """A replica's health at one moment."""

    status: ReplicaStatus = ReplicaStatus.UNKNOWN
    last_ok_at: float | None = None
    last_failure_at: float | None = None
    consecutive_failures: int = 0
    consecutive_successes: int = 0
    last_latency_ms: float | None = None


@dataclass(frozen=True, slots=True)
class ReplicaRecord:
    """Everything that Redis stores about one replica, at one moment.

    Attributes:
        key: The canonical url, which identifies the replica in Redis.
        incarnation: A random id, new at each registration after a removal. A late result for an earlier registration
            of the same url carries the earlier id and is dropped.
        removes_when_drained: The replica is removed when its last session ends.
        in_flight: The number of sessions on it over all routers, as of the last read.
        slow_start_seconds: The length of its ramp since it turned healthy; `None` if it has no ramp, or the ramp is
            over.
        revision: The id of the last event that changed its routing-relevant state.
        restored_from: The revision and the history as of which the record is known. Set if the replica was restored
            after a loss of history or seeded from a config file, and not changed on purpose since; otherwise empty.
    """

    key: str
    endpoint: ReplicaEndpoint
    health: ReplicaHealth = ReplicaHealth()
    incarnation: str = ""
    source: Source = Source.SEED
    registered_at: float | None = None
    status_since: float | None = None
    last_error: str = ""
    admin: AdminState = AdminState.ACTIVE
    admin_since: float | None = None
    admin_reason: str = ""
    removes_when_drained: bool = False
    in_flight: int = 0
    slow_start_seconds: float | None = None
    revision: str = ORIGIN
    restored_from: str = ""

    @property
    def is_selectable(self) -> bool:
        """Whether the replica is healthy and active, so that `select()` may return it."""
        return self.health.status is ReplicaStatus.HEALTHY and self.admin is AdminState.ACTIVE

    @property
    def is_probed(self) -> bool:
        """Whether the leader probes the replica, which means that it is neither disabled nor removed."""
        return self.admin in (AdminState.ACTIVE, AdminState.DRAINING)

    def after_event(self, record: ReplicaRecord) -> ReplicaRecord:
        """Return the record after an event that carries `record`. An event carries no load, so the load is kept."""
        if not is_later(record.revision, self.revision):
            return self
        return replace(record, in_flight=self.in_flight)

    def after_read(self, record: ReplicaRecord) -> ReplicaRecord:
        """Return the record after a read of `record`, whose counters and load may be newer than its revision."""
        return self if is_later(self.revision, record.revision) else record


class Replica:
    """A live handle on one replica. Keep it: its attributes always show the latest known state.

    There is one handle per url. Its record is replaced as a whole, so readers never see a partial change.
    """

    __slots__ = ("__weakref__", "record")

    record: ReplicaRecord

    def __init__(self, endpoint: ReplicaEndpoint, health: ReplicaHealth = ReplicaHealth()) -> None:
        self.record = ReplicaRecord(canonical_url(endpoint.url), endpoint, health)

    @classmethod
    def of(cls, record: ReplicaRecord) -> Replica:
        """Return a new handle on a record."""
        replica = cls.__new__(cls)
        replica.record = record
        return replica

    def __repr__(self) -> str:
        return f"<Replica {self.url} {self.health.status.value} {self.admin.value}>"

    @property
    def key(self) -> str:
        """The canonical url."""
        return self.record.key

    @property
    def endpoint(self) -> ReplicaEndpoint:
        """The spec in force, which an operator may have changed since the config was read."""
        return self.record.endpoint

    @property
    def health(self) -> ReplicaHealth:
        """The last known health, as an immutable snapshot."""
        return self.record.health

    @property
    def admin(self) -> AdminState:
        """The admin state that an operator has set."""
        return self.record.admin

    @property
    def url(self) -> str:
        """The url as it was configured, for display and for connecting."""
        return self.record.endpoint.url

    @property
    def name(self) -> str | None:
        """The display name, if it has one."""
        return self.record.endpoint.name

    @property
    def primary(self) -> bool:
        """Whether the replica belongs to the first tier."""
        return self.record.endpoint.primary

    @property
    def labels(self) -> Mapping[str, str]:
        """Further properties, such as the replica's zone."""
        return self.record.endpoint.labels

    @property
    def in_flight(self) -> int:
        """The number of sessions on the replica over all routers, as of the last refresh."""
        return self.record.in_flight

    @property
    def is_healthy(self) -> bool:
        """Whether its status is healthy, independent of its admin state."""
        return self.record.health.status is ReplicaStatus.HEALTHY


class EventKind(enum.Enum):
    """The kinds of events in the event stream. `OTHER` stands for a kind that only a later version knows."""

    OTHER = "other"

    REPLICA_REGISTERED = "replica_registered"
    REPLICA_UPDATED = "replica_updated"
    REPLICA_DEREGISTERED = "replica_deregistered"
    REPLICA_HEALTHY = "replica_healthy"
    REPLICA_UNHEALTHY = "replica_unhealthy"
    REPLICA_ADMIN = "replica_admin"
    LEADER_ELECTED = "leader_elected"
    LEADER_RESIGNED = "leader_resigned"
    ROUTER_JOINED = "router_joined"
    ROUTER_LEFT = "router_left"
    ROUTER_EXPIRED = "router_expired"
    VIEW_RESTORED = "view_restored"
    NAMESPACE_REPAIRED = "namespace_repaired"
    PANIC_BEGAN = "panic_began"
    PANIC_ENDED = "panic_ended"


@dataclass(frozen=True, slots=True)
class Event:
    """One change of the shared state. Event ids order all changes.

    Attributes:
        id: The event's id, which is the revision after the change.
        previous: The id of the event before it. If it differs from the reader's revision, the reader has a gap.
        at: The time of the change, in seconds since the Unix epoch on the Redis server's clock.
        router: The key of the router that made the change; for router events, the router that the event is about.
        epoch: The highest epoch at that time.
        by: The person, program or router that requested the change; empty if there is none.
        reason: The reason that was given with the request, or the error of the failed probe.
        record: The replica after the change, for replica events.
        sit_out_seconds: For how long a leader that an operator deposed must not campaign; `None` for other events.
        history_id: The history that the change belongs to; empty if that is not known.
    """

    id: str
    kind: EventKind
    at: float
    previous: str
    router: str
    epoch: int
    by: str = ""
    reason: str = ""
    record: ReplicaRecord | None = None
    sit_out_seconds: float | None = None
    history_id: str = ""


@dataclass(frozen=True, slots=True)
class Leader:
    """The last known leader.

    Attributes:
        router: The key of the router.
        epoch: The fencing token, which is strictly larger at every election.
        elected_at: The time of its election, in seconds since the Unix epoch on the Redis server's clock.
    """

    router: str
    epoch: int
    elected_at: float


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The result of one probe of one replica, or one outcome that a router reports.

    Attributes:
        key: The replica's canonical url.
        incarnation: The replica's incarnation at that time; a result for another incarnation is dropped.
        latency_ms: How long it took; 0 if nobody measured it.
        error: The reason of a failure; `None` for a success.
    """

    key: str
    incarnation: str
    latency_ms: float
    error: str | None = None


class Removal(NamedTuple):
    """The known facts about a removed replica.

    Attributes:
        revision: The revision of the removal, or a later one.
        restored_from: See `ReplicaRecord`.
    """

    revision: str
    restored_from: str = ""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """How many failures or successes in a row change a replica's status."""

    failure: int = 3
    recovery: int = 2


@dataclass
class Term:
    """One router's time as the leader. Every write of the leader carries it, and Redis compares it with its own.

    Attributes:
        epoch: The number of the term, which only rises.
        token: The token of the candidacy that won the term.
    """

    epoch: int
    token: str


@dataclass(frozen=True, slots=True)
class RouterInfo:
    """The description of a router for operators."""

    key: str
    host: str
    pid: int
    version: str
    started_at: float
    url: str = ""
    config_fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class RouterRecord:
    """A router's description, and its heartbeat as Redis stores it.

    Attributes:
        info: The router's description.
        last_heartbeat_at: When it last sent a heartbeat.
        expires_at: When it counts as dead unless it sends another heartbeat.
    """

    info: RouterInfo
    last_heartbeat_at: float
    expires_at: float


def is_later(revision: str, other: str) -> bool:
    """Return whether a revision comes after another. Stream ids compare by their two numbers, not as text."""
    return _order(revision) > _order(other)


def _order(revision: str) -> tuple[int, int]:
    milliseconds, _, sequence = revision.partition("-")
    return int(milliseconds), int(sequence or 0)
