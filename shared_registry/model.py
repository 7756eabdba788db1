"""What the registry knows: endpoints, health, records and the live handles on them. Pure data, no I/O.

Times are float seconds since the epoch on the Redis server's clock, `None` where it never happened.
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
"""Of its weight, which a replica has from the first moment on that it ramps up; lua/lib/ready.lua has the same."""


class ReplicaStatus(enum.Enum):
    """What the probes say of a replica."""

    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


class AdminState(enum.Enum):
    """What the operator says of a replica. Health never overrides it.

    `DRAINING` takes no new session but is still probed; `DISABLED` is not probed either; `REMOVED` marks what is
    left of a deregistered replica.
    """

    ACTIVE = "active"
    DRAINING = "draining"
    DISABLED = "disabled"
    REMOVED = "removed"


class Source(enum.Enum):
    """Who wrote a replica's spec: a config file at a router's start, or an operator or program on purpose."""

    SEED = "seed"
    EXPLICIT = "explicit"


class Labels(dict[str, str]):
    """What people say of a replica, such as its zone and model: sorted by name, unchangeable, hashable.

    A dict, so that JSON and `dataclasses.asdict` know what to do with it. As text it is `gpu=h100,zone=a`.
    """

    __slots__ = ()

    def __init__(self, labels: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> None:
        """Copy labels. They are checked where the replica enters the registry, not here."""
        super().__init__(sorted(dict(labels).items(), key=lambda label: str(label[0])))

    @classmethod
    def parse(cls, text: str) -> Labels:
        """Return the labels that a text names.

        Raises:
            ValueError: A part of it has no `=`.
        """
        if not text:
            return NO_LABELS
        parts = [part.partition("=") for part in text.split(",")]
        if not all(equals for _, equals, _ in parts):
            raise ValueError(text)
        return cls((name, value) for name, _, value in parts)

    def __str__(self) -> str:
        return ",".join(f"{name}={value}" for name, value in self.items())

    def __hash__(self) -> int:  # type: ignore[override]  # a dict has none, for it can be changed
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
    """One replica as configured. Validated where it enters the registry, not when built.

    Attributes:
        url: http(s) origin without a path.
        name: A label for people; defaults to none.
        primary: Primaries form the first tier; the others serve when no primary can.
        weight: Relative share of the load, > 0.
        capacity: The most sessions at once; 0 means unlimited.
        order: Position in the list, lowest first; `None` appends.
        labels: What else people say of it, such as `{"zone": "a"}`, for policies and for people; see `Labels`.
    """

    url: str
    name: str | None = None
    primary: bool = False
    weight: float = 1.0
    capacity: int = 0
    order: int | None = None
    labels: Mapping[str, str] = NO_LABELS

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
    """All that Redis holds of one replica, at one moment.

    Attributes:
        key: The canonical url, the replica's name in Redis.
        incarnation: Random, new at each registration after a removal: a late result for an earlier life of the
            same url carries another one and is dropped.
        removes_when_drained: Whatever ends the last session on it removes it.
        in_flight: Sessions on it over all routers, when it was last read.
        slow_start_seconds: How long it ramps up since it turned healthy; `None` where it does not, or not any more.
        revision: Id of the event that last changed what routing depends on.
        restored_from: As of which revision of which history this is known, where it was put back after a loss of
            history or seeded from a configuration file, and nobody has changed it on purpose since; empty otherwise.
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
        """Healthy and active: `select()` may return it."""
        return self.health.status is ReplicaStatus.HEALTHY and self.admin is AdminState.ACTIVE

    @property
    def is_probed(self) -> bool:
        """The leader probes it: neither disabled nor removed."""
        return self.admin in (AdminState.ACTIVE, AdminState.DRAINING)

    def after_event(self, record: ReplicaRecord) -> ReplicaRecord:
        """Return what is known after an event that carries `record`; an event carries no load."""
        if not is_later(record.revision, self.revision):
            return self
        return replace(record, in_flight=self.in_flight)

    def after_read(self, record: ReplicaRecord) -> ReplicaRecord:
        """Return what is known after reading `record`, whose counters and load may be newer than its revision."""
        return self if is_later(self.revision, record.revision) else record


class Replica:
    """A live handle on one replica: keep it, and read its attributes later for what is known then.

    There is one handle per url. Its whole record is replaced at once, so readers never see half a change.
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
        """The health last heard of; an immutable snapshot."""
        return self.record.health

    @property
    def admin(self) -> AdminState:
        """The operator's word on it."""
        return self.record.admin

    @property
    def url(self) -> str:
        """The url as it was given, for display and for connecting."""
        return self.record.endpoint.url

    @property
    def name(self) -> str | None:
        """The label given to it."""
        return self.record.endpoint.name

    @property
    def primary(self) -> bool:
        """Whether it belongs to the first tier."""
        return self.record.endpoint.primary

    @property
    def labels(self) -> Mapping[str, str]:
        """What else people say of it, such as its zone."""
        return self.record.endpoint.labels

    @property
    def in_flight(self) -> int:
        """Sessions on it over all routers, as of the last refresh."""
        return self.record.in_flight

    @property
    def is_healthy(self) -> bool:
        """Whether its status is healthy, whatever the operator says of it."""
        return self.record.health.status is ReplicaStatus.HEALTHY


class EventKind(enum.Enum):
    """Every kind of change that the event stream carries; `OTHER` for one that only a later version knows."""

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
    """One change, in its place in the order of all changes.

    Attributes:
        id: The revision that the change made.
        previous: The revision that it was made upon; another one than the reader's means a gap.
        at: When, in seconds on the Redis server's clock.
        router: Key of the router that did it or, for router events, that it is about.
        epoch: The highest epoch at that moment.
        by: Who asked for it, where somebody did.
        reason: Why, in the words of whoever asked or of the failed probe.
        record: The replica after the change, for replica events.
        sit_out_seconds: Of a leader that an operator deposed: how long it is not to stand again.
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


@dataclass(frozen=True, slots=True)
class Leader:
    """Who leads, as last heard of.

    Attributes:
        epoch: The fencing token: strictly larger at every election.
        elected_at: Seconds on the Redis server's clock.
    """

    router: str
    epoch: int
    elected_at: float


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What one probe of one replica found.

    Attributes:
        error: Why it failed, or `None` for a success.
    """

    key: str
    incarnation: str
    latency_ms: float
    error: str | None = None


class Removal(NamedTuple):
    """What is known of a replica that was removed.

    Attributes:
        revision: By which it was, or a later one.
        restored_from: See `ReplicaRecord`.
    """

    revision: str
    restored_from: str = ""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """How many results in a row change a status."""

    failure: int = 3
    recovery: int = 2


@dataclass
class Term:
    """One router's time as the leader: what everything that it writes as such carries, and Redis compares.

    Attributes:
        epoch: Its number, which only rises.
        token: Of the candidacy that won it.
    """

    epoch: int
    token: str


@dataclass(frozen=True, slots=True)
class RouterInfo:
    """How a router presents itself to operators."""

    key: str
    host: str
    pid: int
    version: str
    started_at: float
    url: str = ""
    config_fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class RouterRecord:
    """A router as the others see it.

    Attributes:
        last_beat_at: When it last sent a heartbeat; `expires_at`, when it counts as dead unless it sends another.
    """

    info: RouterInfo
    last_heartbeat_at: float
    expires_at: float


def is_later(revision: str, other: str) -> bool:
    """Return whether a revision comes after another: stream ids compare by their two numbers, not as text."""
    return _order(revision) > _order(other)


def _order(revision: str) -> tuple[int, int]:
    milliseconds, _, sequence = revision.partition("-")
    return int(milliseconds), int(sequence or 0)
