"""`hash`: even, the same everywhere, and little moves when members change."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_registry.model import AdminState
from shared_registry.selection.hash_ring import HashRing
from shared_registry.selection.loads import Loads
from shared_registry.selection.members import Members
from shared_registry.selection.ring_building import RingBuilding
from tests.support.choices import chi_square, chi_square_limit, max_to_mean, members, number_of, replicas, tally
from tests.support.effort import effort

KEYS = [f"client-{number}" for number in range(20_000)]


def ring(group: Members, *, max_load: float | None = None, seed: int = 1) -> HashRing:
    policy = HashRing(random.Random(seed), Loads(), max_load=max_load)
    policy.update(group)
    return policy


def owners(policy: HashRing, keys: Sequence[str] = KEYS) -> list[int]:
    return [number_of(policy.choose(key)) for key in keys]


def moved(before: list[int], after: list[int]) -> list[tuple[int, int]]:
    return [(one, other) for one, other in zip(before, after, strict=True) if one != other]


def test_equal_keys_go_to_one_replica_everywhere() -> None:
    """At every router and in every process."""
    assert owners(ring(members([1.0] * 10), seed=1)) == owners(ring(members([1.0] * 10), seed=2))
    assert owners(ring(members([1.0] * 10)), ["a", "b", "client-17", "", "ключ", "\ud800"]) == [0, 8, 3, 5, 1, 1]


@pytest.mark.parametrize(("count", "limit"), [(2, 1.15), (10, 1.25), (100, 1.35)])
def test_keys_spread_evenly(count: int, limit: float) -> None:
    keys = [f"client-{number}" for number in range(1000 * count)]
    assert max_to_mean(tally(ring(members([1.0] * count)).choose, keys), [1.0] * count) < limit


@pytest.mark.parametrize("scale", [0.01, 0.5, 1.0, 3.0, 100.0])
def test_keys_spread_by_weight_of_any_unit(scale: float) -> None:
    weights = [scale * (1 + number % 4) for number in range(40)]
    counts = tally(ring(members(weights)).choose, [f"client-{number}" for number in range(40_000)])
    shares = [counts[number] / weight for number, weight in enumerate(weights)]
    mean = sum(counts.values()) / sum(weights)
    by_weight = [sum(shares[number] for number in range(40) if number % 4 == kind) / 10 / mean for kind in range(4)]
    assert by_weight == pytest.approx([1.0] * 4, abs=0.1)  # ten of each weight: 7% / sqrt(10), some four deviations
    assert max(shares) / mean < 1.5


def test_shares_vary_as_expected_of_thirty_two_points() -> None:
    counts = tally(ring(members([1.0] * 300)).choose, [f"client-{number}" for number in range(300_000)])
    variance = sum((count - 1000) ** 2 for count in counts.values()) / 300
    assert 0.04 < (variance - 1000) ** 0.5 / 1000 < 0.10  # less what counting itself varies


def test_points_are_uniform() -> None:
    policy = ring(members([1.0]))
    places = [place for key in KEYS for place in policy._places(key)]
    counts = Counter(int((place - 1) * 100) for place in places)
    assert chi_square(counts, [1.0] * 100) < chi_square_limit(99)


@pytest.mark.parametrize("weight", [1.0, 0.5, 4.0])
@pytest.mark.parametrize("count", [2, 10, 200])
def test_a_joining_replica_takes_only_its_share(count: int, weight: float) -> None:
    group = members([1.0] * count + [weight])
    before = owners(ring(Members(group.replicas[:-1], group.weights[:-1])))
    after = owners(ring(group))
    moves = moved(before, after)
    assert {other for _, other in moves} == {count}
    share = weight / (count + weight)
    assert 0.6 * share < len(moves) / len(KEYS) < 1.4 * share


@pytest.mark.parametrize("count", [2, 10, 200])
def test_a_leaving_replica_gives_only_its_share_to_many(count: int) -> None:
    group = members([1.0] * (count + 1))
    before, after = owners(ring(group)), owners(ring(Members(group.replicas[1:], group.weights[1:])))
    moves = moved(before, after)
    assert {one for one, _ in moves} == {0}
    assert 0.6 / (count + 1) < len(moves) / len(KEYS) < 1.4 / (count + 1)
    assert len({other for _, other in moves}) >= min(count, 15)


def test_a_growing_weight_only_gains_keys() -> None:
    group = members([1.0] * 10)
    before, after = owners(ring(group)), owners(ring(Members(group.replicas, [2.0, *group.weights[1:]])))
    assert {other for _, other in moved(before, after)} == {0}


@effort(examples=40)
@given(st.lists(st.dictionaries(st.integers(0, 30), st.sampled_from([0.25, 1.0, 3.0]), min_size=0), max_size=6))
def test_a_ring_does_not_depend_on_its_changes(steps: list[dict[int, float]]) -> None:
    everyone = replicas(31)
    policy = ring(Members())
    for step in steps:
        group = Members([everyone[number] for number in step], list(step.values()))
        policy.update(group)
        fresh = ring(group)
        keys = KEYS[:50]
        assert [policy.choose(key) for key in keys] == [fresh.choose(key) for key in keys]


def test_a_replica_that_leaves_and_returns_moves_no_point() -> None:
    group = members([1.0] * 50)
    policy = ring(group)
    places = policy._ring.places
    policy.update(Members(group.replicas[1:], group.weights[1:]))
    assert owners(policy) == owners(ring(Members(group.replicas[1:], group.weights[1:])))
    policy.update(group)
    assert policy._ring.places is places
    assert owners(policy) == owners(ring(group))


def test_replicas_that_were_removed_do_not_stay_in_the_ring() -> None:
    policy, everyone = ring(Members()), replicas(1000)
    for at in range(0, 980, 10):
        policy.update(Members(everyone[at : at + 20], [1.0] * 20))
        policy.update(Members(everyone[at + 10 : at + 20], [1.0] * 10))  # they are unhealthy before they are removed
        for gone in everyone[at : at + 10]:
            gone.record = replace(gone.record, admin=AdminState.REMOVED)
    assert len(policy._ring.places) < 32 * 80
    assert len(policy._ring.replicas) < 80


def test_a_ring_of_few_members_drops_all_other_points() -> None:
    group = members([1.0] * 50)
    policy = ring(group)
    policy.update(Members(group.replicas[:2], group.weights[:2]))
    assert policy._ring.places == ring(Members(group.replicas[:2], group.weights[:2]))._ring.places
    policy.update(Members())
    assert policy.choose("a") is None
    assert len(policy._ring.places) == 0


def test_most_changes_are_applied_by_splicing(monkeypatch: pytest.MonkeyPatch) -> None:
    group = members([1.0] * 50)
    policy = ring(group)
    monkeypatch.setattr(RingBuilding, "_steps", lambda _: pytest.fail("sorted all anew"))
    policy.update(Members(group.replicas, [2.0, *group.weights[1:]]))
    policy.update(group)
    assert owners(policy) == owners(ring_built_before(group, monkeypatch))


def ring_built_before(group: Members, monkeypatch: pytest.MonkeyPatch) -> HashRing:
    monkeypatch.undo()
    return ring(group)


def test_excluding_a_replica_equals_its_leaving() -> None:
    group = members([1.0, 2.0, 1.0, 0.5, 1.0])
    policy = ring(group)
    without = ring(Members([*group.replicas[:1], *group.replicas[2:]], [1.0, 1.0, 0.5, 1.0]))
    excluded = {group.replicas[1].key}
    chosen = [number_of(policy.choose_except(key, excluded)) for key in KEYS[:3000]]
    assert chosen == owners(without, KEYS[:3000])
    assert policy.choose_except("a", {replica.key for replica in group.replicas}) is None


def test_sessions_without_a_key_spread_at_random_by_weight() -> None:
    """The same seed gives the same choices."""
    group = members([1.0, 3.0])
    counts = tally(ring(group).choose, [None] * 4000)
    assert 2.0 < counts[1] / counts[0] < 4.5
    one, other = ring(group, seed=4), ring(group, seed=4)
    assert [one.choose(None) for _ in range(99)] == [other.choose(None) for _ in range(99)]


def test_without_members_no_choice_and_one_member_takes_all() -> None:
    policy = ring(Members())
    assert policy.choose("a") is None
    assert policy.choose_except("a", set()) is None
    policy.update(members([1.0]))
    assert set(owners(policy, KEYS[:100])) == {0}
    policy.update(Members())
    assert policy.choose("a") is None


# The bound


@pytest.mark.parametrize("max_load", [1.05, 1.25, 2.0])
@pytest.mark.parametrize("weights", [[1.0] * 10, [1.0, 2.0, 3.0, 4.0] * 5])
def test_no_replica_exceeds_its_bound_however_popular_a_key(max_load: float, weights: list[float]) -> None:
    policy = ring(members(weights), max_load=max_load)
    rng = random.Random(3)
    counts: Counter[int] = Counter()
    for total in range(1, 5001):
        key = "popular" if rng.random() < 0.5 else f"client-{rng.randrange(1000)}"
        number = number_of(policy.choose(key))
        counts[number] += 1
        assert counts[number] < max_load * total * weights[number] / sum(weights) + 1.000001
    assert counts.total() == 5000


def test_without_a_bound_a_popular_key_goes_to_one_replica() -> None:
    assert len(tally(ring(members([1.0] * 10)).choose, ["popular"] * 1000)) == 1


def test_under_a_loose_bound_most_keys_stay_where_they_belong() -> None:
    group = members([1.0] * 20)
    bounded, free = ring(group, max_load=1.25), ring(group)
    keys = KEYS[:4000]
    at_home = sum(bounded.choose(key) is free.choose(key) for key in keys)
    assert at_home > 0.9 * len(keys)


def test_the_bound_uses_the_loads_that_were_read() -> None:
    loads, group = Loads(), members([1.0] * 4)
    policy = HashRing(random.Random(1), loads, max_load=1.25)
    policy.update(group)
    home = policy.choose("a")
    assert home is not None
    loads.begin_read()
    loads.update({home.key: 10})
    policy.recount()
    assert policy.choose("a") is not home
    assert policy.choose_except("a", {home.key}) is not home
    loads.begin_read()
    loads.update({replica.key: 10 for replica in group.replicas})
    policy.recount()
    assert policy.choose("a") is home
    others = {replica.key for replica in group.replicas} - {home.key}
    loads.begin_read()
    loads.update({home.key: 10})
    policy.recount()
    assert policy.choose_except("a", others) is home  # over its bound, but all others are excluded
