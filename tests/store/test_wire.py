"""What Redis holds as text becomes records and events, digit by digit; what does not parse is named."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_registry.errors import KeyConflict
from shared_registry.model import (
    ORIGIN,
    AdminState,
    Event,
    EventKind,
    Leader,
    ReplicaEndpoint,
    ReplicaHealth,
    ReplicaRecord,
    ReplicaStatus,
    Source,
)
from shared_registry.store.codec import (
    milliseconds,
    parse_event,
    parse_events,
    parse_leader,
    parse_record,
    removed_entry,
    restored_entry,
)

KEY = "http://10.0.0.1:8000"
HASH = {
    "restored_from": "5-0 old 7-0 older",
    "url": "http://10.0.0.1:8000/",
    "name": "a",
    "primary": "1",
    "weight": "0.30000000000000004",
    "capacity": "4",
    "order": "7",
    "labels": "gpu=h100,zone=a",
    "health_check_path": "/ready",
    "health_check_port": "8081",
    "incarnation": "abc",
    "source": "explicit",
    "registered_at_ms": "1700000000001",
    "status": "healthy",
    "status_since_ms": "1700000000002",
    "consecutive_failures": "1",
    "consecutive_successes": "2",
    "last_ok_at_ms": "1700000000003",
    "last_failure_at_ms": "1700000000004",
    "last_latency_ms": "12.346",
    "last_error": "refused",
    "admin": "draining",
    "admin_since_ms": "1700000000005",
    "admin_reason": "deploy",
    "admin_by": "ann@desk",
    "admin_by_at_ms": "1700000000005",
    "removes_when_drained": "1",
    "in_flight": "3",
    "slow_start_ms": "30000",
    "revision": "1700000000006-7",
}
RECORD = ReplicaRecord(
    restored_from="5-0 old 7-0 older",
    key=KEY,
    endpoint=ReplicaEndpoint(
        *("http://10.0.0.1:8000/", "a"),
        primary=True,
        weight=0.1 + 0.2,
        capacity=4,
        order=7,
        labels={"zone": "a", "gpu": "h100"},
        health_check_path="/ready",
        health_check_port=8081,
    ),
    health=ReplicaHealth(
        status=ReplicaStatus.HEALTHY,
        last_ok_at=1700000000.003,
        last_failure_at=1700000000.004,
        consecutive_failures=1,
        consecutive_successes=2,
        last_latency_ms=12.346,
    ),
    incarnation="abc",
    source=Source.EXPLICIT,
    registered_at=1700000000.001,
    status_since=1700000000.002,
    last_error="refused",
    admin=AdminState.DRAINING,
    removes_when_drained=True,
    admin_since=1700000000.005,
    admin_reason="deploy",
    admin_by="ann@desk",
    admin_by_at=1700000000.005,
    in_flight=3,
    slow_start_seconds=30.0,
    revision="1700000000006-7",
)
MAY_BE_MISSING = {
    "labels",
    "health_check_path",
    "health_check_port",
    "restored_from",
    "registered_at_ms",
    "status_since_ms",
    "last_ok_at_ms",
    "last_failure_at_ms",
    "last_latency_ms",
    "last_error",
    "admin_since_ms",
    "admin_reason",
    "admin_by",
    "admin_by_at_ms",
    "removes_when_drained",
    "in_flight",
    "slow_start_ms",
}
MALFORMED = {
    "weight": "heavy",
    "capacity": "1.5",
    "order": "first",
    "labels": "zone",
    "health_check_port": "eighty",
    "source": "nobody",
    "status": "fine",
    "consecutive_failures": "",
    "consecutive_successes": "two",
    "registered_at_ms": "1e3",
    "status_since_ms": "now",
    "last_ok_at_ms": "12.5",
    "last_failure_at_ms": "-",
    "last_latency_ms": "fast",
    "admin": "retired",
    "admin_since_ms": "then",
    "in_flight": "many",
    "slow_start_ms": "long",
}
EVENT = {"kind": "router_joined", "at_ms": "1700000000123", "prev": "1-2", "router": "r~1", "epoch": "9007199254740991"}


def test_a_hash_becomes_a_record() -> None:
    assert parse_record(KEY, HASH) == RECORD


def test_an_event_gives_its_revision_to_its_record() -> None:
    assert parse_record(KEY, HASH, "9-9") == replace(RECORD, revision="9-9")


def test_an_author_of_an_earlier_admin_state_is_dropped() -> None:
    record = parse_record(KEY, HASH | {"admin_since_ms": "1700000000006"})
    assert (record.admin, record.admin_by, record.admin_by_at) == (AdminState.DRAINING, "", None)


def test_a_time_that_never_happened_is_none() -> None:
    record = parse_record(KEY, {name: value for name, value in HASH.items() if name not in MAY_BE_MISSING})
    health = record.health
    assert (health.last_ok_at, health.last_failure_at, health.last_latency_ms) == (None, None, None)
    assert (record.registered_at, record.status_since, record.admin_since) == (None, None, None)
    assert (record.last_error, record.admin_reason, record.in_flight) == ("", "", 0)


def test_an_empty_name_is_none_and_only_1_is_primary() -> None:
    record = parse_record(KEY, HASH | {"name": "", "primary": "0"})
    assert (record.endpoint.name, record.endpoint.primary) == (None, False)


@pytest.mark.parametrize("name", sorted(HASH.keys() - MAY_BE_MISSING))
def test_a_missing_field_is_named(name: str) -> None:
    with pytest.raises(KeyConflict, match=f"replica {KEY}: field {name} is missing"):
        parse_record(KEY, {field: value for field, value in HASH.items() if field != name})


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_field_is_named_and_shown(name: str) -> None:
    with pytest.raises(KeyConflict, match=f"replica {KEY}: field {name} holds '{MALFORMED[name]}'"):
        parse_record(KEY, HASH | {name: MALFORMED[name]})


@given(st.floats(min_value=0, exclude_min=True, allow_infinity=False))
def test_every_weight_survives_its_text(weight: float) -> None:
    assert parse_record(KEY, HASH | {"weight": repr(weight)}).endpoint.weight == weight


@pytest.mark.parametrize("weight", [1e-7, 0.1 + 0.2, 1 / 3, 5e-324, 1e300])
def test_weights_at_the_limits_survive_their_text(weight: float) -> None:
    assert parse_record(KEY, HASH | {"weight": repr(weight)}).endpoint.weight == weight


@given(st.integers(0, 2**63))
def test_every_whole_number_survives_its_text(number: int) -> None:
    record = parse_record(KEY, HASH | {"capacity": str(number), "order": str(number), "in_flight": str(number)})
    assert (record.endpoint.capacity, record.endpoint.order, record.in_flight) == (number, number, number)
    assert parse_event("1-0", EVENT | {"epoch": str(number)}).epoch == number


@given(st.integers(0, 2**42))
def test_a_time_in_milliseconds_survives_seconds(at_ms: int) -> None:
    assert milliseconds(at_ms / 1000) == str(at_ms)
    assert parse_record(KEY, HASH | {"last_ok_at_ms": str(at_ms)}).health.last_ok_at == at_ms / 1000


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0"), (0.0004, "0"), (0.0006, "1"), (3.0, "3000"), (2.9999, "3000")]
)
def test_durations_are_whole_milliseconds(seconds: float, text: str) -> None:
    assert milliseconds(seconds) == text


def test_an_event_may_concern_no_replica() -> None:
    event = parse_event("5-1", EVENT)
    assert event == Event("5-1", EventKind.ROUTER_JOINED, 1700000000.123, "1-2", "r~1", 9007199254740991)


def test_an_event_about_a_replica_carries_its_record() -> None:
    entry = EVENT | HASH | {"kind": "replica_admin", "replica": KEY, "by": "me", "reason": "deploy"}
    del entry["in_flight"], entry["revision"]
    event = parse_event("5-1", entry)
    assert (event.by, event.reason) == ("me", "deploy")
    assert event.record == replace(RECORD, in_flight=0, revision="5-1")


@pytest.mark.parametrize("name", EVENT)
def test_a_missing_field_of_an_event_is_named(name: str) -> None:
    with pytest.raises(KeyConflict, match=f"event 5-1: field {name} is missing"):
        parse_event("5-1", {field: value for field, value in EVENT.items() if field != name})


@pytest.mark.parametrize(("name", "value"), [("at_ms", "noon"), ("epoch", "1.0")])
def test_a_malformed_field_of_an_event_is_named(name: str, value: str) -> None:
    with pytest.raises(KeyConflict, match=f"event 5-1: field {name} holds '{value}'"):
        parse_event("5-1", EVENT | {name: value})


def test_an_event_kind_of_a_later_version_is_kept() -> None:
    event = parse_event("5-1", EVENT | {"kind": "party"})
    assert (event.kind, event.id, event.previous) == (EventKind.OTHER, "5-1", "1-2")


def test_the_events_of_one_reply_form_a_chain() -> None:
    entry = [text for pair in EVENT.items() for text in pair]
    values = ["1-0", str(len(entry)), *entry, "2-0", str(len(entry) + 2), *entry, "by", "me"]
    assert [(event.id, event.by) for event in parse_events(values)] == [("1-0", ""), ("2-0", "me")]
    assert parse_events([]) == []


def test_a_leader_is_parsed_or_absent() -> None:
    fields = {"router": "r~1", "token": "secret", "epoch": "9007199254740991", "elected_at_ms": "1700000000123"}
    assert parse_leader(fields) == Leader("r~1", 9007199254740991, 1700000000.123)
    assert parse_leader({}) is None
    with pytest.raises(KeyConflict, match="leader: field epoch is missing"):
        parse_leader({name: value for name, value in fields.items() if name != "epoch"})


NOT_RESTORED = {"in_flight", "revision", "restored_from", "slow_start_ms"}


def entry_of(texts: list[str]) -> tuple[list[str], dict[str, str]]:
    """Return an entry's head, and its fields."""
    head, pairs = texts[:3], texts[4:]
    assert len(pairs) == 2 * int(texts[3])
    return head, dict(zip(pairs[::2], pairs[1::2], strict=True))


def test_a_record_put_back_is_unchanged() -> None:
    head, fields = entry_of(restored_entry("replica", RECORD))
    assert head == ["replica", KEY, HASH["restored_from"]]
    assert fields == {name: text for name, text in HASH.items() if name not in NOT_RESTORED}
    there = fields | {"restored_from": HASH["restored_from"]}
    assert parse_record(KEY, there, RECORD.revision) == replace(RECORD, in_flight=0, slow_start_seconds=None)


def test_a_record_put_back_omits_what_never_happened() -> None:
    _, fields = entry_of(restored_entry("replica", ReplicaRecord(KEY, ReplicaEndpoint(KEY))))
    assert fields.keys() & MAY_BE_MISSING == {"labels", "admin_reason", "removes_when_drained"}
    assert parse_record(KEY, fields, ORIGIN) == ReplicaRecord(KEY, ReplicaEndpoint(KEY, order=0))


def test_a_removed_replica_put_back_can_be_read() -> None:
    head, fields = entry_of(removed_entry("removed", KEY, "1-0 old"))
    assert head == ["removed", KEY, "1-0 old"]
    record = parse_record(KEY, fields, ORIGIN)
    assert (record.key, record.source, record.incarnation) == (KEY, Source.EXPLICIT, "")


def test_fields_of_a_later_version_are_ignored() -> None:
    later = HASH | {"colour": "blue", "mood": ""}
    assert parse_record(KEY, later) == RECORD
    entry = EVENT | later | {"kind": "replica_updated", "replica": KEY}
    assert parse_event("5-1", entry).record == replace(RECORD, revision="5-1")


def test_an_infinite_number_is_no_usable_weight() -> None:
    """The settings refuse such weights; a hash that holds one still parses, and `check` reports it."""
    assert math.isinf(parse_record(KEY, HASH | {"weight": "inf"}).endpoint.weight)
