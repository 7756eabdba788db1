"""The output of `shared-registry events`, as text and as JSON."""

from __future__ import annotations

from typing import Any

from shared_registry.cli.console import printable, timestamp
from shared_registry.model import Event, EventKind, ReplicaRecord
from shared_registry.store.replica_fields import Document, replica_document, spec_text

_SPECS = (EventKind.REPLICA_REGISTERED, EventKind.REPLICA_UPDATED)


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
    }


def event_line(event: Event) -> str:
    """Return an event as one line of text. It begins with the event's id, which `--after` accepts."""
    what = _replica(event, event.record) if event.record else _router(event)
    by = f" by {event.by}" if event.by else ""
    reason = f": {event.reason}" if event.reason else ""
    return printable(f"{event.id}  {timestamp(event.at)}  {event.kind.value:<20}  {what}{by}{reason}")


def _replica(event: Event, record: ReplicaRecord) -> str:
    endpoint = record.endpoint
    label = f"{endpoint.name} {endpoint.url}" if endpoint.name else endpoint.url
    if event.kind in _SPECS:
        return f"{label} {spec_text(endpoint)}"
    if event.kind is EventKind.REPLICA_ADMIN:
        return f"{label} {record.admin.value}"
    return label


def _router(event: Event) -> str:
    if event.kind is EventKind.LEADER_ELECTED:
        return f"{event.router} in epoch {event.epoch}"
    if event.sit_out_seconds is not None:
        return f"{event.router} asked to step down, sits out {event.sit_out_seconds:g} s"
    return event.router
