"""Panic: when too few replicas are healthy, sessions are spread over all active replicas that were ever judged.

Sending every session to the few healthy replicas would overload these too. If the probes failed and not the replicas,
no session is lost. Replicas without a verdict do not count, and get no sessions: a fleet that was just registered is
not in panic.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from shared_registry.model import AdminState, Replica, ReplicaStatus


@dataclass(frozen=True, slots=True)
class Panic:
    """The state in which fewer than `percent` of the judged replicas are healthy.

    Attributes:
        healthy: How many of the judged replicas are healthy.
        percent: The setting `panic_percent`.
        replicas: The replicas to spread sessions over: all that are active and were judged, healthy or not.
    """

    healthy: int
    percent: float
    replicas: tuple[Replica, ...]

    def __str__(self) -> str:
        return f"{self.healthy} of {len(self.replicas)} active replicas healthy, panic_percent is {self.percent:g}"


def find_panic(replicas: Iterable[Replica], percent: float) -> Panic | None:
    """Return the panic among the active ones of these replicas; `None` if there is none. At 0 percent there is none."""
    if percent <= 0:
        return None
    judged = [
        replica
        for replica in replicas
        if replica.admin is AdminState.ACTIVE and replica.health.status is not ReplicaStatus.UNKNOWN
    ]
    healthy = sum(replica.is_healthy for replica in judged)
    if not judged or healthy * 100 >= percent * len(judged):
        return None
    return Panic(healthy, percent, tuple(judged))
