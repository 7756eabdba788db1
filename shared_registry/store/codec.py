"""Redis text to model: hashes, stream entries and script replies. Milliseconds become seconds here.

What does not parse was not written by this package: it is a `KeyConflict` that names the field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from shared_registry.errors import KeyConflict
from shared_registry.model import (
    Event,
    EventKind,
    Leader,
    ReplicaEndpoint,
    ReplicaHealth,
    ReplicaRecord,
    RouterInfo,
    RouterRecord,
)
from shared_registry.store.replica_fields import HELD_BY, removed_fields, restored_fields

T = TypeVar("T")


def milliseconds(seconds: float) -> str:
    """Return a duration or time as whole milliseconds in decimal text."""
    return str(round(seconds * 1000))


def parse_record(key: str, fields: Mapping[str, str], revision: str | None = None) -> ReplicaRecord:
    """Return the record that a replica's hash, or an event about it, holds.

    Args:
        key: The replica's canonical url.
        fields: The hash, or the event's entry.
        revision: The event's id; by default the hash's own.

    Raises:
        KeyConflict: A field is missing or malformed.
    """
    read = _Fields(f"replica {key}", fields if revision is None else {**fields, "revision": revision})
    return ReplicaRecord(
        key=key,
        endpoint=ReplicaEndpoint(**_values(read, ReplicaEndpoint)),
        health=ReplicaHealth(**_values(read, ReplicaHealth)),
        **_values(read, ReplicaRecord),
    )


def _values(read: _Fields, holder: type) -> dict[str, Any]:
    """Return the attributes of one part of a record; those that are not there have the model's defaults."""
    texts = read.texts
    there = [field for field in HELD_BY[holder] if field.is_required or field.name in texts]
    try:
        return {field.attribute: field.form.read(texts[field.name]) for field in there}
    except (KeyError, ValueError):
        # Slower, and names the field that is wrong: thousands of replicas are read at once, and rarely one of them is.
        return {field.attribute: read(field.name, field.form.read) for field in there}


def parse_event(event_id: str, fields: Mapping[str, str]) -> Event:
    """Return the event that a stream entry holds.

    Raises:
        KeyConflict: A field is missing or malformed.
    """
    read = _Fields(f"event {event_id}", fields)
    replica = read.optional("replica", str)
    return Event(
        id=event_id,
        kind=read("kind", _event_kind),
        at=read("at_ms", int) / 1000,
        previous=read("prev", str),
        router=read("router", str),
        epoch=read("epoch", int),
        by=read.optional("by", str) or "",
        reason=read.optional("reason", str) or "",
        record=parse_record(replica, fields, event_id) if replica else None,
        sit_out_seconds=read.optional_seconds("sit_out_ms"),
    )


def _event_kind(text: str) -> EventKind:
    """Read a kind; routers of several versions may share one event stream."""
    return EventKind(text) if text in _EVENT_KINDS else EventKind.OTHER


_EVENT_KINDS = {kind.value for kind in EventKind}


def restored_entry(kind: str, record: ReplicaRecord) -> list[str]:
    """Return what `restore_view` takes for one replica: kind, url, as of when it is known, and its hash."""
    return [kind, record.key, record.restored_from, *_pairs(restored_fields(record))]


def removed_entry(kind: str, key: str, restored_from: str = "") -> list[str]:
    """Return what `restore_view` takes for a replica that is known to be removed, or is not known."""
    return [kind, key, restored_from, *_pairs(removed_fields(key))]


def _pairs(fields: Mapping[str, str]) -> list[str]:
    """Return how many fields there are, then name and value of each."""
    return [str(len(fields)), *(text for pair in fields.items() for text in pair)]


def parse_events(values: Sequence[str]) -> list[Event]:
    """Return the events that end a script's reply: id, length, entry, for each."""
    return list(_reply_events(values))


def _reply_events(values: Sequence[str]) -> Iterator[Event]:
    at = 0
    while at < len(values):
        event_id, length = values[at], int(values[at + 1])
        entry = values[at + 2 : at + 2 + length]
        yield parse_event(event_id, dict(zip(entry[::2], entry[1::2], strict=True)))
        at += 2 + length


def parse_leader(fields: Mapping[str, str]) -> Leader | None:
    """Return who leads, or `None` for a hash that has expired.

    Raises:
        KeyConflict: A field is missing or malformed.
    """
    if not fields:
        return None
    read = _Fields("leader", fields)
    return Leader(read("router", str), read("epoch", int), read("elected_at_ms", int) / 1000)


def parse_router(key: str, fields: Mapping[str, str], expires_at_ms: float) -> RouterRecord:
    """Return the router that a hash and its place in `routers` hold.

    Raises:
        KeyConflict: A field is missing or malformed.
    """
    read = _Fields(f"router {key}", fields)
    info = RouterInfo(
        key=key,
        host=read("host", str),
        pid=read("pid", int),
        version=read("version", str),
        started_at=read("started_at_ms", int) / 1000,
        url=read.optional("url", str) or "",
        config_fingerprint=read.optional("config_fingerprint", str) or "",
    )
    return RouterRecord(info, (expires_at_ms - read("expiry_ms", int)) / 1000, expires_at_ms / 1000)


class _Fields:
    """Typed access to a mapping of text; errors name the field."""

    def __init__(self, what: str, fields: Mapping[str, str]) -> None:
        self._what = what
        self.texts = fields

    def __call__(self, name: str, parse: Callable[[str], T]) -> T:
        try:
            return parse(self.texts[name])
        except KeyError:
            raise KeyConflict(f"{self._what}: field {name} is missing; run `shared-registry check`") from None
        except ValueError:
            raise KeyConflict(
                f"{self._what}: field {name} holds {self.texts[name]!r}; run `shared-registry check`"
            ) from None

    def optional(self, name: str, parse: Callable[[str], T]) -> T | None:
        return self(name, parse) if name in self.texts else None

    def optional_seconds(self, name: str) -> float | None:
        value = self.optional(name, int)
        return None if value is None else value / 1000
