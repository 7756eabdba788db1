"""Many replicas that come and go at once leave a level as a level that is made anew."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from shared_registry.model import Replica, ReplicaEndpoint
from shared_registry.selection.levels import FAR, SelectionLevel, Weights, position_of

COUNT = 40 * FAR
ROUNDS = 40


def replica_of(number: int, *, order: int) -> Replica:
    return Replica(ReplicaEndpoint(f"http://10.0.{number // 250}.{number % 250}:8000", order=order))


def some(rng: random.Random, replicas: list[Replica]) -> list[Replica]:
    """Return a few of these replicas, or many, from the whole list or from a part of it."""
    first = rng.choice([0, rng.randrange(len(replicas))])
    near = replicas[first : first + rng.choice([20, COUNT])]
    return rng.sample(near, rng.randint(1, min(len(near), rng.choice([1, 3, 60]))))


def reorder(rng: random.Random, level: SelectionLevel, replica: Replica) -> None:
    level.hold(replica)
    endpoint = replace(replica.record.endpoint, order=rng.randrange(COUNT))
    replica.record = replace(replica.record, endpoint=endpoint)


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 2.0, 0.5)], ids=["equal", "unequal"])
@pytest.mark.parametrize("count", [3, 8, COUNT])
@pytest.mark.parametrize("seed", range(5))
def test_changes_of_many_leave_a_level_in_order(seed: int, count: int, weights: tuple[float, ...]) -> None:
    rng = random.Random(seed)
    replicas = [replica_of(number, order=number // rng.choice([1, 1, 4])) for number in range(count)]
    level, members = SelectionLevel(), dict[Replica, Weights]()
    for _ in range(ROUNDS):
        weighed: dict[Replica, Weights] = {one: (rng.choice(weights), 1.0) for one in some(rng, replicas)}
        moved = rng.sample(list(weighed), min(2, len(weighed)))
        for one in moved:
            reorder(rng, level, one)
        level.place({one: pair for one, pair in weighed.items() if one not in moved})
        level.place({one: weighed[one] for one in moved})
        members |= weighed
        expect(level, members)
        gone = some(rng, replicas)
        dropped = level.drop(gone)
        assert sorted(dropped, key=position_of) == sorted(members.keys() & set(gone), key=position_of)
        for one in dropped:
            del members[one]
        expect(level, members)
    level.drop(replicas)
    expect(level, {})


def expect(level: SelectionLevel, members: dict[Replica, Weights]) -> None:
    in_order = sorted(members, key=position_of)
    assert level.replicas == in_order
    assert level.weights() == [members[one][0] for one in in_order]
    assert level.full_weights == Counter(full for _, full in members.values())
    found: dict[float, list[Replica]] = {}
    for one in in_order:
        found.setdefault(members[one][0], []).append(one)
    assert level.classes == found


def test_a_class_keeps_its_list_while_another_comes_and_goes() -> None:
    """Policies choose from that list until their next update."""
    level = SelectionLevel()
    first, second = (replica_of(number, order=number) for number in (1, 2))
    level.place({first: (1.0, 1.0)})
    members = level.classes[1.0]
    level.place({second: (2.0, 2.0)})
    assert (level.classes[1.0], members) == ([first], [first])
    assert level.classes[1.0] is members
    assert level.replicas == [first, second]
    level.drop([second])
    level.place({second: (1.0, 1.0)})
    assert level.classes[1.0] is members
    assert members == level.replicas == [first, second]
