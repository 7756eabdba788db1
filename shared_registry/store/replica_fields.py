"""The table of a replica's fields. Parsing, registration, restoration and every JSON document are derived from it.

A new field needs an attribute in `model` and a row here. Lua receives fields by name. A script contains only the names
of fields that it uses itself.
"""

from __future__ import annotations

import enum
import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from shared_registry.model import (
    NO_DOUBT,
    AdminState,
    Doubt,
    Labels,
    Plan,
    ReplicaEndpoint,
    ReplicaHealth,
    ReplicaRecord,
    ReplicaStatus,
    Source,
    prober_of,
    read_source,
)


class Group(enum.Enum):
    """The group of a field, which decides who writes it and whether it is restored after a loss of history."""

    SPEC = "spec"
    """The configured spec. `register_replica` writes it. It is restored."""
    OPERATION = "operation"
    """Actions of operators and programs, such as the admin state. It is restored."""
    HEALTH = "health"
    """Results of probes. It is restored if no later probe is known."""
    PRESENT = "present"
    """Data of the present history. It is never restored."""


class Document(enum.Flag):
    """The JSON documents that describe a replica."""

    NONE = 0
    STATUS = enum.auto()
    """`shared-registry status --json` and a router's `/status`."""
    EVENT = enum.auto()
    """`shared-registry events --json`."""
    BOTH = STATUS | EVENT


def _as_it_is(value: object) -> object:
    return value


@dataclass(frozen=True, slots=True)
class Form:
    """The conversion of a value to and from text in Redis, and to JSON.

    Attributes:
        read: Returns the value; raises ValueError if the text is malformed.
        write: Returns the text, or `None` if the hash has no such field for this value.
        show: Returns the value for JSON.
        take: Returns the value of what JSON shows.
    """

    read: Callable[[str], Any]
    write: Callable[[Any], str | None] = str
    show: Callable[[Any], object] = _as_it_is
    take: Callable[[Any], object] = _as_it_is


TEXT = Form(str)
OPTIONAL_TEXT = Form(lambda text: text or None, lambda value: value or "")
ABSENT_TEXT = Form(lambda text: text or None, lambda value: value or None)
REMARK = Form(str, lambda text: text or None)
OPTIONAL_PORT = Form(lambda text: int(text) if text else None, lambda value: None if value is None else str(value))
FLAG = Form(lambda text: text == "1", lambda value: "1" if value else "0")
NUMBER = Form(functools.lru_cache(1000)(float), lambda value: repr(float(value)))
"""A configured number, such as a weight. Thousands of replicas have the same, as many have the same times."""
COUNT = Form(int)
ABSENT_COUNT = Form(int, lambda count: str(count) if count else None)
ORDER = Form(int, lambda value: str(value or 0))
TIME = Form(
    functools.lru_cache(1000)(lambda text: int(text) / 1000),
    lambda seconds: None if seconds is None else f"{seconds * 1000:.0f}",
)
LABELS = Form(Labels.parse, str, dict, Labels)
NAMES = Form(lambda text: tuple(text.split()), " ".join, list, tuple)
LATENCY = Form(float, lambda value: None if value is None else f"{value:.3f}")


def _word(kind: type[enum.Enum]) -> Form:
    return Form(functools.lru_cache(100)(kind), lambda value: str(value.value), lambda value: value.value, kind)


@dataclass(frozen=True, slots=True)
class ReplicaField:
    """One field of a replica.

    Attributes:
        name: The name in the replica's hash and in its events.
        holder: The class of the data model that has the attribute.
        attribute: The name of the attribute, and of the JSON member.
        form: The conversion to and from text.
        group: See `Group`.
        is_required: Whether a hash without the field is malformed. Otherwise the model's default is used.
        is_in_events: Whether events carry the field. `lua/lib/events.lua` names the fields that they do not carry.
        documents: The JSON documents that show the field.
        as_text: Returns a value of the spec as text for people; empty if it is not shown.
    """

    name: str
    holder: type
    attribute: str
    form: Form
    group: Group
    is_required: bool = False
    is_in_events: bool = True
    documents: Document = Document.NONE
    as_text: Callable[[Any], str] | None = None

    def of(self, record: ReplicaRecord) -> Any:
        """Return the field's value in a record."""
        return getattr(_part(record, self.holder), self.attribute)


def _part(record: ReplicaRecord, holder: type) -> object:
    if holder is ReplicaEndpoint:
        return record.endpoint
    if holder is Doubt:
        return record.doubt
    return record.health if holder is ReplicaHealth else record


def _spec(name: str, form: Form, *, documents: Document = Document.BOTH, **more: Any) -> ReplicaField:
    return ReplicaField(name, ReplicaEndpoint, name, form, Group.SPEC, documents=documents, **more)


def _health(
    name: str, form: Form, *, attribute: str = "", documents: Document = Document.STATUS, **more: Any
) -> ReplicaField:
    return ReplicaField(name, ReplicaHealth, attribute or name, form, Group.HEALTH, documents=documents, **more)


def _record(name: str, form: Form, group: Group, *, attribute: str = "", **more: Any) -> ReplicaField:
    return ReplicaField(name, ReplicaRecord, attribute or name, form, group, **more)


def _doubt(name: str, form: Form, *, attribute: str = "", documents: Document = Document.NONE) -> ReplicaField:
    return ReplicaField(name, Doubt, attribute or name, form, Group.PRESENT, documents=documents)


STATUS, ADMIN, SOURCE = _word(ReplicaStatus), _word(AdminState), Form(functools.lru_cache(100)(read_source))

FIELDS = (
    _spec("url", TEXT, is_required=True),
    _spec("name", OPTIONAL_TEXT, is_required=True),
    _spec("primary", FLAG, is_required=True, as_text=lambda primary: "primary" if primary else "secondary"),
    _spec("weight", NUMBER, is_required=True, as_text=lambda weight: f"weight {weight:g}"),
    _spec("capacity", COUNT, is_required=True, as_text=lambda capacity: f"capacity {capacity or 'unlimited'}"),
    _spec("order", ORDER, is_required=True, documents=Document.EVENT),
    _spec("labels", LABELS, as_text=lambda labels: f"labels {labels}" if labels else ""),
    _spec("health_check_path", ABSENT_TEXT, as_text=lambda path: f"health check path {path}" if path else ""),
    _spec("health_check_port", OPTIONAL_PORT, as_text=lambda port: f"health check port {port}" if port else ""),
    _record("source", SOURCE, Group.OPERATION, is_required=True, documents=Document.STATUS),
    _record("incarnation", TEXT, Group.OPERATION, is_required=True),
    _record("registered_at_ms", TIME, Group.OPERATION, attribute="registered_at"),
    _record("in_flight", COUNT, Group.PRESENT, is_in_events=False, documents=Document.STATUS),
    _health("status", STATUS, is_required=True, documents=Document.BOTH),
    _record("status_since_ms", TIME, Group.HEALTH, attribute="status_since", documents=Document.STATUS),
    _record("slow_start_ms", TIME, Group.PRESENT, attribute="slow_start_seconds"),
    _record("admin", ADMIN, Group.OPERATION, is_required=True, documents=Document.BOTH),
    _record("admin_since_ms", TIME, Group.OPERATION, attribute="admin_since", documents=Document.STATUS),
    _record("admin_reason", TEXT, Group.OPERATION, documents=Document.STATUS),
    _record("admin_by", REMARK, Group.OPERATION, documents=Document.STATUS),
    _record("admin_by_at_ms", TIME, Group.OPERATION, attribute="admin_by_at"),
    _record("removes_when_drained", FLAG, Group.OPERATION),
    _record("ejected_until_ms", TIME, Group.PRESENT, attribute="ejected_until", documents=Document.BOTH),
    _record("ejections", ABSENT_COUNT, Group.PRESENT, documents=Document.STATUS),
    _health("last_ok_at_ms", TIME, attribute="last_ok_at"),
    _health("last_failure_at_ms", TIME, attribute="last_failure_at"),
    _health("last_latency_ms", LATENCY),
    _record("last_error", REMARK, Group.HEALTH, documents=Document.STATUS),
    _health("consecutive_failures", COUNT, is_required=True),
    _health("consecutive_successes", COUNT, is_required=True),
    _doubt("prober", REMARK, documents=Document.STATUS),
    _doubt("prober_until_ms", TIME, attribute="prober_until"),
    _doubt("suspicion", TEXT),
    _doubt("suspected_by", REMARK, documents=Document.STATUS),
    _doubt("suspected_at_ms", TIME, attribute="suspected_at"),
    _doubt("suspected_until_ms", TIME, attribute="suspected_until"),
    _doubt("suspected_address", REMARK),
    _doubt("asked", NAMES, documents=Document.STATUS),
    _doubt("unreached_by", NAMES, documents=Document.STATUS),
    _doubt("reached_by", REMARK, documents=Document.STATUS),
    _doubt("refuted_prober", REMARK, documents=Document.STATUS),
    _record("owner", REMARK, Group.OPERATION, documents=Document.BOTH),
    _record("instance", REMARK, Group.OPERATION),
    _record("ttl_ms", TIME, Group.OPERATION, attribute="ttl_seconds", documents=Document.STATUS),
    _record(
        "last_heartbeat_at_ms",
        TIME,
        Group.PRESENT,
        attribute="last_heartbeat_at",
        is_in_events=False,
        documents=Document.STATUS,
    ),
    _record("missing_since_ms", TIME, Group.PRESENT, attribute="missing_since", is_in_events=False),
    _record("expired_at_ms", TIME, Group.OPERATION, attribute="expired_at", documents=Document.STATUS),
    _record("withdrawn_at_ms", TIME, Group.OPERATION, attribute="withdrawn_at"),
    _record("removed_instance", REMARK, Group.OPERATION),
    _record("revision", TEXT, Group.PRESENT, is_required=True, is_in_events=False),
    _record("restored_from", TEXT, Group.PRESENT),
)
"""All fields, in the order in which JSON documents show them."""
ONLY_FOR_SCRIPTS = (
    "spec_request",
    "failing_witness",
    "prober_report",
    "reported_at_ms",
    "sessions_failing_since_ms",
    "session_failures",
    "failing_client",
    "announced_at_ms",
    "unreached_from",
    "returned_at_ms",
    "removed_by",
)
"""Fields of the hash that only scripts read and write. Events do not carry them."""

HELD_BY: Mapping[type, tuple[ReplicaField, ...]] = MappingProxyType(
    {
        holder: tuple(field for field in FIELDS if field.holder is holder)
        for holder in (ReplicaEndpoint, ReplicaHealth, Doubt, ReplicaRecord)
    }
)
HEALTH_NAMES = tuple(field.name for field in FIELDS if field.group is Group.HEALTH)
_RESTORED = tuple(field for field in FIELDS if field.group is not Group.PRESENT)
_REQUIRED = tuple(field for field in _RESTORED if field.is_required)


def spec_fields(endpoint: ReplicaEndpoint) -> dict[str, str]:
    """Return the fields of a spec, without its order, which `register_replica` may have to choose.

    An absent field is an empty text here. `register_replica` names those that it removes from the hash then.
    """
    fields = (field for field in HELD_BY[ReplicaEndpoint] if field.name != "order")
    return {field.name: field.form.write(getattr(endpoint, field.attribute)) or "" for field in fields}


def restored_fields(record: ReplicaRecord) -> dict[str, str]:
    """Return the fields of a replica's hash that are restored after a loss of history."""
    return _written(record, _RESTORED)


def removed_fields(key: str, instance: str = "") -> dict[str, str]:
    """Return the fields of a replica whose removal is all that is known: those that every reader requires.

    Args:
        key: Its canonical url.
        instance: The instance that an operator removed; empty if the replica was not announced.
    """
    fields = _written(ReplicaRecord(key, ReplicaEndpoint(key), source=Source.EXPLICIT), _REQUIRED)
    return fields | {"removed_instance": instance} if instance else fields


def _written(record: ReplicaRecord, fields: tuple[ReplicaField, ...]) -> dict[str, str]:
    texts = ((field.name, field.form.write(field.of(record))) for field in fields)
    return {name: text for name, text in texts if text is not None}


def spec_text(endpoint: ReplicaEndpoint) -> str:
    """Return a spec as text for people, without url and name."""
    texts = (field.as_text(getattr(endpoint, field.attribute)) for field in HELD_BY[ReplicaEndpoint] if field.as_text)
    return ", ".join(text for text in texts if text)


class ReplicaDocument:
    """One JSON document about replicas. It is prepared once, because a page may show thousands of replicas."""

    def __init__(self, which: Document, *, first: Sequence[str] = ()) -> None:
        """Find the members of the document.

        Args:
            which: The document.
            first: The members to show before the others.
        """
        fields = sorted(
            (field for field in FIELDS if which & field.documents),
            key=lambda field: first.index(field.attribute) if field.attribute in first else len(first),
        )
        self._names = tuple(field.attribute for field in fields)
        self._values = operator.attrgetter(*(f"{_WHERE[field.holder]}{field.attribute}" for field in fields))
        self._shown = tuple((one.attribute, one.form.show) for one in fields if one.form.show is not _as_it_is)
        self._has_prober = "prober" in self._names

    def of(self, record: ReplicaRecord, plan: Plan | None = None) -> dict[str, Any]:
        """Return a replica for JSON. Times are seconds since the Unix epoch on the Redis server's clock.

        Args:
            record: The replica.
            plan: How routers share the probing; its routers are named as probers.
        """
        document: dict[str, Any] = dict(zip(self._names, self._values(record), strict=True))
        for name, show in self._shown:
            document[name] = show(document[name])
        if plan is not None and self._has_prober:
            document["prober"] = prober_of(record, plan, None)
        return document


_WHERE = {ReplicaRecord: "", ReplicaEndpoint: "endpoint.", ReplicaHealth: "health.", Doubt: "doubt."}
_DOCUMENTS = {which: ReplicaDocument(which) for which in Document if which}


def replica_document(record: ReplicaRecord, which: Document, plan: Plan | None = None) -> dict[str, Any]:
    """Return a replica for JSON, as `ReplicaDocument.of` does."""
    return _DOCUMENTS[which].of(record, plan)


def record_in(document: Mapping[str, Any]) -> ReplicaRecord:
    """Return the replica in a document of `Document.STATUS`, with the defaults for what it does not show.

    Raises:
        LookupError, TypeError, ValueError: A member is missing or malformed.
    """
    parts: dict[type, dict[str, Any]] = {holder: {} for holder in HELD_BY}
    for field in FIELDS:
        if Document.STATUS in field.documents and (field.is_required or field.attribute in document):
            parts[field.holder][field.attribute] = field.form.take(document[field.attribute])
    doubt = parts[Doubt]
    # A prober alone is no doubt, but one of those that share the probing.
    has_doubt = any(value for name, value in doubt.items() if name != "prober")
    return ReplicaRecord(
        document["url"],
        ReplicaEndpoint(**parts[ReplicaEndpoint]),
        ReplicaHealth(**parts[ReplicaHealth]),
        Doubt(**doubt, suspicion=doubt.get("suspected_by", "")) if has_doubt else NO_DOUBT,
        **parts[ReplicaRecord],
    )


def documented(which: Document) -> list[str]:
    """Return the names of the members of such a document."""
    return [field.attribute for field in FIELDS if which & field.documents]
