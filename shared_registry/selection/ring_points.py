"""The points of a hash ring: sorted places, and the number of the owner of each.

Places lie between 1 and 2, where the ring closes. The places of a member depend only on its canonical url. A small
change is spliced into the ring: that costs a copy, and no sorting of the whole ring. After a large one all points are
made anew. Both are done in steps, and in between the ring is in use as it is then.
"""

from __future__ import annotations

import itertools
import math
from array import array
from bisect import bisect_right
from collections.abc import Mapping, Sequence

from shared_registry.model import AdminState, Replica
from shared_registry.selection.ring_building import RingBuilding, places_of

Point = tuple[float, int]
"""A place on the ring, and the number of its owner."""
MOST_PASSED_OVER = 16
"""How many replicas that have left may keep points for each member. With more, keys pass over too many points."""
FEWEST_SWEPT = 16
"""How many replicas leave before the points of those that were removed are taken out: one splice for all of them."""
POINTS_AT_ONCE = 300
"""How many points are spliced in one step: with 10,000 members of weight 2 for two milliseconds."""
BUILT_AT_ONCE = 12
"""How many points can be handled while points are made anew, in the time in which one is spliced in."""
MOST_SPLICED = 4
"""If more than one in so many points is to be moved, all are made anew."""


class RingPoints:
    """The points of some replicas.

    Attributes:
        places: The places in order. The list begins with the last place minus one turn, and ends with the first place
            plus one turn. So every place of a key lies between two entries.
        owners: The owner of each place, as an index into `replicas`.
        replicas: The owners, and former owners.
        is_member: For each of `replicas`, 1 if it is a member, or 0 if it has left and its points are passed over.
        count: How many members have points in the ring.
    """

    def __init__(self) -> None:
        self.places = array("d")
        self.owners = array("I")
        self.replicas: list[Replica] = []
        self.is_member = bytearray()
        self.count = 0
        self._sizes: dict[Replica, int] = {}
        self._numbers: dict[Replica, int] = {}
        self._free: list[int] = []
        self._left: set[Replica] = set()
        self._sweep_at = FEWEST_SWEPT
        self._joining: dict[Replica, int] = {}
        self._leaving: dict[Replica, None] = {}
        self._building: RingBuilding | None = None

    def join(self, sizes: Mapping[Replica, int]) -> None:
        """Let these replicas be members, with that many points each, which `settle` puts in.

        Until then, a replica that has points already is a member with these. `settle` also takes out points that are no
        longer of use.
        """
        coming = self._building.sizes if self._building else self._sizes
        for replica, size in sizes.items():
            self._leaving.pop(replica, None)
            if replica in self._sizes:
                self._enter(replica)
            if coming.get(replica) == size:
                self._joining.pop(replica, None)
            else:
                self._joining[replica] = size
        self._left -= sizes.keys()
        self._leaving.update(dict.fromkeys(self._swept()))
        if sizes and not self.count:  # there has to be a choice
            if self._building is None:
                self._splice_some(POINTS_AT_ONCE)
            else:
                self.settle()

    def leave(self, replica: Replica) -> None:
        """Pass over the points of a replica."""
        self._joining.pop(replica, None)
        if replica in self._numbers:
            self._pass_over(replica)
            self._left.add(replica)
        elif self._building and replica in self._building.sizes:
            self._left.add(replica)

    def settle(self, most: float = math.inf) -> bool:
        """Move points, in a time in which about `most` can be spliced in. Return whether all is done."""
        while most > 0 and not self.is_settled:
            if self._building is None and self._moved() * MOST_SPLICED > len(self.places):
                self._building = self._begin_building()
            most -= self._splice_some(most) if self._building is None else self._build_on(self._building, most)
        return self.is_settled

    @property
    def is_settled(self) -> bool:
        """Whether the ring has exactly the points that it should have."""
        return not self._joining and not self._leaving and self._building is None

    @property
    def waiting(self) -> int:
        """How many points wait to be moved; all of them while they are made anew."""
        return self._moved() if self._building is None else len(self.places)

    def _swept(self) -> set[Replica]:
        """Return the replicas that have left and whose points are to be taken out: all, or those that were removed."""
        gone: set[Replica] = set()
        if self.count * MOST_PASSED_OVER < len(self._left):
            gone = self._left
        elif len(self._left) > self._sweep_at:
            gone = {replica for replica in self._left if replica.admin is AdminState.REMOVED}
        if gone:
            self._left = self._left - gone
        if gone or len(self._left) > self._sweep_at:
            self._sweep_at = 2 * len(self._left) + FEWEST_SWEPT
        return gone

    def _moved(self) -> int:
        moved = sum(abs(size - self._sizes.get(replica, 0)) for replica, size in self._joining.items())
        return moved + sum(self._sizes.get(replica, 0) for replica in self._leaving)

    def _begin_building(self) -> RingBuilding:
        sizes = self._sizes | self._joining
        for replica in self._leaving:
            sizes.pop(replica, None)
        self._joining, self._leaving = {}, {}
        return RingBuilding(sizes, self._number)

    def _build_on(self, building: RingBuilding, most: float) -> float:
        """Return for how many spliced points that took as long."""
        done = 0.0
        for points in building.steps:
            done += points / BUILT_AT_ONCE
            if done >= most:
                return done
        self._take_over(building)
        return done

    def _take_over(self, building: RingBuilding) -> None:
        before, self._sizes, self._building = self._sizes, building.sizes, None
        self.places, self.owners = building.places, building.owners
        for replica in building.sizes.keys() - before.keys():
            if replica not in self._left and replica not in self._leaving:
                self._enter(replica)
        for replica in before.keys() - building.sizes.keys():
            self._forget(replica)
        self._close()

    def _splice_some(self, most: float) -> int:
        """Move some points by splicing. Return how many."""
        sizes: dict[Replica, int] = {}
        removed: list[Point] = []
        added: list[Point] = []
        while len(removed) + len(added) < most and (self._joining or self._leaving):
            replica, size = self._joining.popitem() if self._joining else (self._leaving.popitem()[0], 0)
            had, number = self._sizes.get(replica, 0), self._number(replica)
            places = places_of(replica.key, max(had, size))[min(had, size) :]
            (added if size > had else removed).extend((place, number) for place in places)
            sizes[replica] = size
        if not self.places:
            self._build_on(RingBuilding(sizes, self._number), math.inf)
            return len(added)
        is_spliced = _splice(self.places, self.owners, sorted(removed), sorted(added))
        for replica, size in sizes.items():
            self._sizes[replica] = size
            if size:
                self._enter(replica)
            else:
                del self._sizes[replica]
                self._forget(replica)
        if is_spliced:
            self._close()
        else:
            self._build_on(RingBuilding(self._sizes, self._number), math.inf)
        return len(removed) + len(added)

    def _close(self) -> None:
        if self.places:
            self.places[0], self.owners[0] = self.places[-2] - 1.0, self.owners[-2]
            self.places[-1], self.owners[-1] = self.places[1] + 1.0, self.owners[1]

    def _enter(self, replica: Replica) -> None:
        number = self._numbers[replica]
        self.count += not self.is_member[number]
        self.is_member[number] = 1

    def _pass_over(self, replica: Replica) -> None:
        number = self._numbers[replica]
        self.count -= self.is_member[number]
        self.is_member[number] = 0

    def _forget(self, replica: Replica) -> None:
        """Give up the number of a replica that has no points any more."""
        self._pass_over(replica)
        self._left.discard(replica)
        self._free.append(self._numbers.pop(replica))

    def _number(self, replica: Replica) -> int:
        number = self._numbers.get(replica)
        if number is None:
            if self._free:
                number = self._free.pop()
                self.replicas[number] = replica
            else:
                number = len(self.replicas)
                self.replicas.append(replica)
                self.is_member.append(0)
            self._numbers[replica] = number
        return number


def _splice(places: array[float], owners: array[int], removed: Sequence[Point], added: Sequence[Point]) -> bool:
    """Take the points in `removed` out, and put those in `added` in. Both lists must be sorted.

    The arrays are changed in place, piece by piece: new ones of some megabytes would cost several times as much. Return
    whether that was possible. It is not if two members share a place, and then nothing, or only `removed`, has changed.
    """
    gaps = [bisect_right(places, place, 1, len(places) - 1) - 1 for place, _ in removed]
    if any(at < 1 or owners[at] != number for at, (_, number) in zip(gaps, removed, strict=True)):
        return False
    for before, (at, until) in enumerate(itertools.pairwise([*gaps, len(places)])):
        places[at - before : until - before - 1] = places[at + 1 : until]
        owners[at - before : until - before - 1] = owners[at + 1 : until]
    del places[len(places) - len(gaps) :]
    del owners[len(owners) - len(gaps) :]
    _put_in(places, owners, added)
    return True


def _put_in(places: array[float], owners: array[int], added: Sequence[Point]) -> None:
    if not added:
        return
    at_each = [bisect_right(places, place, 1, len(places) - 1) for place, _ in added]
    until = len(places)
    places.extend([0.0] * len(added))
    owners.extend([0] * len(added))
    for before in range(len(added) - 1, -1, -1):
        at, (place, number) = at_each[before], added[before]
        places[at + before + 1 : until + before + 1] = places[at:until]
        owners[at + before + 1 : until + before + 1] = owners[at:until]
        places[at + before], owners[at + before] = place, number
        until = at
