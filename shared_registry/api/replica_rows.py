"""The rows of replicas on the dashboard. Pure."""

from __future__ import annotations

import json

from shared_registry.model import NO_DOUBT, Doubt, Plan, ReplicaRecord, prober_of


def replica_row(record: ReplicaRecord, plan: Plan | None, flaps: int) -> str:
    """Return a replica as a JSON array, in the order of `COLUMNS` in dashboard.js. The texts are as others wrote them.

    Args:
        record: The replica.
        plan: How routers share the probing.
        flaps: How often its status has changed lately.
    """
    endpoint, health = record.endpoint, record.health
    row = (
        record.key,
        endpoint.name or "",
        endpoint.url,
        endpoint.primary,
        health.status.value,
        record.admin.value,
        record.in_flight,
        endpoint.capacity,
        health.last_latency_ms,
        health.last_ok_at,
        record.status_since,
        record.last_error,
        record.admin_since,
        record.admin_reason,
        record.admin_by,
        record.ejected_until,
        _doubt_text(record.doubt),
        record.doubt.suspected_at if record.doubt.suspicion else None,
        prober_of(record, plan, None) if plan is not None else record.doubt.prober,
        flaps,
        str(endpoint.labels),
    )
    return json.dumps(row, separators=(",", ":"))


def _doubt_text(doubt: Doubt) -> str:
    """Return who doubts a replica, who was asked about it, and what they have answered."""
    if doubt is NO_DOUBT:
        return ""
    facts = {
        "suspected by": doubt.suspected_by if doubt.suspicion else "",
        "asked": " ".join(doubt.asked),
        "reached by": doubt.reached_by,
        "not reached by": " ".join(doubt.unreached_by),
    }
    return "; ".join(f"{what} {who}" for what, who in facts.items() if who)
