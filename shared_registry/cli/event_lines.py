"""The output of `shared-registry events`, as text and as JSON."""

from __future__ import annotations

from shared_registry.cli.console import printable, timestamp
from shared_registry.model import Event, EventKind, ReplicaRecord
from shared_registry.store.replica_fields import spec_text

_SPECS = (EventKind.REPLICA_REGISTERED, EventKind.REPLICA_UPDATED)


def event_line(event: Event) -> str:
    """Return an event as one line of text. It begins with the event's id, which `--after` accepts.

    Args:
        event: The event; one of those that `Event.apart` returns.
    """
    what = _replica(event, event.record) if event.record else _change(event) or _doubt(event) or _router(event)
    by = f" by {event.by}" if event.by and event.kind is not EventKind.REPLICA_CLEARED else ""
    reason = f": {event.reason}" if event.reason else ""
    return printable(f"{event.id}  {timestamp(event.at)}  {event.kind.value:<20}  {what}{by}{reason}")


def _replica(event: Event, record: ReplicaRecord) -> str:
    endpoint = record.endpoint
    label = f"{endpoint.name} {endpoint.url}" if endpoint.name else endpoint.url
    if event.kind in _SPECS:
        return f"{label} {spec_text(endpoint)}"
    if event.kind is EventKind.REPLICA_ADMIN:
        return f"{label} {record.admin.value}"
    if event.kind is EventKind.REPLICA_EJECTED and record.ejected_until is not None:
        return f"{label} for {record.ejected_until - event.at:.0f} s"
    if event.kind is EventKind.REPLICA_CLEARED:
        return f"{label} reached by {event.router}" + (f", not by {event.by}" if event.by else "")
    return label


def _change(event: Event) -> str:
    return " ".join(f"{one.name} {one.key}" if one.name else one.key for one in event.changes)


def _doubt(event: Event) -> str:
    """Return what an event says about replicas whose state it does not carry."""
    if event.kind is EventKind.REPLICA_EMPTIED:
        return f"{event.reported} has no session left"
    if event.reported:
        return f"{event.reported} failed a session of {event.router}"
    asked = sorted({router for question in event.questions for router in question.asked})
    urls = " ".join(question.key for question in event.questions)
    return f"{urls} not reached by {event.router}, asking {' '.join(asked)}" if urls else ""


def _router(event: Event) -> str:
    if event.kind is EventKind.LEADER_ELECTED:
        return f"{event.router} in epoch {event.epoch}"
    if event.kind is EventKind.PLAN_CHANGED:
        return f"shared by {' '.join(sorted(event.plan.routers))}" if event.plan else "the leader probes all replicas"
    if event.sit_out_seconds is not None:
        return f"{event.router} asked to step down, sits out {event.sit_out_seconds:g} s"
    return event.router
