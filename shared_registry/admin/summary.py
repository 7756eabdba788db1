"""The one sentence that says whether a registry serves, and its colour. Pure.

It is the first line of `shared-registry status` and of the dashboard. Count the replicas with `FleetCounts`, add what
is known about leader, queue and view, and ask `summarize`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from shared_registry.admin.durations import since
from shared_registry.model import AdminState, Leader, ReplicaRecord, ReplicaStatus

BAD_PERCENT = 50
"""Below this percentage of healthy replicas among the active ones, the sentence is red."""


class Level(enum.Enum):
    """How urgent a state is. The value is the colour in which it is shown."""

    GOOD = "green"
    WARNING = "yellow"
    BAD = "red"


@dataclass(slots=True)
class FleetCounts:
    """Counts of replicas and slots. `add` each record; 10,000 records may be added in several pieces.

    Who keeps the counts takes the former record of a replica out with `remove`, and adds its present one.

    Attributes:
        registered: All replicas.
        active: Replicas that are neither draining nor disabled.
        healthy: Active replicas whose status is healthy, including ejected ones.
        unknown: Active replicas that have no verdict yet.
        draining: Draining replicas.
        disabled: Disabled replicas.
        suspected: Replicas about which routers are being asked.
        ejected: Active, healthy replicas that take no new sessions because sessions failed on them.
        over_capacity: Replicas with more sessions than slots.
        selectable: Replicas that take new sessions.
        slots: The capacity of the selectable replicas, without unlimited ones.
        taken: The sessions on those; more than a replica's capacity counts as its capacity.
        sessions: The sessions on all replicas.
        unlimited: The selectable replicas that have no limit.
    """

    registered: int = 0
    active: int = 0
    healthy: int = 0
    unknown: int = 0
    draining: int = 0
    disabled: int = 0
    suspected: int = 0
    ejected: int = 0
    over_capacity: int = 0
    selectable: int = 0
    slots: int = 0
    taken: int = 0
    sessions: int = 0
    unlimited: int = 0

    @classmethod
    def of(cls, records: Iterable[ReplicaRecord]) -> FleetCounts:
        """Return the counts of some records."""
        counts = cls()
        for record in records:
            counts.add(record)
        return counts

    def add(self, record: ReplicaRecord) -> None:
        """Count one replica."""
        self._count(record, 1)

    def remove(self, record: ReplicaRecord) -> None:
        """Count one replica no longer, whose record is the one that was added."""
        self._count(record, -1)

    def _count(self, record: ReplicaRecord, one: int) -> None:
        capacity = record.endpoint.capacity
        self.registered += one
        self.sessions += one * record.in_flight
        self.suspected += one * bool(record.doubt.suspicion)
        self.over_capacity += one * (0 < capacity < record.in_flight)
        if record.admin is AdminState.DRAINING:
            self.draining += one
        elif record.admin is not AdminState.ACTIVE:
            self.disabled += one
        else:
            self.active += one
            self.unknown += one * (record.health.status is ReplicaStatus.UNKNOWN)
            if record.health.status is ReplicaStatus.HEALTHY:
                self.healthy += one
                self.ejected += one * (record.ejected_until is not None)
        if record.is_selectable:
            self.selectable += one
            self.unlimited += one * (not capacity)
            self.slots += one * capacity
            self.taken += one * min(record.in_flight, capacity)

    @property
    def has_unlimited(self) -> bool:
        """Whether a selectable replica has no limit."""
        return self.unlimited > 0

    @property
    def is_full(self) -> bool:
        """Whether replicas take new sessions, but no slot is free."""
        return bool(self.selectable) and not self.has_unlimited and self.taken >= self.slots


@dataclass(frozen=True, slots=True)
class Situation:
    """What is known besides the replicas. Times are on the Redis server's clock.

    Attributes:
        at: The time of the moment.
        leader: The leader; `None` while there is none.
        leaderless_since: Since when there is no leader, if that is known.
        waiting: How many sessions wait for a slot; `None` if it is not known.
        oldest_wait_seconds: How long the first of them has waited, if that is known.
        panic: Why sessions may use replicas that are not healthy; empty without panic.
        away_seconds: For how long Redis could not be read, or could not be written; `None` while it can.
        is_stale: Whether the view is so old that nothing is selected.
        is_settling: Whether new sessions get no slot, because what ran before a loss of data comes back.
        is_loaded: Whether the shared state was ever read; if not, nothing is known of the leader either.
    """

    at: float
    leader: Leader | None
    leaderless_since: float | None = None
    waiting: int | None = None
    oldest_wait_seconds: float | None = None
    panic: str = ""
    away_seconds: float | None = None
    is_stale: bool = False
    is_settling: bool = False
    is_loaded: bool = True


@dataclass(frozen=True, slots=True)
class Summary:
    """The answer.

    Attributes:
        level: Its urgency, and with it its colour.
        text: One sentence. It contains names that others have chosen: escape it for where it is shown.
    """

    level: Level
    text: str


def summarize(fleet: FleetCounts, situation: Situation) -> Summary:
    """Return the sentence about a registry and its colour."""
    level, head = _head(fleet, situation)
    if not fleet.registered:
        return Summary(level, f"{head}: {', '.join(['no replicas are registered', *_leader(situation)])}.")
    parts = [_replicas(fleet), _slots(fleet), *_queue(situation), *_leader(situation)]
    return Summary(level, f"{head}: {', '.join(parts)}.")


def _head(fleet: FleetCounts, situation: Situation) -> tuple[Level, str]:
    """Return the most urgent matter, in the words with which the sentence begins."""
    serves, worst = bool(fleet.selectable), Level.WARNING if fleet.selectable else Level.BAD
    away = "" if situation.away_seconds is None else f" for {since(situation.away_seconds)}"
    lasts = situation.leaderless_since
    leaderless = "" if lasts is None else f" since {since(situation.at - lasts)}"
    has_trouble = fleet.healthy < fleet.active or fleet.ejected or fleet.over_capacity
    matters = [
        (not situation.is_loaded, Level.BAD, "Not serving, because Redis has not been read yet"),
        (situation.is_stale, Level.BAD, f"Not serving, because Redis has been away{away} and the view is too old"),
        (not fleet.registered, Level.BAD, "Not serving"),
        (away, worst, f"Redis is away{away}, {'serving' if serves else 'not serving'}"),
        (situation.is_settling, worst, "Redis lost its data, and new sessions wait until those that run are back"),
        (situation.leader is None, Level.BAD, f"Nobody leads{leaderless}"),
        (situation.panic, Level.BAD, "Serving in panic"),
        (not serves, Level.BAD, "Not serving"),
        (
            fleet.healthy * 100 < fleet.active * BAD_PERCENT,
            Level.BAD,
            "Serving, but most replicas are not healthy",
        ),
        (fleet.is_full, Level.WARNING, "Full"),
        (has_trouble, Level.WARNING, "Serving"),
        (True, Level.GOOD, "Serving"),
    ]
    return next((level, text) for holds, level, text in matters if holds)


def _replicas(fleet: FleetCounts) -> str:
    others = {
        "not probed yet": fleet.unknown,
        "suspected": fleet.suspected,
        "ejected": fleet.ejected,
        "over capacity": fleet.over_capacity,
        "draining": fleet.draining,
        "disabled": fleet.disabled,
    }
    more = ", ".join(f"{count} {what}" for what, count in others.items() if count)
    text = f"{fleet.healthy} of {fleet.active} replicas healthy"
    return f"{text} ({more})" if more else text


def _slots(fleet: FleetCounts) -> str:
    if fleet.has_unlimited or not fleet.selectable:
        return f"{fleet.sessions} {'session' if fleet.sessions == 1 else 'sessions'}"
    return f"{fleet.taken} of {fleet.slots} slots taken"


def _queue(situation: Situation) -> list[str]:
    if situation.waiting is None:
        return []
    if not situation.waiting:
        return ["nobody waits"]
    text = "1 session waits" if situation.waiting == 1 else f"{situation.waiting} sessions wait"
    oldest = situation.oldest_wait_seconds
    return [text if oldest is None else f"{text} (the first for {since(oldest)})"]


def _leader(situation: Situation) -> list[str]:
    """Return who is the leader; nothing if the sentence has begun with that, or Redis is away."""
    leader = situation.leader
    if leader is None or situation.away_seconds is not None:
        return []
    return [f"{leader.router} leads since {since(situation.at - leader.elected_at)}"]
