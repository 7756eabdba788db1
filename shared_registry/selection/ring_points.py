"""The points of a hash ring: sorted places, and the number of the owner of each.

Places lie between 1 and 2, where the ring closes. The places of a member depend only on its canonical url. A small
change is spliced into the ring: that costs a copy, and no sorting of the whole ring.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from hashlib import shake_128

from shared_registry.model import Replica

Point = tuple[float, int]
"""A place on the ring, and the number of its owner."""
Points = tuple["array[float]", "array[int]"]
"""Places in order, and the numbers of their owners."""
_HIGHEST = bytes(0xF0 | byte for byte in range(256))


class RingPoints:
    """The points of some replicas.

    Attributes:
        places: The places in order. The list begins with the last place minus one turn, and ends with the first place
            plus one turn. So every place of a key lies between two entries.
        owners: The owner of each place, as an index into `replicas`.
        replicas: The owners, and former owners.
    """

    def __init__(self) -> None:
        self.places = array("d")
        self.owners = array("I")
        self.replicas: list[Replica] = []
        self._sizes: dict[Replica, int] = {}
        self._numbers: dict[Replica, int] = {}
        self._free: list[int] = []

    def set_sizes(self, sizes: dict[Replica, int]) -> None:
        """Give each of these replicas that many points, and no points to any other replica."""
        before, self._sizes = self._sizes, sizes
        removed: list[Point] = []
        added: list[Point] = []
        changed = [replica for replica, size in sizes.items() if before.get(replica) != size]
        for replica in (*(before.keys() - sizes.keys()), *changed):
            had, has = before.get(replica, 0), sizes.get(replica, 0)
            number = self._number(replica)
            places = places_of(replica.key, max(had, has))[min(had, has) :]
            (added if has > had else removed).extend((place, number) for place in places)
            if not has:
                self._free.append(self._numbers.pop(replica))
        if not removed and not added:
            return
        spliced = None
        if (len(removed) + len(added)) * 4 <= len(self.places):
            spliced = _spliced((self.places[1:-1], self.owners[1:-1]), sorted(removed), sorted(added))
        self.places, self.owners = spliced or self._built()
        if self.places:
            self.places.insert(0, self.places[-1] - 1.0)
            self.places.append(self.places[1] + 1.0)
            self.owners.insert(0, self.owners[-1])
            self.owners.append(self.owners[1])

    def _number(self, replica: Replica) -> int:
        number = self._numbers.get(replica)
        if number is None:
            if self._free:
                number = self._free.pop()
                self.replicas[number] = replica
            else:
                number = len(self.replicas)
                self.replicas.append(replica)
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


def _spliced(points: Points, removed: Sequence[Point], added: Sequence[Point]) -> Points | None:
    """Return the points without those in `removed` and with those in `added`; `None` if two members share a place.

    Both lists must be sorted.
    """
    for changes, is_removed in ((removed, True), (added, False)):
        if not changes:
            continue
        places, owners = points
        new_places, new_owners = array("d"), array("I")
        start = 0
        for place, number in changes:
            at = bisect_right(places, place, start) - is_removed
            if is_removed and owners[at] != number:
                return None
            new_places += places[start:at]
            new_owners += owners[start:at]
            if not is_removed:
                new_places.append(place)
                new_owners.append(number)
            start = at + is_removed
        points = new_places + places[start:], new_owners + owners[start:]
    return points


def sizes_by_weight(replicas: Iterable[Replica], weights: Sequence[float], unit_size: float) -> dict[Replica, int]:
    """Return how many points each replica has: in proportion to its weight, at least one."""
    sizes = {weight: max(1, round(weight * unit_size)) for weight in set(weights)}
    return {replica: sizes[weight] for replica, weight in zip(replicas, weights, strict=True)}
