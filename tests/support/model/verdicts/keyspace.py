"""What Redis holds for verdicts: plain records, times in milliseconds of Redis' clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

LONG_AGO = -(10**12)
NEVER = 10**15

Event = dict[str, Any]


@dataclass
class Suspicion:
    """A question to peers about one replica."""

    id: str
    by: str
    since: int
    until: int
    asked: list[str]
    everybody: tuple[str, ...]
    agreed: int = 0


@dataclass
class Replica:
    """A replica's hash."""

    url: str
    incarnation: str
    admin: str = "active"
    status: str = "unknown"
    since: int = 0
    failures: int = 0
    successes: int = 0
    unsure: int = 0
    suspicion: Suspicion | None = None
    asked_at: int = LONG_AGO
    refuted: str = ""
    refuted_by: str = ""
    prober: str = ""
    prober_at: int = LONG_AGO
    judged_by: tuple[str, ...] = ()
    last_result_at: int = LONG_AGO
    last_ok_at: int = LONG_AGO
    seen_by: str = ""
    seen: int = 0
    slow_start: bool = False
    reports: dict[str, int] = field(default_factory=dict)
    reported_at: int = LONG_AGO
    run: int = 0
    run_clients: set[str] = field(default_factory=set)
    announced_at: int | None = None
    outcome_ok_at: int = LONG_AGO
    ejected_until: int = LONG_AGO
    ejections: int = 0
    in_flight: int = 0
    capacity: int = 4

    def view(self) -> Event:
        """What a router's mirror shows: carried by events and by a full read."""
        question = self.suspicion
        return {
            "incarnation": self.incarnation,
            "admin": self.admin,
            "status": self.status,
            "since": self.since,
            "prober": self.prober,
            "judged_by": self.judged_by,
            "suspicion": question.id if question else "",
            "by": question.by if question else "",
            "asked": tuple(question.asked) if question else (),
        }


@dataclass
class RouterHash:
    """A router's hash, and its scores in `routers` and `probers`."""

    machine: str
    print: str
    expires_at: int
    probes_until: int
    heartbeat_at: int
    handicap_until: int = LONG_AGO


@dataclass
class Lock:
    """The leader's lock."""

    router: str
    token: str
    epoch: int
    expires_at: int
    batch: int = 0


@dataclass
class Plan:
    """Who shares the probing."""

    number: int
    epoch: int
    participants: tuple[str, ...]
    at: int


@dataclass
class Keyspace:
    """All keys. `now` is Redis' clock, the only time that its scripts know."""

    clock: Callable[[], int]
    replicas: dict[str, Replica] = field(default_factory=dict)
    routers: dict[str, RouterHash] = field(default_factory=dict)
    lock: Lock | None = None
    epoch: int = 0
    plan: Plan = field(default_factory=lambda: Plan(0, 0, (), 0))
    batches: dict[str, int] = field(default_factory=dict)
    questions: int = 0
    heartbeat_at: int | None = None
    reap_after: int = 0
    stream: list[Event] = field(default_factory=list)

    @property
    def now(self) -> int:
        return self.clock()

    @property
    def leader(self) -> Lock | None:
        """The lock while its lease lasts."""
        if self.lock is not None and self.lock.expires_at <= self.now:
            self.lock = None
        return self.lock

    def emit(self, kind: str, **fields: Any) -> None:
        self.stream.append({"kind": kind, "at": self.now, "number": len(self.stream) + 1, **fields})

    def probers(self) -> list[str]:
        """The routers that probe, as far as Redis knows."""
        now = self.now
        return [key for key, router in self.routers.items() if router.probes_until > now]
