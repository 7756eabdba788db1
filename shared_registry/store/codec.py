"""Redis text to model: hashes, stream entries and script replies. Milliseconds become seconds here.

What does not parse was not written by this package: it is a `KeyConflict` that names the field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from shared_registry.errors import KeyConflict
from shared_registry.model import (
    AdminState,
    Event,
    EventKind,
    Leader,
    ReplicaEndpoint,
    ReplicaHealth,
    ReplicaRecord,
    ReplicaStatus,
    RouterInfo,
    RouterRecord,
    Source,
)

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
    read = _Fields(f"replica {key}", fields)
    endpoint = ReplicaEndpoint(
        url=read("url", str),
        name=read("name", str) or None,
        primary=read("primary", str) == "1",
        weight=read("weight", float),
        capacity=read("capacity", int),
        order=read("order", int),
    )
    health = ReplicaHealth(
        status=read("status", ReplicaStatus),
        last_ok_at=read.optional_seconds("last_ok_at_ms"),
        last_failure_at=read.optional_seconds("last_failure_at_ms"),
        consecutive_failures=read("consecutive_failures", int),
        consecutive_successes=read("consecutive_successes", int),
        last_latency_ms=read.optional("last_latency_ms", float),
    )
    return ReplicaRecord(
        key=key,
        endpoint=endpoint,
        health=health,
        incarnation=read("incarnation", str),
        source=read("source", Source),
        registered_at=read.optional_seconds("registered_at_ms"),
        status_since=read.optional_seconds("status_since_ms"),
        last_error=read.optional("last_error", str) or "",
        admin=read("admin", AdminState),
        admin_since=read.optional_seconds("admin_since_ms"),
        admin_reason=read.optional("admin_reason", str) or "",
        removes_when_drained=read.optional("removes_when_drained", str) == "1",
        in_flight=read.optional("in_flight", int) or 0,
        slow_start_seconds=read.optional_seconds("slow_start_ms"),
        revision=revision or read("revision", str),
        restored_from=read.optional("restored_from", str) or "",
    )


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
RESTORED_FIELDS = 21


def restored_entry(kind: str, record: ReplicaRecord) -> list[str]:
    """Return what `restore_view` takes for one replica: kind, url, as of when it is known, and its hash in order."""
    endpoint, health = record.endpoint, record.health
    return [
        kind,
        record.key,
        record.restored_from,
        endpoint.url,
        endpoint.name or "",
        "1" if endpoint.primary else "0",
        repr(endpoint.weight),
        str(endpoint.capacity),
        str(endpoint.order or 0),
        record.source.value,
        record.incarnation,
        _optional_milliseconds(record.registered_at),
        _optional_milliseconds(record.admin_since),
        record.admin.value,
        record.admin_reason,
        "1" if record.removes_when_drained else "0",
        health.status.value,
        _optional_milliseconds(record.status_since),
        str(health.consecutive_failures),
        str(health.consecutive_successes),
        _optional_milliseconds(health.last_ok_at),
        _optional_milliseconds(health.last_failure_at),
        "" if health.last_latency_ms is None else f"{health.last_latency_ms:.3f}",
        record.last_error,
    ]


def removed_entry(kind: str, key: str, restored_from: str = "") -> list[str]:
    """Return what `restore_view` takes for a replica that is known to be removed, or is not known."""
    return [kind, key, restored_from, *[""] * RESTORED_FIELDS]


def _optional_milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else milliseconds(seconds)


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
        self._fields = fields

    def __call__(self, name: str, parse: Callable[[str], T]) -> T:
        try:
            return parse(self._fields[name])
        except KeyError:
            raise KeyConflict(f"{self._what}: field {name} is missing; run `shared-registry check`") from None
        except ValueError:
            raise KeyConflict(
                f"{self._what}: field {name} holds {self._fields[name]!r}; run `shared-registry check`"
            ) from None

    def optional(self, name: str, parse: Callable[[str], T]) -> T | None:
        return self(name, parse) if name in self._fields else None

    def optional_seconds(self, name: str) -> float | None:
        value = self.optional(name, int)
        return None if value is None else value / 1000
