"""Places sessions while Redis is away, by the loads that this router read last. Pure.

In the mode `share` the free slots of all replicas are numbered consecutively. Slot n belongs to the router whose rank
is n modulo the number of routers. Routers that read the same state divide the free slots exactly, without exchanging
messages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from shared_registry.model import Replica


@dataclass(frozen=True, slots=True)
class LastLoads:
    """The loads as they were read last.

    Attributes:
        in_flight: The number of sessions by canonical url, for the replicas that could take sessions.
        routers: Keys of the live routers.
    """

    in_flight: Mapping[str, int]
    routers: Collection[str]


class DegradedPlacement:
    """Counts the slots that this router took and gave back since it read the loads, and chooses within its share.

    Shares are computed when loads are read, and stay the same until loads are read again. Two routers that read the
    same loads stay within capacity together only as long as neither computes its shares anew. So loads must not be
    taken over while Redis has not recorded a session that this router placed. `Placement` keeps to that.

    Attributes:
        loads: The loads that were read last; `None` before the first time.
    """

    def __init__(
        self, mode: Literal["share", "off", "unlimited"], *, router: str, kept: Mapping[str, str] | None = None
    ) -> None:
        """Set up, without loads.

        Args:
            mode: See `RouterConfig.degraded_placement`.
            router: This router's key.
            kept: See `Ledger`. It is read at every choice.
        """
        self.loads: LastLoads | None = None
        self._mode = mode
        self._router = router
        self._kept = {} if kept is None else kept
        self._shares: dict[str, int] = {}
        self._taken: dict[str, str] = {}
        self._taken_since_read: dict[str, str] | None = None
        self._used: Counter[str] = Counter()

    def begin_read(self) -> None:
        """Begin to read the loads. They will count all slots taken and given back until now, and perhaps later ones."""
        self._taken_since_read = {}

    def end_read(self) -> None:
        """End a reading whose loads were not read, or must not be taken over."""
        self._taken_since_read = None

    def update(
        self, loads: LastLoads, replicas: Sequence[Replica], *, missing: Mapping[str, str] | None = None
    ) -> None:
        """Take over the loads that were read.

        A slot that was taken during the reading may be counted twice, but is never left out.

        Args:
            loads: The loads of these replicas.
            replicas: The replicas that may be selected.
            missing: Leases of this router that the loads do not count: canonical url by lease id.
        """
        self.loads = loads
        self._taken = {**(self._taken_since_read or {}), **(missing or {})}
        self._taken_since_read = None
        self._used = Counter(self._taken.values())
        self._shares = self._deal(replicas) if self._mode == "share" else {}

    def take(self, lease_id: str, key: str) -> None:
        """Record that this router has taken a slot on a replica."""
        self._taken[lease_id] = key
        self._used[key] += 1
        if self._taken_since_read is not None:
            self._taken_since_read[lease_id] = key

    def give_back(self, lease_id: str) -> bool:
        """Record that this router has given a slot back; return whether it took the slot after the loads were read.

        A slot that the loads already count may be used by other routers as soon as Redis records that it is free.
        """
        key = self._taken.pop(lease_id, None)
        if key is None:
            return False
        self._used[key] -= 1
        return True

    def choose(
        self, preference: Sequence[Replica], *, avoided: Collection[str] = (), excluded: Collection[str] = ()
    ) -> Replica | None:
        """Return the replica for one more session; `None` if this router may use no replica without Redis.

        Args:
            preference: The selectable replicas, best first.
            avoided: Canonical urls of replicas that are used only if no other replica is possible.
            excluded: Canonical urls of replicas that are never used.
        """
        if self._mode == "off":
            return None
        kept = Counter(self._kept.values())
        able = [one for one in preference if one.key not in excluded and not self._is_used_up(one, kept)]
        wanted = [replica for replica in able if replica.key not in avoided] or able
        tier = [replica for replica in wanted if replica.primary] or wanted
        return min(tier, key=lambda one: self._load(one, kept) / one.endpoint.weight, default=None)

    def used_up(self, preference: Sequence[Replica]) -> set[str]:
        """Return the canonical urls of the replicas on which this router has no share left.

        The set is empty before the loads were read.
        """
        if self._mode != "share" or self.loads is None:
            return set()
        kept = Counter(self._kept.values())
        return {replica.key for replica in preference if self._is_used_up(replica, kept)}

    def _is_used_up(self, replica: Replica, kept: Counter[str]) -> bool:
        capacity = replica.endpoint.capacity
        if not capacity or self._mode != "share":
            return False
        own_count = self._used[replica.key] - kept[replica.key]
        return own_count >= self._shares.get(replica.key, 0) or self._load(replica, kept) >= capacity

    def _load(self, replica: Replica, kept: Counter[str]) -> int:
        return self._recorded(replica) + self._used[replica.key] - kept[replica.key]

    def _recorded(self, replica: Replica) -> int:
        return self.loads.in_flight.get(replica.key, replica.in_flight) if self.loads else replica.in_flight

    def _deal(self, replicas: Sequence[Replica]) -> dict[str, int]:
        """Return how many slots of each replica with a capacity belong to this router.

        The result is empty if this router is not in the list of routers that was read with the loads.
        """
        routers = sorted(self.loads.routers) if self.loads else []
        if self._router not in routers:
            return {}
        rank, count = routers.index(self._router), len(routers)
        shares: dict[str, int] = {}
        first = 0
        limited = (replica for replica in replicas if replica.endpoint.capacity)
        # Healthy ones first: routers that do not agree on a panic still divide the slots of these in the same way.
        for replica in sorted(limited, key=lambda one: (not one.record.is_selectable, one.key)):
            free = max(replica.endpoint.capacity - self._recorded(replica), 0)
            # The number of slots in first … first + free - 1 whose remainder modulo the count is this rank.
            shares[replica.key] = (first + free - rank + count - 1) // count - (first - rank + count - 1) // count
            first += free
        return shares
