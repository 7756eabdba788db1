"""What is not well with a replica, in words: since when, why, by whom, and how many sessions are on it."""

from __future__ import annotations

from shared_registry.admin.durations import since
from shared_registry.model import AdminState, ReplicaRecord, ReplicaStatus


def is_well(record: ReplicaRecord) -> bool:
    """Whether a replica takes sessions, has no more of them than slots, and neither routers nor its source doubt it."""
    capacity = record.endpoint.capacity
    is_there = record.missing_since is None
    return record.is_selectable and is_there and not record.doubt.suspicion and not 0 < capacity < record.in_flight


def trouble_of(record: ReplicaRecord, now: float) -> str:
    """Return what is not well with a replica; empty if all is well.

    The text contains what others have written. Escape it for where it is shown.

    Args:
        record: The replica.
        now: The time on the Redis server's clock.
    """
    if is_well(record):
        return ""
    facts = [*_admin(record, now), *_health(record, now), *_limits(record, now), *_doubts(record)]
    sessions = record.in_flight
    facts.append("no sessions" if not sessions else f"{sessions} {'session' if sessions == 1 else 'sessions'} on it")
    return "; ".join(facts)


def _admin(record: ReplicaRecord, now: float) -> list[str]:
    if record.admin is AdminState.ACTIVE:
        return []
    lasts = f" since {since(now - record.admin_since)}" if record.admin_since is not None else ""
    by = f" by {record.admin_by}" if record.admin_by else ""
    reason = f": {record.admin_reason}" if record.admin_reason else ""
    then = ", then removed" if record.removes_when_drained else ""
    return [f"{record.admin.value}{lasts}{by}{then}{reason}"]


def _health(record: ReplicaRecord, now: float) -> list[str]:
    status = record.health.status
    if status is ReplicaStatus.HEALTHY or (record.admin is AdminState.DISABLED and not record.last_error):
        return []
    lasts = f" since {since(now - record.status_since)}" if record.status_since is not None else ""
    error = f": {record.last_error}" if record.last_error else ""
    word = "not probed yet" if status is ReplicaStatus.UNKNOWN and not record.last_error else status.value
    return [f"{word}{lasts}{error}"]


def _limits(record: ReplicaRecord, now: float) -> list[str]:
    capacity, found = record.endpoint.capacity, []
    if record.ejected_until is not None:
        found.append(f"ejected for another {since(max(record.ejected_until - now, 0.0))}, because sessions fail on it")
    if record.missing_since is not None:
        found.append(f"missing in {record.source} since {since(now - record.missing_since)}, and stays until confirmed")
    if 0 < capacity < record.in_flight:
        found.append(f"over its capacity of {capacity}")
    return found


def _doubts(record: ReplicaRecord) -> list[str]:
    doubt = record.doubt
    return [f"suspected by {doubt.suspected_by}"] if doubt.suspicion and doubt.suspected_by else []
