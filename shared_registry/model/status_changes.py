"""Changes of status that one event carries without the rest of their replicas."""

from __future__ import annotations

from typing import NamedTuple

from shared_registry.model.replicas import (
    NO_DOUBT,
    Doubt,
    ReplicaRecord,
    ReplicaStatus,
    make_health,
    make_record,
)


class StatusChange(NamedTuple):
    """One replica in an event of several; see lua/lib/status_changes.lua.

    Attributes:
        key: The replica's canonical url.
        before: The replica's revision before the event. What is known of another revision may lack a change in between.
        failures: How many probes in a row have failed.
        latency_ms: The latency of the probe that succeeded; `None` if one has failed.
        name: The replica's name; empty if it has none.
        unreached_by: See `Doubt`.
        reason: The error of the probe that has failed; empty if one has succeeded.
    """

    key: str
    before: str
    failures: int
    latency_ms: float | None
    name: str
    unreached_by: tuple[str, ...]
    reason: str

    def follows(self, known: ReplicaRecord) -> bool:
        """Return whether this is the next change of a replica that is known so."""
        return known.revision == self.before

    def after(
        self, known: ReplicaRecord, status: ReplicaStatus, at: float, revision: str, slow_start_seconds: float | None
    ) -> ReplicaRecord:
        """Return the replica after the change.

        Args:
            known: The replica before it.
            status: The new status.
            at: The time of the change.
            revision: The id of the event.
            slow_start_seconds: See `ReplicaRecord`.
        """
        before, error = known.health, known.last_error
        if status is _HEALTHY:
            health = _recovered(before, status, at, 0, 0, self.latency_ms)
        else:
            health = _failed(before, status, at, self.failures, 0)
            error = self.reason
        doubt = Doubt(unreached_by=self.unreached_by) if self.unreached_by else NO_DOUBT
        return _changed(known, health, doubt, at, error, slow_start_seconds, None, revision)


_HEALTHY = ReplicaStatus.HEALTHY
_COUNTS = "consecutive_failures", "consecutive_successes"
_recovered = make_health.replacing("status", "last_ok_at", *_COUNTS, "last_latency_ms")
_failed = make_health.replacing("status", "last_failure_at", *_COUNTS)
_changed = make_record.replacing(
    "health", "doubt", "status_since", "last_error", "slow_start_seconds", "ejected_until", "revision"
)
