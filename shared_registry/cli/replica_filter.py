"""Which replicas `shared-registry status` shows, and in which order."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from shared_registry.admin.troubles import is_well
from shared_registry.model import EVERY_REPLICA, LabelSelector, ReplicaRecord, ReplicaStatus


class SortField(enum.StrEnum):
    """What the replicas can be sorted by."""

    ORDER = "order"
    NAME = "name"
    URL = "url"
    STATUS = "status"
    SINCE = "since"
    SESSIONS = "sessions"
    FREE = "free"
    LATENCY = "latency"
    FAILURES = "failures"


_STATUS_ORDER = (ReplicaStatus.UNHEALTHY, ReplicaStatus.UNKNOWN, ReplicaStatus.HEALTHY)
_KEYS: dict[SortField, Callable[[ReplicaRecord], Any]] = {
    SortField.NAME: lambda one: (one.endpoint.name is None, one.endpoint.name or ""),
    SortField.URL: lambda one: one.endpoint.url,
    SortField.STATUS: lambda one: (is_well(one), _STATUS_ORDER.index(one.health.status)),
    SortField.SINCE: lambda one: -(one.status_since or 0.0),
    SortField.SESSIONS: lambda one: -one.in_flight,
    SortField.FREE: lambda one: one.endpoint.capacity - one.in_flight if one.endpoint.capacity else float("inf"),
    SortField.LATENCY: lambda one: -(one.health.last_latency_ms or 0.0),
    SortField.FAILURES: lambda one: -one.health.consecutive_failures,
}
"""The worst, the latest and the largest come first, except with `free`: there the fullest replicas do."""


@dataclass(frozen=True, slots=True)
class ReplicaFilter:
    """Which replicas are shown, and how.

    Attributes:
        is_wide: Show all columns, however long the lines become.
        only_unwell: Leave out the replicas that are well.
        labels: Show only the replicas that it selects.
        sort: The order; ties keep the configured order.
    """

    is_wide: bool = False
    only_unwell: bool = False
    labels: LabelSelector = EVERY_REPLICA
    sort: SortField = SortField.ORDER

    def of(self, replicas: Sequence[ReplicaRecord]) -> list[ReplicaRecord]:
        """Return the replicas to show, in order."""
        chosen = [
            one
            for one in replicas
            if self.labels.matches(one.endpoint.labels) and not (self.only_unwell and is_well(one))
        ]
        key = _KEYS.get(self.sort)
        return sorted(chosen, key=key) if key else chosen


SHOW_ALL = ReplicaFilter()
