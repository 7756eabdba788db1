"""`least_loaded`: weights hold, loads even out, and routers with old loads do not herd."""

from __future__ import annotations

import dataclasses
import random
import statistics
from collections import Counter
from collections.abc import Sequence

import pytest

from shared_registry.model import Replica
from shared_registry.selection.least_loaded import LeastLoaded
from shared_registry.selection.loads import Loads
from shared_registry.selection.members import Members
from tests.support.choices import chi_square, chi_square_limit, max_to_mean, members, number_of, tally


def prepared(weights: Sequence[float], seed: int = 7) -> tuple[LeastLoaded, Loads, Members]:
    loads, group = Loads(), members(weights)
    policy = LeastLoaded(random.Random(seed), loads)
    policy.update(group)
    return policy, loads, group


@pytest.mark.parametrize(
    "weights", [[1.0, 2.0], [1.0, 3.0, 0.5, 9.0], [float(1 + n % 7) for n in range(200)], [1e6, 1.0]]
)
def test_the_draw_is_by_weight(weights: list[float]) -> None:
    policy, _, _ = prepared(weights)
    draws = 200 * len(weights)
    counts = Counter(number_of(policy._draw()[1]) for _ in range(draws))
    assert chi_square(counts, weights) < chi_square_limit(len(weights) - 1)


@pytest.mark.parametrize("weights", [[1.0] * 2, [1.0] * 50, [1.0, 2.0, 4.0], [float(1 + n % 4) for n in range(40)]])
def test_sessions_that_stay_are_shared_better_than_at_random(weights: list[float]) -> None:
    """By weight."""
    policy, _, _ = prepared(weights)
    counts = tally(policy.choose, [None] * (100 * len(weights)))
    assert max_to_mean(counts, weights) < 1.1
    at_random = [
        Counter(random.Random(seed).choices(range(len(weights)), weights, k=100 * len(weights))) for seed in range(20)
    ]
    assert chi_square(counts, weights) < statistics.mean(chi_square(one, weights) for one in at_random) / 3


def test_the_less_loaded_of_two_is_taken() -> None:
    """By the load for its weight that each would have then."""
    policy, loads, _ = prepared([1.0, 4.0])
    assert [number_of(policy.choose(None)) for _ in range(3)] == [1, 1, 1]
    loads.begin_read()
    loads.update({})
    assert number_of(policy.choose(None)) == 1
    loads.begin_read()
    loads.update({"http://10.0.0.1:8000": 40})
    assert number_of(policy.choose(None)) == 0


def test_the_first_known_load_is_that_of_the_records() -> None:
    loads, group = Loads(), members([1.0, 1.0])
    group.replicas[0].record = dataclasses.replace(group.replicas[0].record, in_flight=3)
    policy = LeastLoaded(random.Random(1), loads)
    policy.update(group)
    assert tally(policy.choose, [None] * 3) == {1: 3}


def test_a_pick_counts_until_later_loads_are_read() -> None:
    policy, loads, group = prepared([1.0, 1.0])
    first, second = (loads.known[one] for one in group.replicas)
    for _ in range(10):
        policy.choose(None)
    assert (first.count, second.count) == (5, 5)
    loads.begin_read()
    policy.choose(None)  # while they are read
    loads.update({group.replicas[0].key: 5})
    assert first.count + second.count == 6
    loads.begin_read()
    loads.update({group.replicas[0].key: 6})
    assert (first.count, second.count) == (6, 0)


def test_a_change_of_members_keeps_earlier_picks() -> None:
    policy, loads, group = prepared([1.0, 1.0, 1.0])
    for _ in range(30):
        policy.choose(None)
    policy.update(Members(group.replicas[:2], [1.0, 1.0]))
    policy.update(group)
    assert sum(loads.known[one].count for one in group.replicas) == 30


def test_excluded_replicas_are_never_taken() -> None:
    """The same seed gives the same choices."""
    policy, _, group = prepared([1.0, 2.0, 3.0])
    excluded = {group.replicas[0].key}
    assert tally(lambda _: policy.choose_except(None, excluded), [None] * 100).keys() == {1, 2}
    assert policy.choose_except(None, {replica.key for replica in group.replicas}) is None
    one, _, _ = prepared([1.0, 2.0, 3.0], seed=5)
    other, _, _ = prepared([1.0, 2.0, 3.0], seed=5)
    assert [number_of(one.choose(None)) for _ in range(99)] == [number_of(other.choose(None)) for _ in range(99)]


def test_without_members_no_choice_and_one_member_takes_all() -> None:
    policy = LeastLoaded(random.Random(1), Loads())
    assert policy.choose(None) is None
    assert policy.choose_except(None, ()) is None
    policy.update(members([2.0]))
    assert tally(policy.choose, [None] * 5) == {0: 5}


# Herding: 20 routers, whose loads are up to a second old, place 10,000 sessions.


@dataclasses.dataclass
class Mirrored:
    """A router of the test: what it chooses by, and when it reads the loads next."""

    policy: LeastLoaded
    loads: Loads
    group: Members
    reads_at: float
    seen: dict[str, int] = dataclasses.field(default_factory=dict)

    def least_of_what_was_seen(self) -> Replica:
        return min(self.group.replicas, key=lambda replica: self.seen.get(replica.key, 0))


def herd(*, is_plain: bool, replicas: int, seconds: float = 5.0, routers: int = 20, sessions: int = 10_000) -> float:
    """Return max / mean of the load at the end, for sessions that all stay."""
    rng = random.Random(11)
    fleet: list[Mirrored] = []
    for seed in range(routers):
        loads, group = Loads(), members([1.0] * replicas)
        policy = LeastLoaded(random.Random(seed), loads)
        policy.update(group)
        fleet.append(Mirrored(policy, loads, group, reads_at=rng.random()))
    truth: Counter[str] = Counter()
    for now in sorted(rng.random() * seconds for _ in range(sessions)):
        for router in fleet:
            if router.reads_at <= now:
                router.loads.begin_read()
                router.loads.update(truth)
                router.seen = dict(truth)
                router.reads_at += 1.0
        router = rng.choice(fleet)
        replica = router.least_of_what_was_seen() if is_plain else router.policy.choose(None)
        assert replica is not None
        truth[replica.key] += 1
    return max(truth.values()) * replicas / sessions


@pytest.mark.parametrize("replicas", [10, 50, 200])
def test_routers_with_old_loads_do_not_herd(replicas: int) -> None:
    ours, plain = herd(is_plain=False, replicas=replicas), herd(is_plain=True, replicas=replicas)
    assert ours <= 1.3
    assert plain > 1.3
    assert plain - 1 > 5 * (ours - 1)
