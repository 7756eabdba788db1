"""Placing sessions while Redis is away, by what this router saw last. Pure.

With `share`, the free slots of all replicas, numbered through, belong to the routers in turn: slot n to the router
whose rank is n modulo their number. Routers that saw the same state share it out exactly, without a word.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from shared_registry.model import Replica


@dataclass(frozen=True, slots=True)
class Loads:
    """The load as it was seen last.

    Attributes:
        in_flight: Sessions by canonical url, of the replicas that were healthy and active.
        routers: Keys of the live routers.
    """

    in_flight: Mapping[str, int]
    routers: Collection[str]


class DegradedPlacement:
    """Keeps account of what this router took and gave back since it saw the loads, and chooses within its share.

    Attributes:
        loads: What was seen last; `None` before anything was.
    """

    def __init__(self, mode: Literal["share", "off", "unlimited"], *, router: str) -> None:
        self.loads: Loads | None = None
        self._mode = mode
        self._router = router
        self._taken: Counter[str] = Counter()
        self._taken_since: Counter[str] = Counter()

    def look(self) -> None:
        """The loads are about to be read: they count what was taken and given back until now, and perhaps more."""
        self._taken_since.clear()

    def see(self, loads: Loads) -> None:
        """Take over the loads that were read. What was taken meanwhile is counted twice rather than not at all."""
        self.loads = loads
        self._taken = self._taken_since.copy()

    def take(self, key: str) -> None:
        """This router has taken a slot on a replica."""
        self._taken[key] += 1
        self._taken_since[key] += 1

    def give_back(self, key: str) -> None:
        """This router has given a slot back."""
        self._taken[key] -= 1

    def choose(
        self, preference: Sequence[Replica], *, avoided: Collection[str] = (), excluded: Collection[str] = ()
    ) -> Replica | None:
        """Return the replica for one session more; `None` where there is none that this router may use by itself.

        Args:
            preference: The selectable replicas, best first.
            avoided: Canonical urls taken only where there is nothing else.
            excluded: Canonical urls never taken.
        """
        if self._mode == "off":
            return None
        shares = self._shares(preference) if self._mode == "share" else {}
        able = [
            replica
            for replica in preference
            if replica.key not in excluded and self._taken[replica.key] < shares.get(replica.key, math.inf)
        ]
        wanted = [replica for replica in able if replica.key not in avoided] or able
        tier = [replica for replica in wanted if replica.primary] or wanted
        return min(tier, key=self._load, default=None)

    def _load(self, replica: Replica) -> float:
        return (self._seen(replica) + self._taken[replica.key]) / replica.endpoint.weight

    def _seen(self, replica: Replica) -> int:
        return self.loads.in_flight.get(replica.key, replica.in_flight) if self.loads else replica.in_flight

    def _shares(self, replicas: Sequence[Replica]) -> dict[str, int]:
        """Return how many slots of each limited replica are this router's; none where it never saw the routers."""
        routers = sorted(self.loads.routers) if self.loads else []
        limited = sorted((replica for replica in replicas if replica.endpoint.capacity), key=lambda one: one.key)
        if self._router not in routers:
            return dict.fromkeys((replica.key for replica in limited), 0)
        rank, count = routers.index(self._router), len(routers)
        shares: dict[str, int] = {}
        first = 0
        for replica in limited:
            free = max(replica.endpoint.capacity - self._seen(replica), 0)
            # How many of first … first + free - 1 leave this rank when divided by the count.
            shares[replica.key] = (first + free - rank + count - 1) // count - (first - rank + count - 1) // count
            first += free
        return shares
