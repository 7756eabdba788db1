"""Consistent hashing: a key goes to the same member at every router, and few keys move when members change.

Every member has points on a ring. Their number depends on its weight. A key has two places on the ring, and goes to the
owner of the point that is nearest to either place. (With one place and the next point after it, six times as many
points would be needed to spread keys as evenly.) A new point only takes keys, and a removed point only gives keys up.
So only the share of the member that joined or left moves.
"""

from __future__ import annotations

import math
import random
import struct
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Mapping
from hashlib import blake2b

from shared_registry.model import Replica
from shared_registry.selection.later import Later
from shared_registry.selection.loads import Loads
from shared_registry.selection.members import Members
from shared_registry.selection.policies import register_policy
from shared_registry.selection.ring_points import POINTS_AT_ONCE, RingPoints

POINTS = 32
"""How many points a member of weight 1 has. The share of its keys then deviates by about 7%.

Twice as many points would make that 5%, and cost twice as much memory and time at every change.
"""
WEIGHT_STEP = 64
"""Weights are measured in a unit: the power of this number that is nearest to their mean.

The unit is 1 as long as the mean lies between 1/8 and 8. When the mean crosses such a limit, half of the keys move.
"""
_UNPACK = struct.Struct("<QQ").unpack
_FRACTION = 2.0**-52


class HashRing:
    """The hash policy for the members of one level."""

    def __init__(
        self, rng: random.Random, loads: Loads, *, max_load: float | None = None, later: Later | None = None
    ) -> None:
        """Set up, without members.

        Args:
            rng: Chooses places for sessions without a key.
            loads: The loads that `max_load` is compared with.
            max_load: The most load that a member takes, as a multiple of its share by weight; above 1. A session that
                would exceed it goes to the next member in the key's order. `None` means no bound.
            later: Moves many points in pieces.
        """
        self._random = rng.random
        self._loads = loads
        self._max_load = max_load
        self._later = later or Later()
        self._ring = RingPoints()
        self._unit = 1.0
        self._weights: dict[Replica, float] = {}
        self._bound = 0.0
        self._total = 0
        self.choose: Callable[[str | None], Replica | None] = self._nearest if max_load is None else self._nearest_able

    def update(self, members: Members) -> None:
        """Choose among these members from now on.

        A member that leaves keeps its points until few members are left, and keys pass over them. So a replica that
        turns unhealthy, and healthy again, moves nothing in memory. While the points of many members are moved, keys go
        to the owners of the points that are in the ring.
        """
        unit = _unit(members.full_weight_counts)
        if members.changed is None or unit != self._unit:
            changed: Iterable[Replica] = {*self._weights, *members.replicas}
            self._weights, self._unit = {}, unit
        else:
            changed = members.changed
        sizes: dict[Replica, int] = {}
        for replica in changed:
            weight = members.weight_of(replica)
            if weight is None:
                self._weights.pop(replica, None)
                self._ring.leave(replica)
            else:
                self._weights[replica] = weight
                sizes[replica] = max(1, round(weight * POINTS / unit))
        self._ring.join(sizes)
        if self._ring.waiting <= POINTS_AT_ONCE or not self._later.put_off(self._settle):
            self._ring.settle()
        if self._max_load is not None:
            self._loads.begin(sizes)
            counts = {weight: len(replicas) for weight, replicas in members.classes.items()}
            total = math.fsum(weight * count for weight, count in counts.items())
            self._bound = self._max_load / total if total else 0.0
            self.recount()

    def choose_except(self, key: str | None, excluded: Collection[str]) -> Replica | None:
        """Return the replica for the key as if the excluded ones were not members.

        If all other members are over the bound, the bound is ignored.
        """
        places = self._places(key)
        replica = None
        if self._max_load is not None:
            replica = self._search(places, lambda owner: owner.key in excluded or not self._is_below_limit(owner))
        if replica is None:
            replica = self._search(places, lambda owner: owner.key in excluded)
        if replica is None and not self._ring.is_settled:
            self._ring.settle()
            return self.choose_except(key, excluded)
        return replica if replica is None or self._max_load is None else self._take(replica)

    def _settle(self) -> bool:
        return self._ring.settle(POINTS_AT_ONCE)

    def recount(self) -> None:
        """Add up the loads again, after they were read anew."""
        known = self._loads.known
        self._total = 0 if self._max_load is None else sum(known[replica].count for replica in self._weights)

    def _nearest(self, key: str | None) -> Replica | None:
        """Return the owner of the point nearest to either place of the key."""
        ring = self._ring
        points = ring.places
        if not ring.count:
            return None
        if key is None:
            place, other = self._places(None)
        else:  # inlined, because a call would cost half as much as the rest of this method
            first, second = _UNPACK(blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest())
            place, other = 1.0 + (first >> 12) * _FRACTION, 1.0 + (second >> 12) * _FRACTION
        at = bisect_right(points, place)
        distance, behind = points[at] - place, place - points[at - 1]
        if behind < distance:
            at -= 1
            distance = behind
        again = bisect_right(points, other)
        if points[again] - other < distance:
            distance = points[again] - other
            at = again
        if other - points[again - 1] < distance:
            at = again - 1
        owner = ring.owners[at]
        if ring.is_member[owner]:
            return ring.replicas[owner]
        return self._search((place, other), _never)

    def _nearest_able(self, key: str | None) -> Replica | None:
        """Return the owner of the nearest point whose owner has room under the bound, and count the session."""
        replica = self._nearest(key)
        if replica is None:
            return None
        if not self._is_below_limit(replica):
            replica = self._search(self._places(key), lambda owner: not self._is_below_limit(owner)) or replica
        return self._take(replica)

    def _is_below_limit(self, replica: Replica) -> bool:
        return self._loads.known[replica].count < self._weights[replica] * self._bound * (self._total + 1)

    def _take(self, replica: Replica) -> Replica:
        load = self._loads.known[replica]
        load.count += 1
        load.recent += 1
        self._total += 1
        self._loads.is_used = True
        return replica

    def _places(self, key: str | None) -> tuple[float, float]:
        if key is None:
            return 1.0 + self._random(), 1.0 + self._random()
        first, second = _UNPACK(blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest())
        return 1.0 + (first >> 12) * _FRACTION, 1.0 + (second >> 12) * _FRACTION

    def _search(self, places: tuple[float, float], is_refused: Callable[[Replica], bool]) -> Replica | None:
        """Return the owner of the nearest point whose owner is not refused; search outwards from both places."""
        best: tuple[float, Replica] | None = None
        refused: dict[Replica, bool] = {}
        if not self._ring.count:
            return None
        for place in places:
            for step in (1, -1):
                best = self._walk(place, step, best, refused, is_refused)
        return best[1] if best else None

    def _walk(
        self,
        place: float,
        step: int,
        best: tuple[float, Replica] | None,
        refused: dict[Replica, bool],
        is_refused: Callable[[Replica], bool],
    ) -> tuple[float, Replica] | None:
        """Return the nearer one of the best result so far and the first accepted owner in one direction from a place.

        The search goes around the ring at most once.
        """
        ring = self._ring
        points, owners, replicas, is_member = ring.places, ring.owners, ring.replicas, ring.is_member
        count = len(points) - 2
        start = bisect_right(points, place) - (step < 0)
        for walked in range(count):
            index = start + step * walked
            turn = 0.0
            if index > count:
                index, turn = index - count, 1.0
            elif index < 1:
                index, turn = index + count, -1.0
            distance = (points[index] + turn - place) * step
            if best is not None and distance >= best[0]:
                break
            number = owners[index]
            if not is_member[number]:
                continue
            owner = replicas[number]
            if owner not in refused:
                refused[owner] = is_refused(owner)
            if not refused[owner]:
                return distance, owner
        return best


def _unit(full_weights: Mapping[float, int]) -> float:
    """Return the weight for which a member has `POINTS` points, given how many members have each weight."""
    count = sum(full_weights.values())
    if not count:
        return 1.0
    mean = math.fsum(weight * number for weight, number in full_weights.items()) / count
    return float(WEIGHT_STEP) ** round(math.log(mean, WEIGHT_STEP))


def _never(_: Replica) -> bool:
    return False


register_policy(
    "hash",
    lambda context: HashRing(context.rng, context.loads, max_load=context.hash_max_load, later=context.later),
    needs_loads=lambda context: context.hash_max_load is not None,
)
