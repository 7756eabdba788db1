"""What routers learn of replicas by probes, and say about them."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple


class Evidence(enum.Enum):
    """What one attempt to reach a replica says of the replica.

    `UNSURE` says nothing: the attempt failed because of this router's own trouble, such as too many open files. It is
    counted neither as a success nor as a failure.
    """

    OK = "ok"
    FAILED = "failed"
    UNSURE = "unsure"


@dataclass(frozen=True, slots=True)
class Question:
    """A question to routers: does any of you reach this replica?

    Attributes:
        key: The replica's canonical url.
        incarnation: The replica's incarnation.
        suspicion: The id of the question, which answers carry.
        until: See `Doubt.suspected_until`.
        address: See `Doubt.suspected_address`.
        asked: The routers that shall answer.
    """

    key: str
    incarnation: str
    suspicion: str
    until: float | None
    address: str
    asked: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The result of one probe of one replica, or one outcome that a router reports.

    Attributes:
        key: The replica's canonical url.
        incarnation: The replica's incarnation at that time; a result for another incarnation is dropped.
        latency_ms: How long it took; 0 if nobody measured it.
        error: The reason of a failure; `None` for a success.
        is_unsure: The probe could not be made, because of this router's own trouble; `error` says why.
        address: The IP address that was probed, if the url has a name and the address is known; otherwise empty.
    """

    key: str
    incarnation: str
    latency_ms: float
    error: str | None = None
    is_unsure: bool = False
    address: str = ""


class OpinionKind(enum.Enum):
    """The kinds of what a router that is not the leader says about a replica.

    An `OPINION` answers a question. A `REPORT` is a result of the router to which the replica was handed over. An
    `APPEAL` is a success about a replica that its prober does not reach.
    """

    OPINION = "opinion"
    REPORT = "report"
    APPEAL = "appeal"


@dataclass(frozen=True, slots=True)
class Opinion:
    """What a router that is not the leader says about a replica.

    Attributes:
        kind: See `OpinionKind`.
        id: The id of the question, or the number of the report; empty for an appeal.
        result: The result of its probe.
    """

    kind: OpinionKind
    id: str
    result: ProbeResult


@dataclass(frozen=True, slots=True)
class Thresholds:
    """How many failures or successes in a row change a replica's status, and the times of probes behind them.

    Attributes:
        failure: Failures in a row that make a replica unhealthy.
        recovery: Successes in a row that make it healthy again.
        interval_seconds: Seconds between two probes of a settled replica; 0 if that is not known.
        timeout_seconds: The time limit of one probe.
    """

    failure: int = 3
    recovery: int = 2
    interval_seconds: float = 0.0
    timeout_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ConnectedSessions:
    """The outcome of sessions that were connected to a replica, on one router since its last report.

    Attributes:
        failures: How many in a row failed; 0 for a success.
        client: A digest that names their client; `SEVERAL_CLIENTS` if they have several, empty if it is not known.
    """

    failures: int
    client: str = ""


SEVERAL_CLIENTS = "*"


@dataclass(frozen=True, slots=True)
class EjectionLimits:
    """When a replica is ejected, and for how long; see `RouterConfig` for each."""

    max_percent: float = 0.0
    base_seconds: float = 30.0
    failures: int = 5


NO_EJECTION = EjectionLimits()


class ProberInfo(NamedTuple):
    """A router that can probe.

    Attributes:
        probe_print: A digest of all settings that decide the result of its probes.
        machine: The machine that it runs on.
        router: Its key.
    """

    probe_print: str
    machine: str
    router: str
