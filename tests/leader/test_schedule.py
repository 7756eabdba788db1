"""When replicas are probed: spread over the interval, soon while a change is pending, never twice at once."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared_registry.leader.schedule import JITTER_SHARE, PARTS, Schedule, is_change_pending, next_slots, phase_of
from shared_registry.model import AdminState, ReplicaEndpoint, ReplicaHealth, ReplicaRecord, ReplicaStatus
from tests.support.effort import effort
from tests.support.fake_clock import START

INTERVAL = 5.0
FAST = 1.0
JITTER = JITTER_SHARE / 2 * INTERVAL
SERVER_NOW = 1_800_000_000.0
KNOWN = 1000
"""More replicas than a test has."""
HEALTHY, UNHEALTHY, UNKNOWN = ReplicaStatus.HEALTHY, ReplicaStatus.UNHEALTHY, ReplicaStatus.UNKNOWN


def url_of(number: int) -> str:
    return f"http://10.0.0.{number}:8000"


def record_of(
    number: int = 1,
    *,
    status: ReplicaStatus = HEALTHY,
    admin: AdminState = AdminState.ACTIVE,
    ok_ago: float | None = None,
) -> ReplicaRecord:
    last_ok_at = None if ok_ago is None else SERVER_NOW - ok_ago
    health = ReplicaHealth(status, last_ok_at=last_ok_at)
    return ReplicaRecord(url_of(number), ReplicaEndpoint(url_of(number)), health, admin=admin)


def a_schedule(*, interval: float = INTERVAL, fast: float = FAST, seed: int = 1) -> Schedule:
    return Schedule(interval=interval, fast_interval=fast, rng=random.Random(seed))


def follow(
    schedule: Schedule, records: Sequence[ReplicaRecord], *, now: float, server_now: float | None = None
) -> None:
    """Schedule the probed ones among these replicas, and no others."""
    probed = {record.key: record for record in records if record.is_probed}
    for key in {url_of(number) for number in range(KNOWN)} - probed.keys():
        schedule.drop(key)
    for record in probed.values():
        schedule.add(record, now=now, server_now=server_now)


def pop_all(schedule: Schedule, now: float) -> list[str]:
    return [key for key, due in schedule.pop_due(now, most=10_000) if due <= now]


@pytest.mark.parametrize(
    ("status", "ok", "pending"),
    [
        (UNKNOWN, True, False),
        (UNKNOWN, False, True),
        (HEALTHY, True, False),
        (HEALTHY, False, True),
        (UNHEALTHY, True, True),
        (UNHEALTHY, False, False),
    ],
)
def test_a_change_is_pending_while_one_result_may_bring_it(status: ReplicaStatus, ok: bool, pending: bool) -> None:
    assert is_change_pending(status, ok=ok) is pending
    schedule = a_schedule()
    follow(schedule, [record_of()], now=START)
    assert schedule.pop_due(START, most=2) == [(url_of(1), START)]
    schedule.settle(url_of(1), status, ok=ok, now=START)
    delay = schedule.next_due() - START
    assert (delay == FAST) is pending
    assert pending or INTERVAL / 2 - JITTER < delay <= INTERVAL * 1.5 + JITTER


def test_the_fast_interval_is_never_longer_than_the_interval() -> None:
    schedule = a_schedule(interval=0.5, fast=1.0)
    follow(schedule, [record_of()], now=START)
    assert schedule.pop_due(START, most=1)
    schedule.settle(url_of(1), UNKNOWN, ok=False, now=START)
    assert schedule.next_due() == START + 0.5


def test_a_phase_is_equal_on_all_routers_and_never_changes() -> None:
    assert phase_of("http://10.0.0.1:8000") == pytest.approx(0.2750999583)
    assert phase_of("http://10.0.0.1:8000") != phase_of("http://10.0.0.2:8000")


def test_phases_are_spread_evenly() -> None:
    phases = [phase_of(f"http://10.0.{number // 250}.{number % 250}:8000") for number in range(5000)]
    assert all(0 <= phase < 1 for phase in phases)
    tenths = Counter(int(phase * 10) for phase in phases)
    assert all(420 <= tenths[tenth] <= 580 for tenth in range(10)), tenths


@settings(deadline=None)
@given(st.floats(0, 1e7), st.floats(0, 1, exclude_max=True), st.floats(0.01, 3600))
def test_the_next_probe_time_is_in_phase_one_interval_ahead(now: float, phase: float, interval: float) -> None:
    """Half an interval to one and a half intervals ahead."""
    slot = next_slots(now, phases=[phase], interval=interval)[0]
    rounding = 1e-6 * interval + 1e-9 * now
    assert interval / 2 - rounding <= slot - now <= interval * 1.5 + rounding
    turns = slot / interval - phase
    assert abs(turns - round(turns)) * interval <= rounding


def test_at_half_an_interval_the_following_probe_time_is_chosen() -> None:
    assert next_slots(10.0, phases=[0.0], interval=4.0)[0] == 16.0
    assert next_slots(9.99, phases=[0.0], interval=4.0)[0] == 12.0
    assert next_slots(10.0, phases=[0.25], interval=4.0)[0] == 13.0


def test_a_new_replica_is_due_at_once() -> None:
    schedule = a_schedule()
    follow(schedule, [record_of(1, ok_ago=1)], now=START)
    assert schedule.next_due() == START
    assert pop_all(schedule, START) == [url_of(1)]
    schedule.settle(url_of(1), HEALTHY, ok=True, now=START)
    follow(schedule, [record_of(1, ok_ago=1), record_of(2, ok_ago=1)], now=START + 1)
    assert pop_all(schedule, START + 1) == [url_of(2)]


def test_following_the_same_replicas_again_changes_nothing() -> None:
    schedule = a_schedule()
    records = [record_of(number) for number in range(20)]
    follow(schedule, records, now=START)
    for key in pop_all(schedule, START):
        schedule.settle(key, HEALTHY, ok=True, now=START)
    before = schedule.next_due()
    follow(schedule, records, now=START + 0.5)
    follow(schedule, records, now=START + 0.5, server_now=SERVER_NOW)
    assert schedule.next_due() == before
    assert len(schedule) == 20


def test_a_removed_replica_is_forgotten() -> None:
    schedule = a_schedule()
    follow(schedule, [record_of(1), record_of(2)], now=START)
    follow(schedule, [record_of(2)], now=START)
    assert len(schedule) == 1
    assert pop_all(schedule, START + 100) == [url_of(2)]
    follow(schedule, [], now=START)
    schedule.settle(url_of(2), HEALTHY, ok=True, now=START)
    assert len(schedule) == 0
    assert schedule.next_due() == math.inf


@pytest.mark.parametrize("admin", list(AdminState))
def test_draining_replicas_are_scheduled_but_disabled_ones_not(admin: AdminState) -> None:
    schedule = a_schedule()
    follow(schedule, [record_of(admin=admin)], now=START)
    is_probed = admin in (AdminState.ACTIVE, AdminState.DRAINING)
    assert pop_all(schedule, START) == [url_of(1)] * is_probed


def test_a_probed_replica_is_not_due_until_its_result() -> None:
    schedule = a_schedule()
    follow(schedule, [record_of()], now=START)
    assert pop_all(schedule, START) == [url_of(1)]
    follow(schedule, [record_of()], now=START + 1)
    assert pop_all(schedule, START + 1000) == []
    schedule.settle(url_of(1), HEALTHY, ok=True, now=START + 1000)
    assert START + 1002 < schedule.next_due() < START + 1008


@pytest.mark.parametrize("admin", [AdminState.DISABLED, AdminState.REMOVED])
def test_a_replica_returning_during_its_probe_is_due_after_it(admin: AdminState) -> None:
    schedule = a_schedule()
    follow(schedule, [record_of()], now=START)
    assert pop_all(schedule, START) == [url_of(1)]
    follow(schedule, [record_of(admin=admin)], now=START + 1)
    follow(schedule, [record_of()], now=START + 2)
    assert pop_all(schedule, START + 2) == [], "its last probe is still under way"
    schedule.put_back(url_of(1), due=START + 3)
    assert pop_all(schedule, START + 3) == [url_of(1)]


def test_a_replica_removed_during_its_probe_stays_away_afterwards() -> None:
    schedule = a_schedule()
    follow(schedule, [record_of(1), record_of(2)], now=START)
    assert pop_all(schedule, START) == [url_of(1), url_of(2)]
    follow(schedule, [], now=START + 1)
    schedule.put_back(url_of(1), due=START + 2)
    schedule.settle(url_of(2), HEALTHY, ok=True, now=START + 2)
    assert schedule.next_due() == math.inf
    follow(schedule, [record_of(1), record_of(2)], now=START + 3)
    assert sorted(pop_all(schedule, START + 3)) == [url_of(1), url_of(2)]


@pytest.mark.parametrize(
    ("record", "at_once"),
    [
        (record_of(status=HEALTHY, ok_ago=4.9), False),
        (record_of(status=HEALTHY, ok_ago=5.0), True),
        (record_of(status=HEALTHY, ok_ago=1e6), True),
        (record_of(status=HEALTHY, ok_ago=-60), True),  # the server's clock was set back
        (record_of(status=HEALTHY), True),
        (record_of(status=UNKNOWN, ok_ago=0.1), True),
        (record_of(status=UNHEALTHY, ok_ago=0.1), True),  # recovering
    ],
)
def test_a_term_starts_with_overdue_and_pending_replicas_only(record: ReplicaRecord, at_once: bool) -> None:
    schedule = a_schedule()
    follow(schedule, [record], now=START, server_now=SERVER_NOW)
    if at_once:
        assert schedule.next_due() == START
    else:
        slot = schedule.next_due()
        assert START < slot <= START + INTERVAL
        assert slot == pytest.approx(next_slots(slot - INTERVAL, phases=[phase_of(record.key)], interval=INTERVAL)[0])


@pytest.mark.parametrize(
    ("status", "ok_ago", "failed_ago", "at_once"),
    [
        (HEALTHY, 2, 1, True),  # failing
        (HEALTHY, 1, 2, False),
        (UNHEALTHY, 1, 2, True),  # recovering
        (UNHEALTHY, 1000, 1, False),
        (UNHEALTHY, 1000, 5, True),
    ],
)
def test_a_term_starts_from_the_later_of_the_last_results(
    status: ReplicaStatus, ok_ago: float, failed_ago: float, at_once: bool
) -> None:
    health = ReplicaHealth(status, last_ok_at=SERVER_NOW - ok_ago, last_failure_at=SERVER_NOW - failed_ago)
    record = ReplicaRecord(url_of(1), ReplicaEndpoint(url_of(1)), health)
    schedule = a_schedule()
    follow(schedule, [record], now=START, server_now=SERVER_NOW)
    assert (schedule.next_due() == START) is at_once


def test_hastening_makes_only_the_next_probe_due() -> None:
    schedule = a_schedule()
    schedule.hasten_next(START)
    records = [record_of(number, status=HEALTHY, ok_ago=1.0) for number in (1, 2, 3)]
    follow(schedule, records, now=START, server_now=SERVER_NOW)
    assert schedule.next_due() > START
    schedule.hasten_next(START)
    assert len(pop_all(schedule, START)) == 1
    later = schedule.next_due()
    assert START < later < math.inf
    schedule.hasten_next(later)
    assert schedule.next_due() == later


def test_after_a_stall_each_replica_is_probed_once_then_spread() -> None:
    schedule = a_schedule()
    replicas = 200
    follow(schedule, [record_of(number) for number in range(replicas)], now=START)
    for key in pop_all(schedule, START):
        schedule.settle(key, HEALTHY, ok=True, now=START)
    resumed = START + 3600
    late = pop_all(schedule, resumed)
    assert len(late) == len(set(late)) == replicas
    for key in late:
        schedule.settle(key, HEALTHY, ok=True, now=resumed)
    per_second = [len(pop_all(schedule, resumed + second)) for second in range(1, 9)]
    assert per_second[:2] == [0, 0]
    assert sum(per_second) == replicas
    assert max(per_second) < replicas / INTERVAL * 1.6


def test_the_replica_due_longest_comes_first() -> None:
    schedule = a_schedule()
    follow(schedule, [record_of(1)], now=START + 2)
    follow(schedule, [record_of(1), record_of(2)], now=START + 1)
    assert pop_all(schedule, START + 3) == [url_of(2), url_of(1)]


@dataclass
class Simulation:
    """A leader's hour: probes take their latency, at most so many at once; statuses are given."""

    latencies: dict[str, float]
    starts: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def run(self, *, seconds: float, interval: float, fast: float, seed: int) -> None:
        schedule = Schedule(interval=interval, fast_interval=fast, rng=random.Random(seed))
        records = [
            ReplicaRecord(key, ReplicaEndpoint(key), ReplicaHealth(HEALTHY, last_ok_at=SERVER_NOW - interval / 2))
            for key in self.latencies
        ]
        follow(schedule, records, now=START, server_now=SERVER_NOW)
        under_way: dict[str, float] = {}
        now = START
        while now < START + seconds:
            for key in [key for key, ends in under_way.items() if ends <= now]:
                schedule.settle(key, HEALTHY, ok=True, now=under_way.pop(key))
            for key in pop_all(schedule, now):
                assert key not in under_way, "two probes of one replica at once"
                self.starts[key].append(now)
                under_way[key] = now + self.latencies[key]
            now = max(min([schedule.next_due(), *under_way.values()]), now)


@effort(examples=15)
@given(
    numbers=st.sets(st.integers(0, 10_000), min_size=1, max_size=15),
    interval=st.sampled_from([1.0, 5.0, 30.0]),
    latency_share=st.floats(0, 0.4),
    seed=st.integers(0, 1000),
)
@example(numbers=set(range(15)), interval=1.0, latency_share=0.0, seed=0)
def test_settled_replicas_are_probed_about_once_an_interval(
    numbers: set[int], interval: float, latency_share: float, seed: int
) -> None:
    """Counted over an hour."""
    latencies = {url_of(number): latency_share * interval * phase_of(str(number)) for number in numbers}
    hour = Simulation(latencies)
    hour.run(seconds=3600, interval=interval, fast=0.5, seed=seed)
    for key, starts in hour.starts.items():
        gaps = [later - earlier for earlier, later in itertools.pairwise(starts)]
        assert min(gaps) >= 0.5 * interval
        assert max(gaps) <= 1.5 * interval
        assert abs(len(starts) - 3600 / interval) <= 2, key
    counts = Counter(int((start - START) / interval) for starts in hour.starts.values() for start in starts)
    full = [counts[number] for number in range(1, int(3600 / interval) - 1)]
    assert sum(full) / len(full) == pytest.approx(len(numbers), rel=0.02)
    assert max(full) <= 2 * len(numbers)


@pytest.mark.parametrize("seed", range(4))
def test_due_replicas_come_in_order_whenever_they_were_scheduled(seed: int) -> None:
    schedule, due, now, rng = a_schedule(), dict[str, float](), START, random.Random(seed)
    for _ in range(2_000):
        number, step = rng.randrange(40), rng.choice(["put", "put", "put", "hasten", "drop", "pop"])
        key, at = url_of(number), now + rng.choice([INTERVAL, 2 * INTERVAL / PARTS, 0.0]) * rng.random()
        if step == "put":
            schedule.add(record_of(number), now=now)
            schedule.put_back(key, due=at)
            due[key] = at
        elif step == "hasten":
            assert schedule.hasten(key, now=now) is (key in due)
            due |= {key: min(due[key], now)} if key in due else {}
        elif step == "drop":
            schedule.drop(key)
            due.pop(key, None)
        else:
            now += rng.choice([INTERVAL, INTERVAL / PARTS]) * rng.random()
            expected = sorted((at, url) for url, at in due.items() if at <= now)
            assert pop_all(schedule, now) == [url for _, url in expected]
            for _, url in expected:
                schedule.drop(url)
                schedule.settle(url, HEALTHY, ok=True, now=now)
                del due[url]
        assert schedule.next_due() == min(due.values(), default=math.inf)
        assert len(schedule) == len(due)


@effort(examples=60)
@given(st.lists(st.tuples(st.floats(0.01, 4), st.sampled_from(["settle", "fail", "vanish", "return", "nothing"]))))
def test_no_replica_is_ever_probed_twice_at_once_or_lost(steps: list[tuple[float, str]]) -> None:
    schedule = a_schedule()
    here, now, is_out = True, START, False
    follow(schedule, [record_of()], now=now)
    for seconds, step in steps:
        now += seconds
        if step in ("vanish", "return"):
            here = step == "return"
            follow(schedule, [record_of()] if here else [], now=now)
        elif step in ("settle", "fail") and is_out:
            is_out = False
            schedule.settle(url_of(1), HEALTHY, ok=step == "settle", now=now)
        popped = pop_all(schedule, now)
        assert popped in ([], [url_of(1)])
        assert not popped or (here and not is_out)
        is_out = is_out or bool(popped)
        assert is_out or not here or now < schedule.next_due() <= now + 2 * INTERVAL
