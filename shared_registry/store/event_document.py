"""An event as JSON, for the command and for the API."""

from __future__ import annotations

from typing import Any

from shared_registry.model import Event
from shared_registry.store.replica_fields import Document, replica_document


def event_document(event: Event) -> dict[str, Any]:
    """Return an event as a JSON object."""
    record = event.record
    return {
        "id": event.id,
        "kind": event.kind.value,
        "at": event.at,
        "previous": event.previous,
        "router": event.router,
        "epoch": event.epoch,
        "by": event.by,
        "reason": event.reason,
        "sit_out_seconds": event.sit_out_seconds,
        "replica": record and replica_document(record, Document.EVENT),
        "reported": event.reported or None,
        "questions": [{"url": one.key, "asked": list(one.asked)} for one in event.questions],
        "changes": [
            {
                "url": one.key,
                "name": one.name or None,
                "consecutive_failures": one.failures,
                "last_latency_ms": one.latency_ms,
                "unreached_by": list(one.unreached_by),
                "reason": one.reason,
            }
            for one in event.changes
        ],
        "participants": sorted(event.plan.routers) if event.plan else None,
    }
