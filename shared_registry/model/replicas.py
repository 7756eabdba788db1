"""A replica as configured, its health, its record in Redis, and the live handle on it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from shared_registry.model.labels import NO_LABELS, Labels
from shared_registry.model.makers import Maker
from shared_registry.model.revisions import ORIGIN, is_later
from shared_registry.urls import canonical_url

LEAST_RAMP_SHARE = 0.1
"""The share of its weight that a replica has at the start of its ramp. lua/lib/ready.lua has the same number."""


class ReplicaStatus(enum.Enum):
    """The status of a replica, from its probes and outcomes."""

    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


class AdminState(enum.Enum):
    """The state that an operator has set for a replica. Health never overrides it.

    A `DRAINING` replica takes no new session, but is still probed. A `DISABLED` replica is not probed either.
    `REMOVED` marks the tombstone of a deregistered replica.
    """

    ACTIVE = "active"
    DRAINING = "draining"
    DISABLED = "disabled"
    REMOVED = "removed"


_HEALTHY, _ACTIVE = ReplicaStatus.HEALTHY, AdminState.ACTIVE
_PROBED = AdminState.ACTIVE, AdminState.DRAINING
"""Named once, because it takes long to read a member of an enum."""


class Source(enum.StrEnum):
    """The source of a replica's spec: a config file, an operator or a program on purpose, or an announcement.

    The source of a replica that the leader discovered is a text such as `dns:pods`; see `read_source`.
    """

    SEED = "seed"
    EXPLICIT = "explicit"
    ANNOUNCED = "announced"


def read_source(text: str) -> str:
    """Return a source: one of `Source`, or the kind and name of a source of discovery.

    Raises:
        ValueError: The text is no source.
    """
    return text if is_discovered(text) else Source(text)


def is_discovered(source: str) -> bool:
    """Return whether a replica with this source belongs to a source of discovery."""
    return ":" in source


@dataclass(frozen=True, slots=True)
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
class Doubt:
    """How far routers disagree about a replica; see `docs/verdicts.md`. Routers are named by their keys.

    Attributes:
        prober: The router that probes the replica in place of the leader; empty if the leader does.
        prober_until: Until then the word of that router counts.
        suspicion: The id of the question whether other routers reach the replica; empty if none is open.
        suspected_by: The router whose probes fail.
        suspected_at: When the last question was asked.
        suspected_until: Silence until then counts as agreement; `None` if silence decides nothing.
        suspected_address: The IP address that was probed, where the url has a name; empty if it is not known. Those
            that are asked probe the same, if the name has it for them.
        asked: The routers that have not answered yet.
        unreached_by: The routers that answered that they do not reach the replica.
        reached_by: The router that reached the replica while its prober did not.
        refuted_prober: The prober that was wrong about the replica the last time.
    """

    prober: str = ""
    prober_until: float | None = None
    suspicion: str = ""
    suspected_by: str = ""
    suspected_at: float | None = None
    suspected_until: float | None = None
    suspected_address: str = ""
    asked: tuple[str, ...] = ()
    unreached_by: tuple[str, ...] = ()
    reached_by: str = ""
    refuted_prober: str = ""


NO_DOUBT = Doubt()


@dataclass(frozen=True, slots=True)
class ReplicaRecord:
    """Everything that Redis stores about one replica, at one moment.

    Attributes:
        key: The canonical url, which identifies the replica in Redis.
        incarnation: A random id, new at each registration after a removal. A late result for an earlier registration
            of the same url carries the earlier id and is dropped.
        admin_by: Who set the admin state and its reason last; empty if it is not known.
        admin_by_at: The `admin_since` of the state that `admin_by` set.
        removes_when_drained: The replica is removed when its last session ends.
        in_flight: The number of sessions on it over all routers, as of the last read.
        slow_start_seconds: The length of its ramp since it turned healthy; `None` if it has no ramp, or the ramp is
            over.
        ejected_until: Until when the replica takes no new sessions because sessions failed on it, although probes
            succeed; `None` if it is not ejected.
        ejections: How often it was ejected lately, on which the length of the next ejection depends.
        owner: The name of the instance that announced it; empty if it was not announced, as the following.
        instance: The id of that instance.
        ttl_seconds: How long it stays in service without a heartbeat of that instance.
        last_heartbeat_at: When the last one came, as of the last read of the whole record.
        missing_since: Since when its source of discovery does not have it, as of the last read of the whole record; it
            stays until that is confirmed. `None` if the source has it.
        expired_at: When it was put out of service because none came; `None` if it was not.
        withdrawn_at: When its instance, or its source of discovery, withdrew it; `None` if it did not.
        removed_instance: The id of the instance that an operator removed last at its url, which does not come back;
            empty if there is none.
        revision: The id of the last event that changed its routing-relevant state.
        restored_from: The revision and the history as of which the record is known. Set if the replica was restored
            after a loss of history or seeded from a config file, and not changed on purpose since; otherwise empty.
    """

    key: str
    endpoint: ReplicaEndpoint
    health: ReplicaHealth = ReplicaHealth()
    doubt: Doubt = NO_DOUBT
    incarnation: str = ""
    source: str = Source.SEED
    registered_at: float | None = None
    status_since: float | None = None
    last_error: str = ""
    admin: AdminState = AdminState.ACTIVE
    admin_since: float | None = None
    admin_reason: str = ""
    admin_by: str = ""
    admin_by_at: float | None = None
    removes_when_drained: bool = False
    in_flight: int = 0
    slow_start_seconds: float | None = None
    ejected_until: float | None = None
    ejections: int = 0
    owner: str = ""
    instance: str = ""
    ttl_seconds: float | None = None
    last_heartbeat_at: float | None = None
    missing_since: float | None = None
    expired_at: float | None = None
    withdrawn_at: float | None = None
    removed_instance: str = ""
    revision: str = ORIGIN
    restored_from: str = ""

    @property
    def is_selectable(self) -> bool:
        """Whether the replica is healthy, active and not ejected, so that `select()` may return it."""
        return self.health.status is _HEALTHY and self.admin is _ACTIVE and self.ejected_until is None

    @property
    def is_probed(self) -> bool:
        """Whether the leader probes the replica, which means that it is neither disabled nor removed."""
        return self.admin in _PROBED

    def after_event(self, record: ReplicaRecord) -> ReplicaRecord:
        """Return the record after an event that carries `record`. An event carries no load, so the load is kept."""
        if not is_later(record.revision, self.revision):
            return self
        kept = (self.in_flight, self.last_heartbeat_at, self.missing_since)
        if kept == (record.in_flight, record.last_heartbeat_at, record.missing_since):
            return record
        return _keeping(record, *kept)

    def after_read(self, record: ReplicaRecord) -> ReplicaRecord:
        """Return the record after a read of `record`, whose counters and load may be newer than its revision."""
        return self if is_later(self.revision, record.revision) else record


make_endpoint, make_health, make_record = Maker(ReplicaEndpoint), Maker(ReplicaHealth), Maker(ReplicaRecord)
_keeping = make_record.replacing("in_flight", "last_heartbeat_at", "missing_since")


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
        """Whether its status is healthy, independent of its admin state and of ejections."""
        return self.record.health.status is _HEALTHY

    @property
    def is_ejected(self) -> bool:
        """Whether it takes no new sessions for some time, because sessions failed on it."""
        return self.record.ejected_until is not None


class Removal(NamedTuple):
    """The known facts about a removed replica.

    Attributes:
        revision: The revision of the removal, or a later one.
        restored_from: See `ReplicaRecord`.
        is_lasting: Whether an operator removed it. A replica that was withdrawn or expired may come back at any time,
            so its removal is not restored after a loss of history, unless there is an instance that must not.
        instance: The instance that an operator removed last; empty if there is none.
    """

    revision: str
    restored_from: str = ""
    is_lasting: bool = True
    instance: str = ""

    @classmethod
    def of(cls, record: ReplicaRecord) -> Removal:
        """Return the removal that the record of an event shows."""
        has_left = record.expired_at is not None or record.withdrawn_at is not None
        return cls(record.revision, record.restored_from, not has_left, record.removed_instance)
