"""The points of a hash ring: sorted places, and the number of the owner of each.

Places lie between 1 and 2, where the ring closes. The places of a member depend only on its canonical url. A small
change is spliced into the ring: that costs a copy, and no sorting of the whole ring.
"""

from __future__ import annotations

import itertools
import sys
from array import array
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from hashlib import shake_128

from shared_registry.model import AdminState, Replica

Point = tuple[float, int]
"""A place on the ring, and the number of its owner."""
Points = tuple["array[float]", "array[int]"]
"""Places in order, and the numbers of their owners."""
MOST_PASSED_OVER = 16
"""How many replicas that have left may keep points for each member. With more, keys pass over too many points."""
FEWEST_SWEPT = 16
"""How many replicas leave before the points of those that were removed are taken out: one splice for all of them."""
_HIGHEST = bytes(0xF0 | byte for byte in range(256))


class RingPoints:
    """The points of some replicas.

    Attributes:
        places: The places in order. The list begins with the last place minus one turn, and ends with the first place
            plus one turn. So every place of a key lies between two entries.
        owners: The owner of each place, as an index into `replicas`.
        replicas: The owners, and former owners.
        is_member: For each of `replicas`, 1 if it is a member, or 0 if it has left and its points are passed over.
        count: How many members there are.
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

    def join(self, sizes: Mapping[Replica, int]) -> None:
        """Let these replicas be members, with that many points each. Take out points that are no longer of use."""
        for replica in sizes:
            number = self._number(replica)
            self.count += not self.is_member[number]
            self.is_member[number] = 1
        self._left -= sizes.keys()
        self._set_sizes({**sizes, **dict.fromkeys(self._swept(), 0)})

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

    def leave(self, replica: Replica) -> None:
        """Pass over the points of a replica."""
        number = self._numbers.get(replica)
        if number is not None:
            self.count -= self.is_member[number]
            self.is_member[number] = 0
            self._left.add(replica)

    def _set_sizes(self, sizes: Mapping[Replica, int]) -> None:
        """Give each of these replicas that many points."""
        removed: list[Point] = []
        added: list[Point] = []
        for replica, has in sizes.items():
            had = self._sizes.get(replica, 0)
            if had != has:
                number = self._number(replica)
                places = places_of(replica.key, max(had, has))[min(had, has) :]
                (added if has > had else removed).extend((place, number) for place in places)
            if has:
                self._sizes[replica] = has
            elif replica in self._numbers:
                self._sizes.pop(replica, None)
                self._free.append(self._numbers.pop(replica))
        if not removed and not added:
            return
        is_small = (len(removed) + len(added)) * 4 <= len(self.places)
        if not is_small or not _splice(self.places, self.owners, sorted(removed), sorted(added)):
            self.places, self.owners = self._built()
            if self.places:
                self.places.insert(0, 0.0)
                self.places.append(0.0)
                self.owners.insert(0, 0)
                self.owners.append(0)
        if self.places:
            self.places[0], self.owners[0] = self.places[-2] - 1.0, self.owners[-2]
            self.places[-1], self.owners[-1] = self.places[1] + 1.0, self.owners[1]

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

    def _built(self) -> Points:
        """Return all points, built anew."""
        places, owners = array("d"), array("I")
        for replica, size in self._sizes.items():
            places += places_of(replica.key, size)
            owners += array("I", [self._numbers[replica]]) * size
        values = places.tolist()
        order = sorted(range(len(values)), key=values.__getitem__)
        return array("d", [values[at] for at in order]), array("I", [owners[at] for at in order])


def places_of(key: str, size: int) -> array[float]:
    """Return the first places of the replica with this canonical url.

    Each place is a floating-point number from 1.0 to 2.0, whose fraction bits are a hash of the url.
    """
    raw = bytearray(shake_128(key.encode()).digest(8 * size))
    raw[7::8] = b"\x3f" * size
    raw[6::8] = raw[6::8].translate(_HIGHEST)
    places = array("d", bytes(raw))
    if sys.byteorder == "big":
        places.byteswap()
    return places


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
