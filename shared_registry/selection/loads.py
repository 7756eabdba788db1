"""The load of each replica as far as this router knows it: the sessions read last, plus this router's picks since then.

A pick is a replica that a policy has returned. It counts until loads arrive that were read after it. These contain its
session, if the session holds a lease.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from shared_registry.model import Replica


class Load:
    """The load of one replica.

    Attributes:
        count: The sessions read last, plus the picks that were not in them yet.
        recent: The picks since the last reading of the loads began.
    """

    __slots__ = ("count", "recent")

    def __init__(self, count: int) -> None:
        self.count = count
        self.recent = 0


class Loads:
    """The loads of all replicas that a policy has asked for.

    Attributes:
        is_used: Whether a policy has used the loads since the last reading began.
        version: Rises when a load is forgotten. A policy must then get its load objects anew.
    """

    def __init__(self) -> None:
        self.is_used = False
        self.version = 0
        self._loads: dict[Replica, Load] = {}

    def of(self, replicas: Iterable[Replica]) -> list[Load]:
        """Return the load of each replica: always the same object for one replica, at first with the record's load."""
        loads = self._loads
        return [loads.get(replica) or self._begin(replica) for replica in replicas]

    def forget(self, replica: Replica) -> None:
        """Forget the load of a replica that was removed."""
        if self._loads.pop(replica, None) is not None:
            self.version += 1

    def begin_read(self) -> None:
        """Begin to read the loads. They will contain the sessions of all picks until now."""
        self.is_used = False
        for load in self._loads.values():
            load.recent = 0

    def update(self, in_flight: Mapping[str, int]) -> None:
        """Take over the loads that were read, by canonical url. A replica that is not among them has load 0."""
        for replica, load in self._loads.items():
            load.count = in_flight.get(replica.key, 0) + load.recent

    def _begin(self, replica: Replica) -> Load:
        load = self._loads[replica] = Load(replica.in_flight)
        return load
