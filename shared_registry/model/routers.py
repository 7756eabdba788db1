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
    """The description of a router for operators."""

    key: str
    host: str
    pid: int
    version: str
    started_at: float
    url: str = ""
    config_fingerprint: str = ""
    machine: str = ""
    probe_print: str = ""
    probing: str = ""


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
