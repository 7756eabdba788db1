"""How many sessions each replica has, as far as this router knows: as read last, and what it has selected since.

A pick counts until loads that were read after it arrive: by then its session is in them, if it is one that is counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from shared_registry.model import Replica


class Load:
    """The load of one replica.

    Attributes:
        count: Sessions read, and picks that they do not show yet.
        recent: Picks since the last look at the loads began.
    """

    __slots__ = ("count", "recent")

    def __init__(self, count: int) -> None:
        self.count = count
        self.recent = 0


class Loads:
    """The loads of all replicas that a policy has asked for.

    Attributes:
        is_used: Whether a policy has gone by them since the last look.
        version: Rises when a load is forgotten, so that the object that a policy has is not the one in use any more.
    """

    def __init__(self) -> None:
        self.is_used = False
        self.version = 0
        self._loads: dict[Replica, Load] = {}

    def of(self, replicas: Iterable[Replica]) -> list[Load]:
        """Return the load of each, for one replica always the same object; at first what its record says."""
        loads = self._loads
        return [loads.get(replica) or self._begin(replica) for replica in replicas]

    def forget(self, replica: Replica) -> None:
        """A replica was removed."""
        if self._loads.pop(replica, None) is not None:
            self.version += 1

    def look(self) -> None:
        """The loads are about to be read: they show what was picked until now."""
        self.is_used = False
        for load in self._loads.values():
            load.recent = 0

    def see(self, in_flight: Mapping[str, int]) -> None:
        """Take over the loads that were read, by canonical url. A replica that is not among them has none."""
        for replica, load in self._loads.items():
            load.count = in_flight.get(replica.key, 0) + load.recent

    def _begin(self, replica: Replica) -> Load:
        load = self._loads[replica] = Load(replica.in_flight)
        return load
