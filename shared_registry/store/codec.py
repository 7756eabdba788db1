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
    StatusChange,
    make_endpoint,
    make_health,
    make_record,
)
from shared_registry.store.replica_fields import FIELDS, removed_fields, restored_fields

T = TypeVar("T")


def milliseconds(seconds: float) -> str:
    """Return a duration or time as whole milliseconds in decimal text."""
    return str(round(seconds * 1000))


def mark_of(text: str, revision: str) -> str:
    """Return the mark of an event by `mark` of `meta`; empty if it has none, or if `mark` is that of another event."""
    marked, _, mark = text.partition(" ")
    return mark if marked == revision else ""


def parse_record(key: str, fields: Mapping[str, str], revision: str | None = None) -> ReplicaRecord:
    """Return the record in a replica's hash, or in an event about the replica.

    Args:
        key: The replica's canonical url.
        fields: The hash, or the event's entry.
        revision: The event's id; `None` for the revision in the hash.

    Raises:
        KeyConflict: A field is missing or malformed.
    """
    try:
        values, doubt = _values(fields, revision)
    except (KeyError, ValueError):
        # The slower way finds and names the wrong field. It is only used after an error, because thousands of replicas
        # may be read at once.
        texts = fields if revision is None else {**fields, "revision": revision}
        read = _Fields(f"replica {key}", texts)
        for field in FIELDS:
            if field.is_required or field.name in texts:
                read(field.name, field.form.read)
        raise
    if values[_ADMIN_BY_AT] != values[_ADMIN_SINCE]:
        # A program of an earlier version set another state since, and wrote no author.
        values[_ADMIN_BY], values[_ADMIN_BY_AT] = "", None
    if values[_URL] == key:
        values[_URL] = key  # the same text once in memory
    values[_KEY] = key
    values[_ENDPOINT], values[_HEALTH] = make_endpoint(values[:_HEALTH_AT]), make_health(values[_HEALTH_AT:_RECORD_AT])
    if doubt:
        values[_DOUBT] = Doubt(**doubt)
    return make_record(values[_RECORD_AT:])


_DEFAULTS = [*make_endpoint.defaults.values(), *make_health.defaults.values(), *make_record.defaults.values()]
"""The attributes of an endpoint, of a health and of a record, one after the other."""
_HEALTH_AT = len(make_endpoint.defaults)
_RECORD_AT = _HEALTH_AT + len(make_health.defaults)
_IN_DOUBT = -1
_AT = {
    ReplicaEndpoint: {name: at for at, name in enumerate(make_endpoint.defaults)},
    ReplicaHealth: {name: at for at, name in enumerate(make_health.defaults, _HEALTH_AT)},
    ReplicaRecord: {name: at for at, name in enumerate(make_record.defaults, _RECORD_AT)},
}
_PLACES = {
    field.name: (
        _IN_DOUBT if field.holder is Doubt else _AT[field.holder][field.attribute],
        field.attribute,
        None if field.form.read is str else field.form.read,
    )
    for field in FIELDS
}
"""For each field: its place among the attributes, the attribute, and what reads it unless it is text."""
_REQUIRED = frozenset(field.name for field in FIELDS if field.is_required)
_REQUIRED_IN_EVENTS = _REQUIRED - {"revision"}
_URL, _REVISION = _AT[ReplicaEndpoint]["url"], _AT[ReplicaRecord]["revision"]
_KEY, _ENDPOINT, _HEALTH, _DOUBT = (_AT[ReplicaRecord][name] for name in ("key", "endpoint", "health", "doubt"))
_ADMIN_SINCE, _ADMIN_BY, _ADMIN_BY_AT = (
    _AT[ReplicaRecord][name] for name in ("admin_since", "admin_by", "admin_by_at")
)


def _values(texts: Mapping[str, str], revision: str | None) -> tuple[list[Any], dict[str, Any]]:
    """Return the attributes as in `_DEFAULTS`, and those of the doubt. Missing optional fields have the defaults.

    Raises:
        KeyError: A field is missing.
        ValueError: A field is malformed.
    """
    values, doubt = _DEFAULTS.copy(), {}
    place_of = _PLACES.get
    for name, text in texts.items():
        place = place_of(name)
        if place is not None:
            at, attribute, read = place
            value = text if read is None else read(text)
            if at == _IN_DOUBT:
                doubt[attribute] = value
            else:
                values[at] = value
    if revision is not None:
        values[_REVISION] = revision
    if not texts.keys() >= (_REQUIRED if revision is None else _REQUIRED_IN_EVENTS):
        raise KeyError
    return values, doubt


def parse_event(event_id: str, fields: Mapping[str, str]) -> Event:
    """Return the event in a stream entry. If only the replica's state in it is damaged, the event has no record.

    Raises:
        KeyConflict: A field of the event itself is missing or malformed.
    """
    texts = fields.get
    replica, record = texts("replica"), None
    if replica and "changes" not in fields:
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
        **_changes(event, read),
    )


_RARE = frozenset(("sit_out_ms", "questions", "shares", "changes"))
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


def _changes(event: Event, read: _Fields) -> dict[str, Any]:
    """Return the attributes of an event that carries several changes of status; see lua/lib/status_changes.lua."""
    if "changes" not in read.texts:
        return {}
    try:
        if event.kind not in _KINDS_OF_CHANGES:
            raise ValueError
        changes = _parse_changes(read.texts["changes"])
    except ValueError:
        return {}  # the event says that it is unreadable
    reasons = {change.reason for change in changes}
    return {
        "changes": changes,
        "slow_start_seconds": read.optional_seconds("slow_start_ms"),
        "reason": reasons.pop() if len(reasons) == 1 else "",
        "unreadable": "",
    }


_KINDS_OF_CHANGES = (EventKind.REPLICA_HEALTHY, EventKind.REPLICA_UNHEALTHY)


def _parse_changes(text: str) -> tuple[StatusChange, ...]:
    """Parse a line for each change, without calls of functions of Python: all routers parse all lines of a burst."""
    made, kind = tuple.__new__, StatusChange
    return tuple(
        [
            made(
                kind,
                (
                    key,
                    before,
                    int(failures) if failures else 0,
                    float(latency_ms) if latency_ms else None,
                    name,
                    tuple(unreached_by.split()) if unreached_by else (),
                    reason,
                ),
            )
            for line in text.split("\n")
            for key, before, failures, latency_ms, name, unreached_by, reason in [line.split("\t")]
        ]
    )


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
