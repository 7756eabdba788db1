"""Makes all points of a hash ring anew, in steps, while the ring itself is in use as it was.

The points are first spread over parts of equal width, and then each part is sorted. So a step takes microseconds,
however large the ring is.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterator
from hashlib import shake_128

from shared_registry.model import Replica

POINTS_A_PART = 512
_HIGHEST = bytes(0xF0 | byte for byte in range(256))


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


class RingBuilding:
    """New arrays for `RingPoints`, complete as soon as `steps` is exhausted.

    Attributes:
        sizes: How many points each replica has in them.
        places: See `RingPoints`.
        owners: See `RingPoints`.
        steps: Does a step for each item, and returns how many points it has handled. It handles each point twice.
    """

    def __init__(self, sizes: dict[Replica, int], number_of: Callable[[Replica], int]) -> None:
        """Do nothing yet.

        Args:
            sizes: See the attribute. Nobody may change it meanwhile.
            number_of: Returns the number of an owner. Called once for each replica.
        """
        self.sizes = sizes
        self.places = array("d")
        self.owners = array("I")
        self._number_of = number_of
        self.steps = self._steps()

    def _steps(self) -> Iterator[int]:
        total = sum(self.sizes.values())
        # With a power of two, no place is rounded up into the part after its own.
        count = 1 << max(0, (total // POINTS_A_PART).bit_length() - 1)
        parts = [(array("d"), array("I")) for _ in range(count)]
        for replica, size in self.sizes.items():
            number = self._number_of(replica)
            for place in places_of(replica.key, size):
                places, owners = parts[int((place - 1.0) * count)]
                places.append(place)
                owners.append(number)
            yield size
        if not total:
            return
        self.places.append(0.0)
        self.owners.append(0)
        for places, owners in parts:
            order = sorted(range(len(places)), key=places.__getitem__)
            self.places.extend(map(places.__getitem__, order))
            self.owners.extend(map(owners.__getitem__, order))
            yield len(places)
        self.places.append(0.0)
        self.owners.append(0)
