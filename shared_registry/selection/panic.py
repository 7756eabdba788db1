"""Panic: when too few replicas are healthy, the verdicts are doubted, and sessions are spread over all.

Sending everything to the few that are left would bring these down too; and if what failed is the probing rather than
the replicas, nothing is lost. Replicas that were never judged do not count either way, and get no sessions: a fleet
that was just registered is no fleet in trouble.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from shared_registry.model import AdminState, Replica, ReplicaStatus


@dataclass(frozen=True, slots=True)
class Panic:
    """That fewer than `percent` of the judged replicas are healthy.

    Attributes:
        healthy: How many are.
        replicas: All that are active and were judged, healthy or not: those to spread over.
    """

    healthy: int
    percent: float
    replicas: tuple[Replica, ...]

    def __str__(self) -> str:
        return f"{self.healthy} of {len(self.replicas)} active replicas healthy, panic_percent is {self.percent:g}"


def find_panic(replicas: Iterable[Replica], percent: float) -> Panic | None:
    """Return whether there is panic among the active ones of these; never at 0 percent."""
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
