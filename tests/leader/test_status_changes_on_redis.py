"""Changes of status that one report makes are one event, from which mirrors find out all that changed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shared_registry.model import Event, EventKind, ReplicaRecord
from shared_registry.store.codec import parse_event
from tests.support.space import A, B, C, Space

URLS = [A, B, C]
SOME = "http://127.0.0.9:1"


async def known(space: Space) -> dict[str, ReplicaRecord]:
    return await space.reader.records(URLS)


def folded(before: dict[str, ReplicaRecord], events: list[Event]) -> dict[str, ReplicaRecord]:
    """Return what a mirror knows that knew this before, and reads these events."""
    records = dict(before)
    for event in events:
        for record in event.records(records.get):
            records[record.key] = records[record.key].after_event(record)
    return records


def in_events(record: ReplicaRecord) -> ReplicaRecord:
    """Return what events say of a replica: the others may be older."""
    return replace(record, in_flight=0)


async def added(space: Space, status: str = "healthy") -> int:
    """Register replicas of all kinds, and return the leader's epoch."""
    await space.add(A, name="gpu one", primary=True, labels={"zone": "a"}, capacity=4)
    await space.add(B, weight=2.5)
    await space.add(C, name="gpu-3")
    for url in URLS:
        await space.make(status, url)
    return await space.elect()


def planted(space: Space, **fields: object) -> None:
    for url in URLS if fields else []:
        space.raw.hset(space.keys.replica(url), mapping={name: str(value) for name, value in fields.items()})


PRESENT: dict[str, dict[str, object]] = {
    "nothing else": {},
    "suspected": {
        "suspicion": "1-x", "suspected_by": "router~1", "suspected_at_ms": 5, "asked": "router~2 router~3",
        "suspected_until_ms": 7, "suspected_address": "127.0.0.9", "refuted_prober": "router~4",
        "reached_by": "router~5",
    },
    "unreached by others": {"suspicion": "1-x", "suspected_at_ms": 5, "unreached_by": "router~2 router~3"},
    "ejected": {"ejected_until_ms": 99, "ejections": 2, "sessions_failing_since_ms": 3, "session_failures": 4},
    "ramping": {"slow_start_ms": 60_000},
    "restored": {"restored_from": "5-1 history"},
    "draining": {"admin": "draining", "removes_when_drained": 1, "admin_reason": "tabs\tand\nlines"},
    "under load": {"in_flight": 3},
    "announced": {"owner": "pod", "instance": "i", "ttl_ms": 5000, "last_heartbeat_at_ms": 17},
}  # fmt: skip


@pytest.mark.parametrize("present", PRESENT)
@pytest.mark.parametrize("status", ["healthy", "unhealthy"])
async def test_a_mirror_finds_out_all_that_changed(space: Space, present: str, status: str) -> None:
    """What it knows then is what a full read of the replicas shows."""
    turned = {"healthy": "unhealthy", "unhealthy": "healthy"}[status]
    epoch = await added(space, status)
    if present == "ramping":
        space.raw.hset(space.keys.meta, "slow_start_ms", "30000")
    planted(space, **PRESENT[present])
    before = await known(space)
    events: list[Event] = []
    for batch in range(1, 4):
        results = [space.failure(url, f"refused by {url}: ünknown") for url in URLS]
        if turned == "healthy":
            results = [space.success(url, 12.5 + len(url)) for url in URLS]
        events += (await space.report(epoch, batch, *results)).events
    event = next(one for one in events if one.changes)
    assert event.kind.value == f"replica_{turned}"
    assert [(change.key, change.name) for change in event.changes] == [(A, "gpu one"), (B, ""), (C, "gpu-3")]
    after = await known(space)
    assert {record.health.status.value for record in after.values()} == {turned}
    found = folded(before, events)
    for url in URLS:
        # The counters of later results, which change no status, are on no event.
        health = replace(found[url].health, consecutive_failures=after[url].health.consecutive_failures)
        health = replace(health, consecutive_successes=after[url].health.consecutive_successes)
        health = replace(health, last_ok_at=after[url].health.last_ok_at)
        health = replace(health, last_failure_at=after[url].health.last_failure_at)
        assert in_events(replace(found[url], health=health)) == in_events(after[url])
    read = [one for one in await space.reader.last_events(10) if one.changes]
    assert read[-1:] == [one for one in events if one.changes][-1:]


async def test_an_error_has_no_lines_or_columns_in_the_event(space: Space) -> None:
    epoch = await added(space)
    for batch in range(1, 4):
        await space.report(epoch, batch, *(space.failure(url, "two\nlines\tand a tab\x7f") for url in URLS))
    (event,) = [one for one in await space.reader.last_events(5) if one.changes]
    assert [change.reason for change in event.changes] == ["two lines and a tab "] * 3
    assert event.reason == "two lines and a tab "


async def test_different_changes_of_one_report_are_told_apart(space: Space) -> None:
    epoch = await added(space)
    for batch in range(1, 4):
        await space.report(epoch, batch, space.failure(A))
    await space.add(SOME)
    await space.report(epoch, 9, *(space.failure(url) for url in (B, C)))
    await space.report(epoch, 10, *(space.failure(url) for url in (B, C)))
    await space.report(epoch, 11, space.success(A))
    report = await space.report(epoch, 12, space.failure(B), space.success(A), space.failure(C), space.success(SOME))
    kinds = [(event.kind, [change.key for change in event.changes]) for event in report.events]
    assert kinds == [(EventKind.REPLICA_UNHEALTHY, [B, C]), (EventKind.REPLICA_HEALTHY, [A, SOME])]


async def test_a_program_of_an_earlier_version_finds_no_state(space: Space) -> None:
    """So it reads everything; it takes nothing away from what it knows."""
    epoch = await added(space)
    for batch in range(1, 4):
        await space.report(epoch, batch, *map(space.failure, URLS))
    ((event_id, fields),) = space.raw.xrevrange(space.keys.events, count=1)
    del fields["changes"]  # what it does not look for
    event = parse_event(event_id, fields)
    assert (event.record, event.unreadable) == (None, "*")


@pytest.mark.parametrize("text", ["", "a\tb", "http://127.0.0.1:1\t5-0\tmany\t\t\t\t", "\n"])
async def test_an_event_with_malformed_changes_is_unreadable(space: Space, text: str) -> None:
    epoch = await added(space)
    for batch in range(1, 4):
        await space.report(epoch, batch, *map(space.failure, URLS))
    ((event_id, fields),) = space.raw.xrevrange(space.keys.events, count=1)
    event = parse_event(event_id, {**fields, "changes": text})
    assert (event.changes, event.unreadable) == ((), "*")
    assert parse_event(event_id, {**fields, "kind": "replica_of_a_later_version"}).unreadable == "*"
