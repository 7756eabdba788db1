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
        known: The load of each replica that `begin` was called with. Nobody else may change it.
    """

    def __init__(self) -> None:
        self.is_used = False
        self.known: dict[Replica, Load] = {}

    def begin(self, replicas: Iterable[Replica]) -> None:
        """Count the picks of these replicas from now on, unless they are counted. They begin with the record's load."""
        known = self.known
        for replica in replicas:
            if replica not in known:
                known[replica] = Load(replica.in_flight)

    def forget(self, replica: Replica) -> None:
        """Forget the load of a replica that was removed."""
        self.known.pop(replica, None)

    def begin_read(self) -> None:
        """Begin to read the loads. They will contain the sessions of all picks until now."""
        self.is_used = False
        for load in self.known.values():
            load.recent = 0

    def update(self, in_flight: Mapping[str, int]) -> None:
        """Take over the loads that were read, by canonical url. A replica that is not among them has load 0."""
        for replica, load in self.known.items():
            load.count = in_flight.get(replica.key, 0) + load.recent
