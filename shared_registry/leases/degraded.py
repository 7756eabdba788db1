"""Placing sessions while Redis is away, by what this router saw last. Pure.

With `share`, the free slots of all replicas, numbered through, belong to the routers in turn: slot n to the router
whose rank is n modulo their number. Routers that saw the same state share it out exactly, without a word.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from shared_registry.model import Replica


@dataclass(frozen=True, slots=True)
class SeenLoads:
    """The load as it was seen last.

    Attributes:
        in_flight: Sessions by canonical url, of the replicas that were healthy and active.
        routers: Keys of the live routers.
    """

    in_flight: Mapping[str, int]
    routers: Collection[str]


class DegradedPlacement:
    """Keeps account of what this router took and gave back since it saw the loads, and chooses within its share.

    Shares are dealt out when loads are seen, and stand until the next are: two routers that saw the same loads stay
    within capacity together only as long as neither deals anew. So loads must not be seen while anything is out that
    this router placed and Redis has not recorded; `Placement` holds to that.

    Attributes:
        loads: What was seen last; `None` before anything was.
    """

    def __init__(
        self, mode: Literal["share", "off", "unlimited"], *, router: str, kept: Mapping[str, str] | None = None
    ) -> None:
        """Set up; nothing was seen yet.

        Args:
            mode: See `RouterConfig.degraded_placement`.
            router: This router's key.
            kept: See `Ledger`; read whenever something is chosen.
        """
        self.loads: SeenLoads | None = None
        self._mode = mode
        self._router = router
        self._kept = {} if kept is None else kept
        self._shares: dict[str, int] = {}
        self._taken: dict[str, str] = {}
        self._taken_since_look: dict[str, str] | None = None
        self._used: Counter[str] = Counter()

    def look(self) -> None:
        """The loads are about to be read: they count what was taken and given back until now, and perhaps more."""
        self._taken_since_look = {}

    def look_away(self) -> None:
        """They were not read, or are not to be seen."""
        self._taken_since_look = None

    def see(self, loads: SeenLoads, replicas: Sequence[Replica], *, missing: Mapping[str, str] | None = None) -> None:
        """Take over the loads that were read. What was taken meanwhile is counted twice rather than not at all.

        Args:
            loads: Of these replicas.
            replicas: Those that may be selected.
            missing: Leases of this router that the loads do not count: canonical url by id.
        """
        self.loads = loads
        self._taken = {**(self._taken_since_look or {}), **(missing or {})}
        self._taken_since_look = None
        self._used = Counter(self._taken.values())
        self._shares = self._deal(replicas) if self._mode == "share" else {}

    def take(self, lease_id: str, key: str) -> None:
        """This router has taken a slot on a replica."""
        self._taken[lease_id] = key
        self._used[key] += 1
        if self._taken_since_look is not None:
            self._taken_since_look[lease_id] = key

    def give_back(self, lease_id: str) -> bool:
        """This router has given a slot back; return whether it had taken it since the loads were seen.

        Others may use one that the loads count, as soon as Redis knows that it is free.
        """
        key = self._taken.pop(lease_id, None)
        if key is None:
            return False
        self._used[key] -= 1
        return True

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
        kept = Counter(self._kept.values())
        able = [one for one in preference if one.key not in excluded and not self._is_used_up(one, kept)]
        wanted = [replica for replica in able if replica.key not in avoided] or able
        tier = [replica for replica in wanted if replica.primary] or wanted
        return min(tier, key=lambda one: self._load(one, kept) / one.endpoint.weight, default=None)

    def used_up(self, preference: Sequence[Replica]) -> set[str]:
        """Return the canonical urls of those where this router has no share left; none before it saw the loads."""
        if self._mode != "share" or self.loads is None:
            return set()
        kept = Counter(self._kept.values())
        return {replica.key for replica in preference if self._is_used_up(replica, kept)}

    def _is_used_up(self, replica: Replica, kept: Counter[str]) -> bool:
        capacity = replica.endpoint.capacity
        if not capacity or self._mode != "share":
            return False
        own = self._used[replica.key] - kept[replica.key]
        return own >= self._shares.get(replica.key, 0) or self._load(replica, kept) >= capacity

    def _load(self, replica: Replica, kept: Counter[str]) -> int:
        return self._seen(replica) + self._used[replica.key] - kept[replica.key]

    def _seen(self, replica: Replica) -> int:
        return self.loads.in_flight.get(replica.key, replica.in_flight) if self.loads else replica.in_flight

    def _deal(self, replicas: Sequence[Replica]) -> dict[str, int]:
        """Return how many slots of each limited replica are this router's; none where it never saw the routers."""
        routers = sorted(self.loads.routers) if self.loads else []
        if self._router not in routers:
            return {}
        rank, count = routers.index(self._router), len(routers)
        shares: dict[str, int] = {}
        first = 0
        limited = (replica for replica in replicas if replica.endpoint.capacity)
        for replica in sorted(limited, key=lambda one: one.key):
            free = max(replica.endpoint.capacity - self._seen(replica), 0)
            # How many of first … first + free - 1 leave this rank when divided by the count.
            shares[replica.key] = (first + free - rank + count - 1) // count - (first - rank + count - 1) // count
            first += free
        return shares
