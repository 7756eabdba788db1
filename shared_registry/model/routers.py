"""Routers, and the one that is the leader."""

from __future__ import annotations

from dataclasses import dataclass


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
    """The description of a router for operators.

    Attributes:
        key: Unique for each start of a router.
        host: The host name.
        pid: The process id.
        version: The version of this package.
        started_at: Seconds since the Unix epoch.
        url: The url at which the router serves; empty if it does not say.
        config_fingerprint: A digest of the settings that all routers of a namespace should share.
        cluster: The name of the group of routers that its config gives; empty if it gives none.
        machine: An id of the machine since its start.
        probe_print: A digest of the settings that decide the result of a probe; empty while the router does not probe.
        trouble: Why the router cannot connect to replicas, if that is its own trouble; otherwise empty.
        probing: Whether it takes part in shared probing, as its config says.
        view_age_seconds: How long before its last heartbeat its view was known to be current. This and the following
            are `None` if the router has not measured them, or is of a version that does not.
        probe_age_seconds: How long before its last heartbeat it had finished a probe.
        probe_lag_seconds: How long after it was due the latest of its scheduled probes has begun, of those that began
            between its last two heartbeats.
    """

    key: str
    host: str
    pid: int
    version: str
    started_at: float
    url: str = ""
    config_fingerprint: str = ""
    cluster: str = ""
    machine: str = ""
    probe_print: str = ""
    trouble: str = ""
    probing: str = ""
    view_age_seconds: float | None = None
    probe_age_seconds: float | None = None
    probe_lag_seconds: float | None = None


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
