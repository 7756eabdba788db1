"""What is not well with a replica, in words."""

from __future__ import annotations

import pytest

from shared_registry.admin.troubles import is_well, trouble_of
from shared_registry.model import (
    AdminState,
    Doubt,
    ReplicaEndpoint,
    ReplicaHealth,
    ReplicaRecord,
    ReplicaStatus,
)

NOW = 1_000.0
HEALTHY = ReplicaHealth(ReplicaStatus.HEALTHY)
UNHEALTHY = ReplicaHealth(ReplicaStatus.UNHEALTHY)


def record(health: ReplicaHealth = HEALTHY, **more: object) -> ReplicaRecord:
    endpoint = ReplicaEndpoint("http://a", capacity=2)
    return ReplicaRecord("http://a", endpoint, health, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("replica", "expected"),
    [
        (
            record(UNHEALTHY, status_since=NOW - 240, last_error="connect: refused", in_flight=1),
            "unhealthy since 4 min: connect: refused; 1 session on it",
        ),
        (
            record(
                admin=AdminState.DRAINING,
                admin_since=NOW - 7200,
                admin_by="ann@desk",
                admin_reason="kernel",
                in_flight=2,
            ),
            "draining since 2 h by ann@desk: kernel; 2 sessions on it",
        ),
        (
            record(admin=AdminState.DRAINING, removes_when_drained=True),
            "draining, then removed; no sessions",
        ),
        (record(UNHEALTHY, admin=AdminState.DISABLED), "disabled; no sessions"),
        (record(ReplicaHealth()), "not probed yet; no sessions"),
        (
            record(ejected_until=NOW + 12),
            "ejected for another 12 s, because sessions fail on it; no sessions",
        ),
        (record(in_flight=3), "over its capacity of 2; 3 sessions on it"),
        (record(doubt=Doubt(suspicion="q", suspected_by="r~1")), "suspected by r~1; no sessions"),
    ],
)
def test_what_is_not_well_is_explained(replica: ReplicaRecord, expected: str) -> None:
    assert (trouble_of(replica, NOW), is_well(replica)) == (expected, False)


def test_a_replica_that_is_well_needs_no_words() -> None:
    assert (trouble_of(record(in_flight=2), NOW), is_well(record(in_flight=2))) == ("", True)
