"""Points that are put in and taken out in place make the ring that all points at once would make."""

from __future__ import annotations

import random
from collections.abc import Mapping

from shared_registry.model import Replica, ReplicaEndpoint
from shared_registry.selection.ring_points import RingPoints

REPLICAS = [Replica(ReplicaEndpoint(f"http://10.0.0.{number}:8000")) for number in range(1, 101)]


def owned(ring: RingPoints) -> list[tuple[float, str]]:
    return [(place, ring.replicas[owner].key) for place, owner in zip(ring.places, ring.owners, strict=True)]


def made(sizes: Mapping[Replica, int]) -> RingPoints:
    ring = RingPoints()
    ring.join(sizes)
    ring.settle()
    return ring


def members_of(ring: RingPoints) -> set[Replica]:
    return {replica for number, replica in enumerate(ring.replicas) if ring.is_member[number]}


def test_changed_rings_equal_rings_made_at_once() -> None:
    rng = random.Random(5)
    sizes = dict.fromkeys(REPLICAS[:80], 16)
    ring = made(sizes)
    for _ in range(300):
        some = {replica: rng.choice((4, 16, 32)) for replica in rng.sample(REPLICAS, rng.choice((1, 2, 5)))}
        ring.join(some)
        ring.settle()
        sizes |= some
        assert owned(ring) == owned(made(sizes))


def test_many_points_are_moved_in_steps() -> None:
    """Members change meanwhile. Those that have points take keys all the time, and at the end each has its points."""
    rng = random.Random(7)
    ring, sizes = made(dict.fromkeys(REPLICAS[:60], 64)), dict.fromkeys(REPLICAS[:60], 64)
    present = set(sizes)
    changed = {replica: rng.choice((16, 32, 96)) for replica in REPLICAS[20:]}
    ring.join(changed)
    sizes |= changed
    present |= changed.keys()
    steps = 0
    while not ring.settle(30):
        steps += 1
        before = len(ring.places)
        for replica in rng.sample(REPLICAS, 2):
            if replica in present:
                ring.leave(replica)
                present.discard(replica)
            else:
                ring.join({replica: sizes.setdefault(replica, 32)})
                present.add(replica)
        assert members_of(ring) <= present
        assert ring.count == len(members_of(ring))
        assert len(ring.places) == before
    assert steps >= 20
    assert members_of(ring) == present
    assert ring.count == len(present)
    assert list(ring.places) == sorted(ring.places)
    expected = made({replica: sizes[replica] for replica in present})
    urls = {replica.key for replica in present}
    assert [each for each in owned(ring)[1:-1] if each[1] in urls] == owned(expected)[1:-1]


def test_a_ring_of_new_members_has_a_choice_at_once() -> None:
    ring = RingPoints()
    ring.join(dict.fromkeys(REPLICAS, 64))
    assert not ring.settle(100)
    assert 0 < ring.count < len(REPLICAS)


def test_a_member_that_leaves_before_its_points_came_has_none() -> None:
    ring = made(dict.fromkeys(REPLICAS[:50], 64))
    ring.join({REPLICAS[60]: 64})
    ring.leave(REPLICAS[60])
    ring.settle()
    assert owned(ring) == owned(made(dict.fromkeys(REPLICAS[:50], 64)))


def test_a_small_change_makes_no_new_arrays() -> None:
    ring = made(dict.fromkeys(REPLICAS[:80], 16))
    places, owners = ring.places, ring.owners
    ring.join({REPLICAS[90]: 16, REPLICAS[3]: 8})
    ring.settle()
    assert (ring.places is places, ring.owners is owners) == (True, True)
    assert len(places) == 2 + 80 * 16 + 8
