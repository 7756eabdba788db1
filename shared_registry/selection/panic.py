"""Panic: so few replicas are healthy that sessions may use the others too. The verdicts may be wrong then.

Only active replicas that answered a probe within the last hour are counted and used. So replicas that have been dead
for long change nothing, and neither does a fleet that was just registered. A healthy replica counts whenever it
answered. An ejected replica counts as one that is not healthy.
Redis decides by the same rule for `acquire()` and the queue; see `lua/lib/spares.lua`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from shared_registry.model import AdminState, Replica

ANSWERED_SECONDS = 3600.0
"""How long after its last answer a replica that is not healthy still counts. `lua/lib/ready.lua` has it too."""


@dataclass(frozen=True, slots=True)
class Panic:
    """The state in which fewer than `percent` of the replicas that answered within the last hour are healthy.

    Attributes:
        healthy: How many of them are healthy.
        percent: The setting `panic_percent`.
        replicas: All active replicas that answered within the last hour, healthy or not.
        until: When the first of those that are not healthy will not have answered for an hour, in seconds since the
            Unix epoch.
    """

    healthy: int
    percent: float
    replicas: tuple[Replica, ...]
    until: float

    def __str__(self) -> str:
        return f"{self.healthy} of {len(self.replicas)} active replicas healthy, panic_percent is {self.percent:g}"

    @property
    def spares(self) -> tuple[Replica, ...]:
        """Those of `replicas` that are not healthy."""
        return tuple(replica for replica in self.replicas if not replica.record.is_selectable)


def find_panic(replicas: Iterable[Replica], percent: float, *, now: float) -> Panic | None:
    """Return the panic among the active ones of these replicas; `None` if there is none. At 0 percent there is none.

    Args:
        replicas: All registered replicas.
        percent: The setting `panic_percent`.
        now: The time, in seconds since the Unix epoch.
    """
    if percent <= 0:
        return None
    counted: list[Replica] = []
    healthy, until = 0, float("inf")
    for replica in replicas:
        if replica.admin is not AdminState.ACTIVE:
            continue
        if replica.record.is_selectable:
            healthy += 1
            counted.append(replica)
        elif (answered_at := replica.health.last_ok_at) is not None and now - answered_at <= ANSWERED_SECONDS:
            until = min(until, answered_at + ANSWERED_SECONDS)
            counted.append(replica)
    if healthy * 100 >= percent * len(counted):
        return None
    return Panic(healthy, percent, tuple(counted), until)
