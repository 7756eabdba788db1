"""The sentence that says whether a registry serves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from shared_registry.admin.summary import FleetCounts, Level, Situation, Summary, summarize
from shared_registry.model import (
    AdminState,
    Doubt,
    Leader,
    ReplicaEndpoint,
    ReplicaHealth,
    ReplicaRecord,
    ReplicaStatus,
)

NOW = 1_000_000.0
LEADER = Leader("router-2", 7, NOW - 3 * 86_400)
HEALTHY, UNHEALTHY = ReplicaHealth(ReplicaStatus.HEALTHY), ReplicaHealth(ReplicaStatus.UNHEALTHY)


def replica(*, health: ReplicaHealth = HEALTHY, in_flight: int = 0, capacity: int = 4, **more: Any) -> ReplicaRecord:
    url = "http://a:1"
    return ReplicaRecord(url, ReplicaEndpoint(url, capacity=capacity), health, in_flight=in_flight, **more)


def said(*records: ReplicaRecord, **situation: Any) -> Summary:
    return summarize(FleetCounts.of(records), replace(Situation(NOW, LEADER, waiting=0), **situation))


def test_a_fleet_with_two_unhealthy_replicas_is_told_in_numbers() -> None:
    records = [replica(in_flight=3)] * 62 + [replica(health=UNHEALTHY, in_flight=1)] * 2
    assert said(*records) == Summary(
        Level.WARNING,
        "Serving: 62 of 64 replicas healthy, 186 of 248 slots taken, nobody waits, router-2 leads since 3 d.",
    )


WELL = [replica(in_flight=1), replica(in_flight=2)]
WELL_TEXT = "2 of 2 replicas healthy, 3 of 8 slots taken, nobody waits, router-2 leads since 3 d."
LEADS = "nobody waits, router-2 leads since 3 d."
CASES: list[tuple[list[ReplicaRecord], dict[str, Any], Level, str]] = [
    (WELL, {}, Level.GOOD, f"Serving: {WELL_TEXT}"),
    ([], {}, Level.BAD, "Not serving: no replicas are registered, router-2 leads since 3 d."),
    ([], {"leader": None}, Level.BAD, "Not serving: no replicas are registered."),
    ([replica(capacity=0, in_flight=1)], {}, Level.GOOD, f"Serving: 1 of 1 replicas healthy, 1 session, {LEADS}"),
    (
        [replica(health=UNHEALTHY, in_flight=2)],
        {},
        Level.BAD,
        f"Not serving: 0 of 1 replicas healthy, 2 sessions, {LEADS}",
    ),
    (
        [replica(), replica(health=UNHEALTHY), replica(health=UNHEALTHY)],
        {},
        Level.BAD,
        f"Serving, but most replicas are not healthy: 1 of 3 replicas healthy, 0 of 4 slots taken, {LEADS}",
    ),
    (
        [replica(in_flight=4)],
        {"waiting": 12, "oldest_wait_seconds": 3.4},
        Level.WARNING,
        "Full: 1 of 1 replicas healthy, 4 of 4 slots taken, 12 sessions wait (the first for 3 s), "
        "router-2 leads since 3 d.",
    ),
    (
        [replica(in_flight=4)],
        {"waiting": 1},
        Level.WARNING,
        "Full: 1 of 1 replicas healthy, 4 of 4 slots taken, 1 session waits, router-2 leads since 3 d.",
    ),
    (
        [replica(in_flight=5), replica()],
        {},
        Level.WARNING,
        f"Serving: 2 of 2 replicas healthy (1 over capacity), 4 of 8 slots taken, {LEADS}",
    ),
    (
        WELL,
        {"leader": None, "leaderless_since": NOW - 12},
        Level.BAD,
        "Nobody leads since 12 s: 2 of 2 replicas healthy, 3 of 8 slots taken, nobody waits.",
    ),
    (
        WELL,
        {"is_settling": True},
        Level.WARNING,
        f"Redis lost its data, and new sessions wait until those that run are back: {WELL_TEXT}",
    ),
    (
        WELL,
        {"leader": None},
        Level.BAD,
        "Nobody leads: 2 of 2 replicas healthy, 3 of 8 slots taken, nobody waits.",
    ),
    (
        WELL,
        {"away_seconds": 130.0, "waiting": None},
        Level.WARNING,
        "Redis is away for 2 min, serving: 2 of 2 replicas healthy, 3 of 8 slots taken.",
    ),
    (
        [replica(health=UNHEALTHY)],
        {"away_seconds": 5.0, "waiting": None},
        Level.BAD,
        "Redis is away for 5 s, not serving: 0 of 1 replicas healthy, 0 sessions.",
    ),
    (
        WELL,
        {"away_seconds": 70.0, "is_stale": True, "waiting": None},
        Level.BAD,
        "Not serving, because Redis has been away for 1 min and the view is too old: "
        "2 of 2 replicas healthy, 3 of 8 slots taken.",
    ),
    (
        [replica(health=ReplicaHealth())],
        {"leader": None, "is_loaded": False, "waiting": None},
        Level.BAD,
        "Not serving, because Redis has not been read yet: 0 of 1 replicas healthy (1 not probed yet), 0 sessions.",
    ),
    (
        [replica(health=UNHEALTHY)],
        {"panic": "1 of 1 replicas are unhealthy"},
        Level.BAD,
        f"Serving in panic: 0 of 1 replicas healthy, 0 sessions, {LEADS}",
    ),
    (
        [
            *WELL,
            replica(admin=AdminState.DRAINING, in_flight=2),
            replica(admin=AdminState.DISABLED),
            replica(ejected_until=NOW + 9),
            replica(doubt=Doubt(suspicion="q")),
            replica(health=ReplicaHealth()),
        ],
        {},
        Level.WARNING,
        "Serving: 4 of 5 replicas healthy (1 not probed yet, 1 suspected, 1 ejected, 1 draining, 1 disabled), "
        f"3 of 12 slots taken, {LEADS}",
    ),
]


@pytest.mark.parametrize(("records", "situation", "level", "text"), CASES)
def test_the_sentence_begins_with_the_most_urgent(
    records: list[ReplicaRecord], situation: dict[str, Any], level: Level, text: str
) -> None:
    assert said(*records, **situation) == Summary(level, text)


def test_counts_may_be_added_in_pieces() -> None:
    counts = FleetCounts.of(WELL)
    counts.add(replica(health=UNHEALTHY))
    assert counts == FleetCounts.of([*WELL, replica(health=UNHEALTHY)])


def test_counts_follow_a_replica_that_changes() -> None:
    counts = FleetCounts.of([*WELL, replica(health=UNHEALTHY)])
    for record in (replica(health=UNHEALTHY), WELL[0]):
        counts.remove(record)
    counts.add(replica(health=UNHEALTHY))
    assert counts == FleetCounts.of([*WELL[1:], replica(health=UNHEALTHY)])
