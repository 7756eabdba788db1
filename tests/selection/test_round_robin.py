"""`round_robin`: exact over every cycle, smooth within it."""

from __future__ import annotations

import random
from collections import Counter
from fractions import Fraction
from functools import reduce
from math import gcd, lcm

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_registry.selection.members import Members
from shared_registry.selection.round_robin import RoundRobin
from tests.support.choices import members, number_of, replicas, tally
from tests.support.effort import some_of


def prepared(weights: list[float], seed: int = 7) -> RoundRobin:
    policy = RoundRobin(random.Random(seed))
    policy.update(members(weights))
    return policy


def turns(policy: RoundRobin, count: int) -> list[int]:
    return [number_of(policy.choose(None)) for _ in range(count)]


def cycle_of(weights: list[float]) -> list[int]:
    """Return how many turns each has in a cycle."""
    exact = [Fraction(str(weight)) for weight in weights]
    scale = reduce(lcm, (weight.denominator for weight in exact))
    whole = [int(weight * scale) for weight in exact]
    shared = reduce(gcd, whole)
    return [weight // shared for weight in whole]


SHORT = [
    [1.0],
    [1.0] * 5,
    [3.0, 1.0],
    [5.0, 1.0, 1.0],
    [0.5, 0.25, 1.0],
    [0.1, 0.3, 0.7],
    [7.0, 7.0, 3.0, 2.0],
]
A_MILLION = [1e6, 1.0]


@pytest.mark.parametrize(
    ("weights", "seed"),
    [
        *((weights, seed) for weights in SHORT for seed in range(5)),
        *((A_MILLION, seed) for seed in range(some_of(5))),
    ],
)
def test_every_cycle_has_exactly_the_weights_wherever_it_begins(weights: list[float], seed: int) -> None:
    wanted = cycle_of(weights)
    length = sum(wanted)
    policy = prepared(weights, seed)
    chosen = turns(policy, min(3 * length, length + 2000))
    counts = Counter(chosen[:length])
    assert [counts[number] for number in range(len(weights))] == wanted
    for at in range(len(chosen) - length):
        counts[chosen[at]] -= 1
        counts[chosen[at + length]] += 1
        assert [counts[number] for number in range(len(weights))] == wanted


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(0, 1000), st.integers(0, 100))
def test_any_whole_weights_are_exact_from_any_position(weights: list[int], seed: int, start: int) -> None:
    policy = prepared([float(weight) for weight in weights], seed)
    turns(policy, start)
    counts = Counter(turns(policy, sum(weights)))
    assert [counts[number] for number in range(len(weights))] == weights


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=8), st.integers(0, 1000))
def test_every_replica_always_stays_near_its_share(weights: list[int], seed: int) -> None:
    """Spread over the cycle: at no moment more than two turns from what the weights say, plus the class's rotation."""
    policy = prepared([float(weight) for weight in weights], seed)
    counts = [0] * len(weights)
    for total, number in enumerate(turns(policy, 2 * sum(weights)), start=1):
        counts[number] += 1
        for count, weight in zip(counts, weights, strict=True):
            assert abs(count - total * weight / sum(weights)) <= 2


def test_routers_begin_at_different_positions_unless_seeds_are_equal() -> None:
    begins = Counter(turns(prepared([1.0] * 10, seed), 1)[0] for seed in range(200))
    assert len(begins) == 10
    weighted = Counter(turns(prepared([1.0, 2.0, 3.0, 4.0], seed), 1)[0] for seed in range(400))
    assert len(weighted) == 4
    assert turns(prepared([1.0, 2.0, 3.0], 3), 50) == turns(prepared([1.0, 2.0, 3.0], 3), 50)


def test_a_change_of_other_fields_does_not_restart_the_cycle() -> None:
    group = members([1.0, 2.0, 4.0])
    policy, other = RoundRobin(random.Random(1)), RoundRobin(random.Random(1))
    policy.update(group)
    other.update(group)
    chosen = []
    for _ in range(28):
        policy.update(Members(list(group.replicas), list(group.weights)))
        chosen.append(number_of(policy.choose(None)))
    assert chosen == turns(other, 28)


def test_excluded_replicas_lose_turns_while_the_others_keep_order() -> None:
    group = members([1.0] * 4)
    policy = RoundRobin(random.Random(1))
    policy.update(group)
    excluded = {group.replicas[2].key}
    assert tally(lambda _: policy.choose_except(None, excluded), [None] * 300).keys() == {0, 1, 3}
    assert policy.choose_except(None, {replica.key for replica in group.replicas}) is None
    weighted = prepared([1e6, 1.0])
    assert number_of(weighted.choose_except(None, {group.replicas[0].key})) == 1


def test_without_members_there_is_no_choice() -> None:
    policy = RoundRobin(random.Random(1))
    assert policy.choose(None) is None
    policy.update(members([1.0]))
    policy.update(Members())
    assert policy.choose(None) is None
    assert policy.choose_except(None, set()) is None
    policy.update(Members(replicas(1), [2.0]))
    assert number_of(policy.choose(None)) == 0
