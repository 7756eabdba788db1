"""Points that are put in and taken out in place make the ring that all points at once would make."""

from __future__ import annotations

import random

from shared_registry.model import Replica, ReplicaEndpoint
from shared_registry.selection.ring_points import RingPoints

REPLICAS = [Replica(ReplicaEndpoint(f"http://10.0.0.{number}:8000")) for number in range(1, 101)]


def owned(ring: RingPoints) -> list[tuple[float, str]]:
    return [(place, ring.replicas[owner].key) for place, owner in zip(ring.places, ring.owners, strict=True)]


def test_changed_rings_equal_rings_made_at_once() -> None:
    rng = random.Random(5)
    ring, sizes = RingPoints(), dict.fromkeys(REPLICAS[:80], 16)
    ring.join(sizes)
    for _ in range(300):
        some = {replica: rng.choice((4, 16, 32)) for replica in rng.sample(REPLICAS, rng.choice((1, 2, 5)))}
        ring.join(some)
        sizes |= some
        anew = RingPoints()
        anew.join(sizes)
        assert owned(ring) == owned(anew)


def test_a_small_change_makes_no_new_arrays() -> None:
    ring = RingPoints()
    ring.join(dict.fromkeys(REPLICAS[:80], 16))
    places, owners = ring.places, ring.owners
    ring.join({REPLICAS[90]: 16, REPLICAS[3]: 8})
    assert (ring.places is places, ring.owners is owners) == (True, True)
    assert len(places) == 2 + 80 * 16 + 8
