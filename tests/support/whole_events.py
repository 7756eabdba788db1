"""Gives the events of several replicas their records, as a mirror does that has followed from the beginning."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from shared_registry.model import Event, ReplicaRecord


def with_records(events: Iterable[Event]) -> list[Event]:
    """Return the events, with one about each replica in place of one about several. None must be missing."""
    records: dict[str, ReplicaRecord] = {}
    whole = []
    for event in events:
        for change in event.changes:
            record = event.after(change, records[change.key])
            whole.append(replace(event, reason=change.reason, record=record, changes=()))
        if not event.changes:
            whole.append(event)
        records.update({record.key: record for record in event.records(records.get)})
    return whole
