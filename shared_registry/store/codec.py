"""Parses hashes, stream entries and script replies into the data model. Milliseconds become seconds here.

A value that cannot be parsed was not written by this package. It raises a `KeyConflict` that names the field.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from shared_registry.errors import KeyConflict
from shared_registry.model import (
    NO_DOUBT,
    RECORD_DEFAULTS,
    Doubt,
    Event,
    EventKind,
    Leader,
    Plan,
    ProberInfo,
    Question,
    ReplicaEndpoint,
    ReplicaHealth,
    ReplicaRecord,
    RouterInfo,
    RouterRecord,
    record_of,
)
from shared_registry.store.replica_fields import HELD_BY, removed_fields, restored_fields

T = TypeVar("T")


def milliseconds(seconds: float) -> str:
    """Return a duration or time as whole milliseconds in decimal text."""
    return str(round(seconds * 1000))


def parse_record(key: str, fields: Mapping[str, str], revision: str | None = None) -> ReplicaRecord:
    """Return the record in a replica's hash, or in an event about the replica.

    Args:
        key: The replica's canonical url.
        fields: The hash, or the event's entry.
        revision: The event's id; `None` for the revision in the hash.

    Raises:
        KeyConflict: A field is missing or malformed.
    """
    texts = fields if revision is None else {**fields, "revision": revision}
    try:
        endpoint, health, doubt, rest = _parts(texts)
    except (KeyError, ValueError):
        # The slower way finds and names the wrong field. It is only used after an error, because thousands of replicas
        # may be read at once.
        read = _Fields(f"replica {key}", texts)
        endpoint, health, doubt, rest = (
            {one.attribute: read(one.name, one.form.read) for one in fields if one.is_required or one.name in texts}
            for fields in HELD_BY.values()
        )
    if rest.get("admin_by_at") != rest.get("admin_since"):
        # A program of an earlier version set another state since, and wrote no author.
        rest.pop("admin_by", None)
        rest.pop("admin_by_at", None)
    if endpoint["url"] == key:
        endpoint["url"] = key  # the same text once in memory
    rest["key"], rest["endpoint"], rest["health"] = key, ReplicaEndpoint(**endpoint), ReplicaHealth(**health)
    rest["doubt"] = Doubt(**doubt) if doubt else NO_DOUBT
    return record_of(map(rest.get, RECORD_DEFAULTS, RECORD_DEFAULTS.values()))


_PLACES = {
    field.name: (part, field.attribute, None if field.form.read is str else field.form.read)
    for part, fields in enumerate(HELD_BY.values())
    for field in fields
}
"""For each field: the number of the part of a record that has it, the attribute, what reads it unless it is text."""
_REQUIRED = frozenset(field.name for fields in HELD_BY.values() for field in fields if field.is_required)


def _parts(texts: Mapping[str, str]) -> tuple[dict[str, Any], ...]:
    """Return the attributes of each part of a record. Missing optional fields are left to the model's defaults.

    Raises:
        KeyError: A field is missing.
        ValueError: A field is malformed.
    """
    parts: tuple[dict[str, Any], ...] = ({}, {}, {}, {})
    for name, text in texts.items():
        if place := _PLACES.get(name):
            part, attribute, read = place
            parts[part][attribute] = text if read is None else read(text)
    if not texts.keys() >= _REQUIRED:
        raise KeyError
    return parts


def parse_event(event_id: str, fields: Mapping[str, str]) -> Event:
    """Return the event in a stream entry. If only the replica's state in it is damaged, the event has no record.

    Raises:
        KeyConflict: A field of the event itself is missing or malformed.
    """
    texts = fields.get
    replica, record = texts("replica"), None
    if replica:
        with contextlib.suppress(KeyConflict):
            record = parse_record(replica, fields, event_id)
    try:
        event = Event(
            event_id,
            _event_kind(fields["kind"]),
            int(fields["at_ms"]) / 1000,
            fields["prev"],
            fields["router"],
            int(fields["epoch"]),
            by=texts("by", ""),
            reason=texts("reason", ""),
            record=record,
            unreadable=replica if replica and record is None else "",
            history_id=texts("history_id", ""),
            reported=texts("reported", ""),
            mark=texts("mark", ""),
            previous_mark=texts("prev_mark", ""),
        )
    except (KeyError, ValueError):
        read = _Fields(f"event {event_id}", fields)
        for name, parse in (("kind", str), ("at_ms", int), ("prev", str), ("router", str), ("epoch", int)):
            read(name, parse)
        raise
    if _RARE.isdisjoint(fields):
        return event
    read = _Fields(f"event {event_id}", fields)
    return replace(
        event,
        sit_out_seconds=read.optional_seconds("sit_out_ms"),
        questions=read.optional("questions", _parse_questions) or (),
        plan=_event_plan(read),
    )


_RARE = frozenset(("sit_out_ms", "questions", "shares"))
"""Fields that few events have."""


def _parse_questions(text: str) -> tuple[Question, ...]:
    """Parse the questions of one event, a line each; see `suspect` in lua/lib/verdicts.lua."""
    questions = []
    for line in text.splitlines():
        try:
            key, incarnation, suspicion, until_ms, address, *asked = line.split(" ")
            until = None if until_ms == "-" else int(until_ms) / 1000
        except ValueError:
            continue  # a field of this replica is damaged; the other questions count
        questions.append(Question(key, incarnation, suspicion, until, "" if address == "-" else address, tuple(asked)))
    return tuple(questions)


def _event_plan(read: _Fields) -> Plan | None:
    """Parse the plan of one event: a line for each router, with its key and its buckets; see lua/write_plan.lua."""
    shares = read.optional("shares", lambda text: [line.partition(" ")[::2] for line in text.splitlines()])
    return Plan(read("plan", int), read("epoch", int), _owners(shares)) if shares else None


def parse_plan(fields: Mapping[str, str]) -> Plan | None:
    """Return the plan from its hash; `None` if there is none. See lua/lib/plan.lua.

    Raises:
        KeyConflict: A field is missing or malformed.
    """
    if not fields:
        return None
    read = _Fields("plan", fields)
    shares = [(name.removeprefix("share:"), text) for name, text in fields.items() if name.startswith("share:")]
    return Plan(read("number", int), read("epoch", int), _owners(shares))


def _owners(shares: Iterable[Sequence[str]]) -> dict[str, str]:
    return {bucket: router for router, buckets in shares for bucket in buckets.split()}


def parse_probers(members: Iterable[str]) -> list[ProberInfo]:
    """Return the routers that members of `probers` name. A malformed member is left to `check --repair`."""
    parts = (member.split(" ") for member in members)
    return [ProberInfo(*words) for words in parts if len(words) == 3]


def _event_kind(text: str) -> EventKind:
    """Parse an event's kind. Routers of later versions may write kinds that this version does not know."""
    return _EVENT_KINDS.get(text, EventKind.OTHER)


_EVENT_KINDS = {kind.value: kind for kind in EventKind}


def restored_entry(kind: str, record: ReplicaRecord) -> list[str]:
    """Return the entry of `restore_view` for one replica: kind, url, `restored_from`, and the fields of its hash."""
    return [kind, record.key, record.restored_from, *_pairs(restored_fields(record))]


def removed_entry(kind: str, key: str, restored_from: str = "", instance: str = "") -> list[str]:
    """Return the entry of `restore_view` for a replica that is removed, or absent from the view."""
    return [kind, key, restored_from, *_pairs(removed_fields(key, instance))]


def _pairs(fields: Mapping[str, str]) -> list[str]:
    """Return the number of fields, then name and value of each."""
    return [str(len(fields)), *(text for pair in fields.items() for text in pair)]


def known_events(entries: Iterable[tuple[str, Mapping[str, str]]]) -> list[Event]:
    """Return the events among stream entries. An entry that is no event, which somebody else wrote, is left out."""
    events = []
    for event_id, fields in entries:
        with contextlib.suppress(KeyConflict):
            events.append(parse_event(event_id, fields))
    return events


def parse_events(values: Sequence[str]) -> list[Event]:
    """Return the events at the end of a script's reply, each as id, length, entry."""
    return list(_reply_events(values))


def _reply_events(values: Sequence[str]) -> Iterator[Event]:
    at = 0
    while at < len(values):
        event_id, length = values[at], int(values[at + 1])
        entry = values[at + 2 : at + 2 + length]
        yield parse_event(event_id, dict(zip(entry[::2], entry[1::2], strict=True)))
        at += 2 + length


def parse_leader(fields: Mapping[str, str]) -> Leader | None:
    """Return the leader from its hash; `None` if the hash has expired.

    Raises:
        KeyConflict: A field is missing or malformed.
    """
    if not fields:
        return None
    read = _Fields("leader", fields)
    return Leader(read("router", str), read("epoch", int), read("elected_at_ms", int) / 1000)


def parse_router(key: str, fields: Mapping[str, str], expires_at_ms: float) -> RouterRecord:
    """Return a router from its hash and its score in `routers`.

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
        cluster=read.optional("cluster", str) or "",
        machine=read.optional("machine", str) or "",
        probe_print=read.optional("probe_print", str) or "",
        trouble=read.optional("trouble", str) or "",
        probing=read.optional("probing", str) or "",
        view_age_seconds=read.measured_seconds("view_age_ms"),
        probe_age_seconds=read.measured_seconds("probe_age_ms"),
        probe_lag_seconds=read.measured_seconds("probe_lag_ms"),
    )
    return RouterRecord(info, (expires_at_ms - read("expiry_ms", int)) / 1000, expires_at_ms / 1000)


class _Fields:
    """Typed access to a mapping of text. Errors name the field."""

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

    def measured_seconds(self, name: str) -> float | None:
        """Return a measured duration. Its field is empty if nothing was measured, and may be missing."""
        return self.optional_seconds(name) if self.texts.get(name) else None

    def optional_seconds(self, name: str) -> float | None:
        value = self.optional(name, int)
        return None if value is None else value / 1000
