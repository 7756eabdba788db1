"""Which successes of settled replicas are reported: all in a small fleet, each in its turn in a large one."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from shared_registry.leader.sampling import LONGEST_SILENCE_SECONDS, REPORTS_A_SECOND, WATCHED_SECONDS, Sampling
from shared_registry.model import ReplicaRecord, ReplicaStatus
from tests.leader.test_schedule import record_of

INTERVAL = 5.0


def fleet_of(count: int) -> list[ReplicaRecord]:
    return [settled(number) for number in range(count)]


def settled(number: int) -> ReplicaRecord:
    return record_of(number, status=ReplicaStatus.HEALTHY)


def rounds(sampling: Sampling, fleet: list[ReplicaRecord], count: int, *, first: int = 0) -> list[list[str]]:
    """Probe each replica once an interval; return those that are reported in each."""
    told = []
    for number in range(first, first + count):
        step = INTERVAL / len(fleet)
        told.append(
            [
                record.key
                for at, record in enumerate(fleet)
                if sampling.has_to_tell(record, ok=True, now=number * INTERVAL + at * step)
            ]
        )
    return told


def test_in_a_small_fleet_each_success_is_reported() -> None:
    fleet = fleet_of(int(REPORTS_A_SECOND * INTERVAL))
    assert [len(told) for told in rounds(Sampling(interval_seconds=INTERVAL), fleet, 4)] == [len(fleet)] * 4


@pytest.mark.parametrize(("count", "silence"), [(2_000, 20.0), (3_900, 20.0), (10_000, 40.0), (50_000, 40.0)])
def test_in_a_large_fleet_each_replica_has_its_turn(count: int, silence: float) -> None:
    fleet, sampling = fleet_of(count), Sampling(interval_seconds=INTERVAL)
    assert len(rounds(sampling, fleet, 1)[0]) == count, "what a new leader finds"
    rounds(sampling, fleet, 8, first=1)
    assert silence <= LONGEST_SILENCE_SECONDS
    in_a_part = round(silence / INTERVAL)
    told = rounds(sampling, fleet, 2 * in_a_part, first=9)
    assert set(Counter(key for keys in told for key in keys).values()) <= {1, 2, 3}
    assert len({key for keys in told[: in_a_part + 1] for key in keys}) == count
    assert max(len(keys) for keys in told) < 1.3 * count / in_a_part, "no bursts"


def test_one_more_replica_makes_no_burst() -> None:
    fleet, sampling = fleet_of(2_500), Sampling(interval_seconds=INTERVAL)
    rounds(sampling, fleet, 9)
    told = rounds(sampling, [*fleet, settled(2_500)], 3, first=200_000)
    assert max(len(keys) for keys in told[1:]) < 2_500 * 0.4


def test_whatever_may_matter_is_reported_at_once() -> None:
    fleet, sampling = fleet_of(2_000), Sampling(interval_seconds=INTERVAL)
    rounds(sampling, fleet, 2)
    now = 2 * INTERVAL
    one, other, *_ = (record for record in fleet if not sampling.has_to_tell(record, ok=True, now=now))
    assert sampling.has_to_tell(one, ok=False, now=now)
    assert sampling.has_to_tell(one, ok=True, now=now)
    assert sampling.has_to_tell(one, ok=True, now=now + WATCHED_SECONDS - 1), "it has failed lately"
    failing = replace(one, health=replace(one.health, consecutive_failures=1))
    unhealthy = replace(one, health=replace(one.health, status=ReplicaStatus.UNHEALTHY))
    for record in (failing, unhealthy, replace(one, ejected_until=1e12)):
        assert sampling.has_to_tell(record, ok=True, now=now)
    assert not sampling.has_to_tell(other, ok=True, now=now)
    sampling.watch(other.key, now=now)
    assert sampling.has_to_tell(other, ok=True, now=now)
    assert sampling.has_to_tell(other, ok=True, now=now + 1)


def test_what_a_new_leader_finds_is_not_told_twice() -> None:
    fleet, sampling = fleet_of(2_000), Sampling(interval_seconds=INTERVAL)
    rounds(sampling, fleet, 1)
    assert len(rounds(sampling, fleet, 1, first=1)[0]) < 0.4 * len(fleet)
