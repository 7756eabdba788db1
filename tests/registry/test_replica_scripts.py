"""Registering, changing and removing replicas, and the operator's word on them."""

from __future__ import annotations

from typing import Any

import pytest

from shared_registry.model import AdminState, EventKind, ReplicaEndpoint, ReplicaStatus, Source
from shared_registry.store.codec import parse_record
from tests.support.space import A, B, C, Space

pytestmark = pytest.mark.usefixtures("stays_sound")


async def urls(space: Space) -> list[str]:
    return await space.reader.urls()


async def test_a_new_replica_is_unknown_active_and_idle(space: Space) -> None:
    (event,) = await space.add("http://10.0.0.1:8000", name="a", primary=True, capacity=3, request="first", by="me")
    assert (event.kind, event.router, event.by, event.previous) == (
        EventKind.REPLICA_REGISTERED,
        "router~1",
        "me",
        "0-0",
    )
    record = parse_record(A, space.fields(A))
    assert event.record == record
    assert record.health.status is ReplicaStatus.UNKNOWN
    assert (record.admin, record.in_flight, record.incarnation) == (AdminState.ACTIVE, 0, "first")
    assert (record.endpoint.name, record.endpoint.primary, record.endpoint.capacity) == ("a", True, 3)
    assert record.registered_at == record.status_since == record.admin_since == event.at
    assert space.ready() == (set(), set(), set())


async def test_the_first_write_begins_the_history_and_names_the_schema(space: Space) -> None:
    await space.add()
    meta = space.raw.hgetall(space.keys.meta)
    assert (meta["schema"], len(meta["history_id"])) == ("2", 16)
    await space.add(B)
    assert space.raw.hget(space.keys.meta, "history_id") == meta["history_id"]


async def test_a_new_history_drops_the_earlier_event_stream(space: Space) -> None:
    await space.add()
    space.raw.delete(space.keys.meta)
    await space.add(B)
    assert [event.record.key for event in await space.reader.last_events(9) if event.record] == [B]
    assert await urls(space) == [A, B]


@pytest.mark.parametrize("weight", [1e-7, 0.1 + 0.2, 1 / 3, 5e-324, 1.7976931348623157e308, 1e16 + 2, 7])
async def test_a_weight_keeps_every_digit(space: Space, weight: float) -> None:
    (event,) = await space.add(weight=weight)
    assert event.record is not None
    assert event.record.endpoint.weight == parse_record(A, space.fields(A)).endpoint.weight == weight
    assert await space.add(weight=weight) == []


async def test_large_numbers_keep_every_digit(space: Space) -> None:
    await space.add(capacity=2**53, order=2**53 - 2)
    await space.add(B)
    assert space.fields(A)["capacity"] == "9007199254740992"
    assert (space.fields(A)["order"], space.fields(B)["order"]) == ("9007199254740990", "9007199254740991")


@pytest.mark.parametrize("text", ["", "ü\u2028\U0001f600", 'line\nbreak\t"quoted" \x00', "{}:*%.0f"])
async def test_texts_are_stored_unchanged(space: Space, text: str) -> None:
    (event,) = await space.add(name=text, by=text)
    assert event.record is not None
    assert (event.record.endpoint.name, event.by) == (text or None, text)
    assert await space.store.set_admin(A, AdminState.DRAINING, by=text, reason=text)
    (last,) = await space.reader.last_events(1)
    assert (last.by, last.reason) == (text, text)


async def test_the_spelling_given_is_kept_beside_the_canonical_one(space: Space) -> None:
    await space.store.register(A, ReplicaEndpoint("HTTP://10.0.0.1:8000/"), mode=Source.EXPLICIT, request="r")
    assert parse_record(A, space.fields(A)).endpoint.url == "HTTP://10.0.0.1:8000/"
    assert await urls(space) == [A]


async def test_replicas_are_ordered_by_their_registration(space: Space) -> None:
    for url in (C, A, B):
        await space.add(url)
    assert await urls(space) == [C, A, B]
    assert [space.fields(url)["order"] for url in (C, A, B)] == ["0", "1", "2"]


async def test_a_given_order_is_kept_and_the_next_follows(space: Space) -> None:
    await space.add(A, order=10)
    await space.add(B)
    await space.add(C, order=5)
    assert [space.fields(url)["order"] for url in (A, B, C)] == ["10", "11", "5"]
    assert await urls(space) == [C, A, B]


async def test_an_update_keeps_the_order_or_takes_the_given_one(space: Space) -> None:
    for url in (A, B):
        await space.add(url)
    await space.add(A, capacity=1)
    assert await urls(space) == [A, B]
    await space.add(A, order=9)
    assert await urls(space) == [B, A]
    await space.add(C)
    assert space.fields(C)["order"] == "10"


async def test_a_replica_added_again_comes_last_with_a_new_order(space: Space) -> None:
    """No order is used twice."""
    for url in (A, B):
        await space.add(url)
    await space.remove(B)
    await space.add(C)
    await space.remove(A)
    await space.add(A)
    assert [space.fields(url)["order"] for url in (C, A)] == ["2", "3"]


async def test_the_order_of_a_removed_replica_is_not_used_again(space: Space) -> None:
    await space.add(A, order=10)
    await space.remove(A)
    await space.add(B, order=3)
    await space.add(C)
    assert space.fields(C)["order"] == "11"


async def test_the_next_order_survives_the_loss_of_meta(space: Space) -> None:
    await space.add(A, order=41)
    space.raw.delete(space.keys.meta)
    await space.add(B)
    assert space.fields(B)["order"] == "42"


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [("name", "b", "b"), ("primary", False, "0"), ("weight", 2.5, "2.5"), ("capacity", 4, "4"), ("order", 3, "3")],
)
async def test_an_update_changes_the_spec_and_nothing_else(space: Space, field: str, value: Any, text: str) -> None:
    known: dict[str, Any] = {"name": "a", "primary": True, "weight": 2.0, "capacity": 3, "order": 1}
    await space.add(**known)
    await space.make("healthy")
    await space.store.set_admin(A, AdminState.DRAINING, reason="deploy")
    space.plant_load(A, 2)
    before = space.fields(A)
    (event,) = await space.add(request="later", **{**known, field: value})
    assert space.fields(A) == before | {field: text, "spec_request": "later", "revision": event.id}
    assert event.kind is EventKind.REPLICA_UPDATED


async def test_an_update_of_tier_or_capacity_moves_a_ready_replica(space: Space) -> None:
    await space.add(primary=True)
    await space.make("healthy")
    assert space.ready() == ({A}, set(), set())
    await space.add(primary=False)
    assert space.ready() == (set(), {A}, set())
    space.plant_load(A, 3)
    await space.add(primary=False, capacity=3)
    assert space.ready() == (set(), set(), {A})
    await space.add(primary=False, capacity=4, weight=0.5)
    assert space.raw.zscore(space.keys.ready_secondary, A) == 6.0


async def test_the_same_spec_again_is_no_event(space: Space) -> None:
    await space.add(name="a", weight=0.3, capacity=2)
    before = space.dump()
    for _ in range(3):
        assert await space.add(name="a", weight=0.3, capacity=2) == []
    assert space.dump() == before


async def test_a_seed_registers_new_replicas_and_updates_seeded_ones(space: Space) -> None:
    await space.add(mode=Source.SEED)
    (event,) = await space.add(mode=Source.SEED, capacity=2)
    assert event.kind is EventKind.REPLICA_UPDATED
    assert space.fields(A)["source"] == "seed"


async def test_a_seed_does_not_override_deliberate_settings(space: Space) -> None:
    await space.add(mode=Source.SEED)
    await space.add(mode=Source.EXPLICIT)
    assert space.fields(A)["source"] == "explicit"
    before = space.dump()
    assert await space.add(mode=Source.SEED, capacity=9) == []
    assert space.dump() == before


async def test_only_an_operator_revives_a_removed_replica(space: Space) -> None:
    """A seed does not."""
    await space.add(mode=Source.SEED)
    await space.remove()
    before = space.dump()
    assert await space.add(mode=Source.SEED) == []
    assert space.dump() == before
    (event,) = await space.add(mode=Source.EXPLICIT)
    assert event.kind is EventKind.REPLICA_REGISTERED
    assert await urls(space) == [A]


async def test_a_replica_added_again_is_new_but_keeps_sessions(space: Space) -> None:
    await space.add()
    await space.make("unhealthy")
    await space.store.set_admin(A, AdminState.DISABLED, reason="broken")
    space.plant_load(A, 2)
    first = space.incarnation(A)
    await space.remove()
    await space.add()
    fields = space.fields(A)
    assert fields["incarnation"] != first
    assert (fields["status"], fields["admin"], fields["admin_reason"]) == ("unknown", "active", "")
    assert (fields["consecutive_failures"], fields["consecutive_successes"]) == ("0", "0")
    assert fields["in_flight"] == "2"
    assert not {"last_ok_at_ms", "last_failure_at_ms", "last_latency_ms", "last_error"} & fields.keys()
    assert space.raw.pttl(space.keys.replica(A)) == -1
    assert space.raw.zscore(space.keys.removed, A) is None


async def test_a_replica_added_again_loses_an_earlier_versions_expiry(space: Space) -> None:
    await space.add()
    await space.remove()
    space.raw.pexpire(space.keys.replica(A), 60_000)
    await space.add()
    assert space.raw.pttl(space.keys.replica(A)) == -1


async def test_a_replica_that_drains_keeps_who_removes_it(space: Space) -> None:
    await space.add()
    space.plant_load(A, 1)
    await space.store.deregister(A, space.incarnation(A), by="me", when_drained=True)
    assert space.fields(A)["removed_by"] == "me"
    space.plant_load(A, 0)
    await space.store.deregister(A, space.incarnation(A), by="you")
    assert space.fields(A)["removed_by"] == "you"


async def test_no_removal_ends_by_time(space: Space) -> None:
    await space.add()
    await space.add(B)
    await space.store.deregister(A, space.incarnation(A), by="me", reason="sold")
    space.raw.zadd(space.keys.removed, {A: 1})  # as if it was decades ago
    await space.store.deregister(B, space.incarnation(B), by="you")
    assert space.raw.zrange(space.keys.removed, 0, -1) == [A, B]
    assert (space.raw.pttl(space.keys.replica(A)), space.fields(A)["removed_by"]) == (-1, "me")
    await space.add()
    assert space.raw.zrange(space.keys.removed, 0, -1) == [B]
    assert "removed_by" not in space.fields(A)


async def test_a_removal_leaves_only_a_tombstone(space: Space) -> None:
    await space.add(primary=True)
    await space.make("healthy")
    events = await space.store.deregister(A, space.incarnation(A), by="me", reason="old")
    assert events is not None
    (event,) = events
    assert (event.kind, event.by, event.reason) == (EventKind.REPLICA_DEREGISTERED, "me", "old")
    assert event.record is not None
    assert event.record.admin is AdminState.REMOVED
    assert space.ready() == (set(), set(), set())
    assert await urls(space) == []
    assert (space.fields(A)["admin"], space.fields(A)["admin_reason"]) == ("removed", "old")
    assert space.raw.pttl(space.keys.replica(A)) == -1


async def test_a_tombstone_with_sessions_on_it_does_not_expire(space: Space) -> None:
    await space.add()
    space.plant_load(A, 1)
    await space.remove()
    assert space.raw.pttl(space.keys.replica(A)) == -1


async def test_removing_needs_a_registered_replica_of_the_given_incarnation(space: Space) -> None:
    await space.add()
    before = space.dump()
    assert await space.store.deregister(A, "another") is None
    assert await space.store.deregister(B, space.incarnation(A)) is None
    assert space.dump() == before
    await space.remove()
    assert await space.remove() is None


@pytest.mark.parametrize("state", [AdminState.ACTIVE, AdminState.DRAINING, AdminState.DISABLED])
@pytest.mark.parametrize("status", ["unknown", "healthy", "unhealthy"])
@pytest.mark.parametrize(("capacity", "in_flight"), [(0, 0), (0, 5), (2, 1), (2, 2), (2, 3)])
async def test_only_healthy_active_replicas_with_room_are_ready(
    space: Space, state: AdminState, status: str, capacity: int, in_flight: int
) -> None:
    await space.add(capacity=capacity)
    space.plant_load(A, in_flight)
    if status != "unknown":
        await space.make(status)
    await space.store.set_admin(A, AdminState.DRAINING, reason="first")
    await space.store.set_admin(A, state, reason="then")
    may_serve = status == "healthy" and state is AdminState.ACTIVE
    has_room = capacity == 0 or in_flight < capacity
    ready, full = may_serve and has_room, may_serve and not has_room
    assert space.ready() == (set(), {A} if ready else set(), {A} if full else set())
    assert space.fields(A)["status"] == status


@pytest.mark.parametrize("state", [AdminState.DRAINING, AdminState.DISABLED])
async def test_health_does_not_override_the_admin_state(space: Space, state: AdminState) -> None:
    await space.add()
    await space.store.set_admin(A, state)
    await space.make("healthy")
    assert space.ready() == (set(), set(), set())
    await space.make("unhealthy")
    assert space.fields(A)["admin"] == state.value


async def test_a_new_reason_is_an_event_without_another_state(space: Space) -> None:
    await space.add()
    await space.store.set_admin(A, AdminState.DRAINING, reason="deploy")
    space.raw.hset(space.keys.replica(A), "admin_since_ms", "12345")
    events = await space.store.set_admin(A, AdminState.DRAINING, reason="deploy, second try")
    assert events is not None
    (event,) = events
    assert (event.kind, event.reason) == (EventKind.REPLICA_ADMIN, "deploy, second try")
    assert space.fields(A)["admin_since_ms"] == "12345"
    await space.store.set_admin(A, AdminState.ACTIVE)
    assert int(space.fields(A)["admin_since_ms"]) > 12345


async def test_an_admin_state_names_who_set_it(space: Space) -> None:
    await space.add()
    assert "admin_by" not in space.fields(A)
    await space.store.set_admin(A, AdminState.DRAINING, by="ann@desk", reason="deploy")
    fields = space.fields(A)
    assert (fields["admin_by"], fields["admin_by_at_ms"]) == ("ann@desk", fields["admin_since_ms"])
    await space.store.set_admin(A, AdminState.DRAINING, by="bob@desk", reason="deploy")
    assert space.fields(A)["admin_by"] == "ann@desk", "what was drained before was not drained by bob"
    events = await space.store.set_admin(A, AdminState.ACTIVE, by="bob@desk")
    assert events is not None
    assert events[0].record is not None
    assert (events[0].record.admin_by, space.fields(A)["admin_by"]) == ("bob@desk", "bob@desk")


async def test_a_removal_that_waits_names_who_asked(space: Space) -> None:
    await space.add()
    space.plant_load(A, 1)
    await space.store.deregister(A, space.incarnation(A), by="ann@desk", when_drained=True)
    assert parse_record(A, space.fields(A)).admin_by == "ann@desk"
    await space.store.deregister(A, space.incarnation(A), by="ann@desk")
    await space.add()
    assert not {"admin_by", "admin_by_at_ms"} & space.fields(A).keys()


async def test_an_author_of_a_state_replaced_without_one_is_forgotten(space: Space) -> None:
    """So does a program of an earlier version: it writes the state, its time and the reason."""
    await space.add()
    await space.store.set_admin(A, AdminState.DRAINING, by="ann@desk")
    space.raw.hset(space.keys.replica(A), mapping={"admin": "disabled", "admin_since_ms": "12345"})
    record = parse_record(A, space.fields(A))
    assert (record.admin, record.admin_by) == (AdminState.DISABLED, "")


async def test_an_admin_state_for_an_unknown_replica_creates_nothing(space: Space) -> None:
    assert await space.store.set_admin(A, AdminState.DRAINING) is None
    assert space.dump() == {}
    await space.add()
    await space.remove()
    before = space.dump()
    assert await space.store.set_admin(A, AdminState.DRAINING) is None
    assert space.dump() == before


async def test_every_event_names_its_predecessor(space: Space) -> None:
    await space.add()
    await space.make("healthy")
    await space.store.set_admin(A, AdminState.DRAINING)
    await space.remove()
    events = await space.reader.last_events(99)
    assert [event.previous for event in events] == ["0-0", *(event.id for event in events[:-1])]
    assert space.raw.hget(space.keys.meta, "revision") == events[-1].id == space.fields(A)["revision"]


async def test_events_carry_what_routing_needs_except_volatile_fields(space: Space) -> None:
    await space.add(name="a", primary=True, weight=2.0, capacity=3)
    ((_, entry),) = space.raw.xrange(space.keys.events)
    assert not {"in_flight", "revision", "spec_request"} & entry.keys()
    stored = space.fields(A)
    assert {field: stored[field] for field in stored.keys() & entry.keys()} == {
        field: entry[field] for field in stored.keys() & entry.keys()
    }
    assert stored.keys() - entry.keys() <= {"in_flight", "revision", "spec_request"}


async def test_the_event_stream_is_trimmed(space: Space) -> None:
    await space.add()
    pipeline = space.raw.pipeline(transaction=False)
    for _ in range(11_000):
        pipeline.xadd(space.keys.events, {"kind": "filler"})
    pipeline.execute()
    await space.remove()
    assert 10_000 <= space.raw.xlen(space.keys.events) < 10_500
    space.raw.delete(*space.dump())
