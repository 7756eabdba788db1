"""A key of another type, or a namespace of another schema, is refused before anything is written."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from shared_registry.errors import KeyConflict, StoreRefused
from shared_registry.model import AdminState, Opinion, OpinionKind, ProbeResult, ReplicaEndpoint, Share, Term
from shared_registry.model.plan import BUCKETS
from shared_registry.store.codec import removed_entry
from shared_registry.store.lua import LUA_DIR, command_names
from shared_registry.store.replies import Affinity, WrongAffinity
from shared_registry.store.schema import OLDEST_SCHEMA, SCHEMA
from tests.support.lua_header import read_header
from tests.support.space import THRESHOLDS, A, Space, info, on_server

EPOCH = 7
TERM = Term(EPOCH, "token")
RESULT = ProbeResult(A, "first", 1.0)
LEASE, WAITER = "0000000a:session", "0000000c:session"
POD = "http://127.0.0.9:8000"
CALLS: dict[str, Callable[[Space], Awaitable[Any]]] = {
    "acquire_lease": lambda space: space.store.acquire("0000000b:session"),
    "advance_ramps": lambda space: space.store.advance_ramps(TERM, [A], slow_start_seconds=9),
    "beat_replicas": lambda space: space.store.beat(POD, "pod"),
    "campaign": lambda space: space.store.campaign("other", lease_seconds=60, seen_epoch=0),
    "declare_panic": lambda space: space.store.declare_panic(TERM, "few"),
    "deregister_replica": lambda space: space.store.deregister(A, "first"),
    "give_opinions": lambda space: space.store.give_opinions([Opinion(OpinionKind.OPINION, "q", RESULT)], THRESHOLDS),
    "govern_replica": lambda space: space.store.govern(TERM, "explicit", A, "draining"),
    "heartbeat": lambda space: space.store.heartbeat(info("router~1"), expiry_seconds=60),
    "leave_cluster": lambda space: space.store.leave(affinity_seconds=60),
    "reap_router": lambda space: space.store.reap("router~1", affinity_seconds=60),
    "record_outcome": lambda space: space.store.record_outcome(RESULT, THRESHOLDS),
    "register_replica": lambda space: space.add(request="second", capacity=1),
    "register_replicas": lambda space: space.add_all({A: ReplicaEndpoint(A, capacity=1)}),
    "release_lease": lambda space: space.store.release(LEASE),
    "list_participants": lambda space: space.store.participants(TERM),
    "repair_affinities": lambda space: space.store.repair_affinities(
        [WrongAffinity("session", Affinity("", has_end=False, several={}), {A: 1})], by=""
    ),
    "repair_namespace": lambda space: space.store.repair(
        loads=dict.fromkeys([A]), routers=["router~1"], first_event="", by=""
    ),
    "renew": lambda space: space.store.renew("token", lease_seconds=60),
    "report_probes": lambda space: space.report(EPOCH, 1, RESULT),
    "report_share": lambda space: space.store.report(Share(EPOCH, "router~1"), 1, [RESULT], THRESHOLDS),
    "resign": lambda space: space.store.resign("token"),
    "restore_leases": lambda space: space.store.restore_leases({LEASE: A}),
    "restore_view": lambda space: space.store.restore(
        [removed_entry("removed", A)], view_history_id="old", view_revision="1-0"
    ),
    "set_admin": lambda space: space.store.set_admin(A, AdminState.DRAINING),
    "step_down": lambda space: space.store.step_down(EPOCH, sit_out_seconds=9),
    "take_over_lease": lambda space: space.store_of("router~2").take_over(LEASE),
    "upgrade_namespace": lambda space: space.store.upgrade(by="me"),
    "withdraw_replica": lambda space: space.store.withdraw(POD, "pod"),
    "write_plan": lambda space: space.store.write_plan(TERM, {"00": "router~1"}),
}
# These read only, and `check` has looked at the types before.
CHECKS_NOTHING = {"inspect_leases", "inspect_queue", "inspect_replicas", "inspect_waiters"}
STOPS = {"acquire_leases", "release_leases"}
"""They refuse nothing: what is not usual, they leave to the command for one lease. See test_usual_scripts.py."""
IGNORED = {"settling"}
"""Of another type, this key is as if it were not there; see tests/leases/test_settling.py."""
WITHOUT_NAMES = {"govern_replica", "heartbeat", "withdraw_replica"}
"""For them `names` of another type is as if it were not there: they look only whether a name has gone elsewhere."""
OWN_KEYS = {
    "acquire_lease": {"leases_prefix", "affinity_prefix", "several_prefix", "sequence_prefix"},
    "advance_ramps": set(),
    "beat_replicas": set(),
    "give_opinions": set(),
    "release_lease": {"replica_prefix", "leases_prefix", "affinity_prefix", "several_prefix"},
    "restore_leases": {"leases_prefix"},
    "restore_view": set(),
    "take_over_lease": set(),
    "heartbeat": {"router_prefix", "leases_prefix"},
    "reap_router": {"router_prefix", "leases_prefix", "inbox_prefix"},
    "leave_cluster": {"router_prefix", "leases_prefix", "inbox_prefix"},
    "repair_affinities": {"affinity_prefix", "several_prefix"},
    "register_replicas": set(),
    "repair_namespace": set(),
    "report_probes": set(),
    "report_share": set(),
}
"""Of the keys with a prefix, those which a command needs for what it was asked. Where several replicas or sessions are
asked about, a damaged key is passed over; see test_one_bad_key.py. A waiter whose keys hold something else stays where
it is; see test_queue_scripts.py."""


OTHER_READY_SETS = {"ready_secondary", "full"}
"""What a lease touches only where its replica, a primary, becomes full or is no longer."""
SPARE_SETS = {"spare_primary", "spare_secondary", "spare_answered"}
"""What is touched only for replicas that are not healthy, or where a session finds no slot of a healthy one."""
NOT_FOR_A_MERE_RELEASE = {"replicas", "removed", "routers", "events", *OTHER_READY_SETS, *SPARE_SETS}
"""What the end of a lease touches only where somebody waits, or its replica is removed with it, or was full."""


def refused_keys(command: str) -> list[str]:
    own = OWN_KEYS.get(command, {"replica_prefix"})
    ignored = IGNORED | ({"names"} if command in WITHOUT_NAMES else set())
    if command == "heartbeat":
        ignored |= {"leader"}  # it asks only how long that key lasts; see below
    names = [name for name in read_header(command).names("KEYS") if name not in ignored]
    return [name for name in names if not name.endswith("_prefix") or name in own]


async def populate(space: Space) -> None:
    """Make a state in which every command would write."""
    await space.add(request="first", primary=True)
    await space.make("healthy")
    await space.store.announce(POD, ReplicaEndpoint(POD), owner="pod", instance="pod", ttl_seconds=60)
    await space.elect()
    space.raw.hset(space.keys.leader, "epoch", EPOCH)
    await space.store.write_plan(TERM, dict.fromkeys(BUCKETS, "router~1"))
    space.raw.hset(space.keys.plan, "number", EPOCH)
    await space.store.heartbeat(info("router~1"), expiry_seconds=60)
    space.raw.hset(space.keys.meta, "schema", f"1-{SCHEMA}")  # so that there is something to upgrade
    await space.store.acquire(LEASE)
    await space.store.heartbeat(info("router~2"), expiry_seconds=60)
    space.raw.zadd(space.keys.routers, {"router~2": space.now_ms() + 10**9})
    space.expire_router("router~1")
    space.raw.zadd(space.keys.queue, {f"router~1/{WAITER}": 1})
    space.raw.hset(
        space.keys.replica(A), mapping={"suspicion": "q", "suspected_by": "router~2", "asked": "router~1 router~3"}
    )


def key_of(space: Space, command: str, name: str) -> str:
    """Return a key that a command touches, by the name that its header has for it."""
    own = {
        "affinity_prefix": space.keys.affinity_prefix + "session",
        "several_prefix": space.keys.several_prefix + "session",
        "inbox_prefix": space.keys.inbox("router~1"),
        "sequence_prefix": space.keys.sequence_prefix + "session",
        "leases_prefix": space.keys.leases("router~1"),
        "replica_prefix": space.keys.replica(POD if command == "withdraw_replica" else A),
        "router_prefix": space.keys.router("router~1"),
    }
    return own.get(name) or str(getattr(space.keys, name))


def test_every_command_and_key_is_tried() -> None:
    assert set(CALLS) == set(command_names()) - CHECKS_NOTHING - STOPS


def spoil(space: Space, key: str, value: str | list[str]) -> None:
    """Put something of another type there."""
    space.raw.delete(key)
    expected = space.keys.expected_type(key)
    if isinstance(value, list) or expected == "string":
        space.raw.sadd(key, *value) if expected != "set" else space.raw.zadd(key, {"list": 1})
    else:
        space.raw.set(key, value)


async def expect_refusal(space: Space, command: str, name: str, value: str | list[str]) -> None:
    key = key_of(space, command, name)
    spoil(space, key, value)
    before = space.dump()
    with pytest.raises(KeyConflict) as caught:
        await CALLS[command](space)
    assert key in str(caught.value)
    assert str(space.keys.expected_type(key)) in str(caught.value)
    assert space.dump() == before


@pytest.mark.parametrize(("command", "name"), [(command, name) for command in CALLS for name in refused_keys(command)])
async def test_a_key_of_another_type_is_refused_before_writing(space: Space, command: str, name: str) -> None:
    await populate(space)
    for value in ("text", ["list"]):
        await expect_refusal(space, command, name, value)


async def test_a_leader_key_of_another_type_stops_no_heartbeat(space: Space) -> None:
    """Or no router would live because of it."""
    await populate(space)
    spoil(space, space.keys.leader, "text")
    for lasting_ms in (None, 5000):
        if lasting_ms:
            space.raw.pexpire(space.keys.leader, lasting_ms)
        heartbeat = await space.store.heartbeat(info("router~1"), expiry_seconds=60)
        assert (heartbeat.leader_lease_seconds is not None) is bool(lasting_ms)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (command, name)
        for command, untouched in (("acquire_lease", SPARE_SETS), ("release_lease", NOT_FOR_A_MERE_RELEASE))
        for name in refused_keys(command)
        if name not in untouched
    ],
)
async def test_without_waiters_keys_of_another_type_are_refused_too(space: Space, command: str, name: str) -> None:
    await populate(space)
    space.raw.delete(space.keys.queue)
    await expect_refusal(space, command, name, ["list"])


@pytest.mark.parametrize("name", sorted(NOT_FOR_A_MERE_RELEASE))
async def test_a_release_checks_only_the_keys_it_needs(space: Space, name: str) -> None:
    await populate(space)
    space.raw.delete(space.keys.queue)
    spoil(space, key_of(space, "release_lease", name), ["list"])
    await space.store.release(LEASE)
    assert not space.raw.hexists(space.keys.leases("router~1"), LEASE)


@pytest.mark.parametrize("name", sorted(NOT_FOR_A_MERE_RELEASE))
async def test_a_release_that_removes_a_replica_checks_all_keys(space: Space, name: str) -> None:
    await populate(space)
    space.raw.delete(space.keys.queue)
    await space.store.deregister(A, "first", when_drained=True)
    await expect_refusal(space, "release_lease", name, ["list"])


@pytest.mark.parametrize("name", sorted(OTHER_READY_SETS | SPARE_SETS))
async def test_an_acquire_checks_only_the_keys_it_needs(space: Space, name: str) -> None:
    await populate(space)
    space.raw.delete(space.keys.queue)
    spoil(space, key_of(space, "acquire_lease", name), ["list"])
    await space.store.acquire("0000000b")
    assert space.raw.hget(space.keys.replica(A), "in_flight") == "2"


async def test_an_acquire_that_fills_a_replica_needs_the_full_set(space: Space) -> None:
    await populate(space)
    space.raw.delete(space.keys.queue)
    await space.add(request="second", primary=True, capacity=2)
    spoil(space, space.keys.full, ["list"])
    before = space.dump()
    with pytest.raises(KeyConflict, match=space.keys.full):
        await space.store.acquire("0000000b")
    assert space.dump() == before


async def test_an_acquire_that_fills_a_primary_needs_no_secondaries(space: Space) -> None:
    await populate(space)
    space.raw.delete(space.keys.queue)
    await space.add(request="second", primary=True, capacity=2)
    spoil(space, space.keys.ready_secondary, ["list"])
    await space.store.acquire("0000000b")
    assert space.raw.hget(space.keys.replica(A), "in_flight") == "2"
    assert space.raw.smembers(space.keys.full) == {A}
    assert not space.raw.exists(space.keys.ready_primary)


@pytest.mark.parametrize("name", sorted(SPARE_SETS))
async def test_an_acquire_that_finds_no_slot_needs_the_spare_sets(space: Space, name: str) -> None:
    await populate(space)
    space.raw.delete(space.keys.queue)
    await space.store.set_admin(A, AdminState.DISABLED)
    spoil(space, key_of(space, "acquire_lease", name), ["list"])
    before = space.dump()
    with pytest.raises(KeyConflict, match=key_of(space, "acquire_lease", name)):
        await space.store.acquire("0000000b")
    assert space.dump() == before


@pytest.mark.parametrize("name", sorted(SPARE_SETS))
async def test_a_release_from_a_full_unhealthy_replica_checks_spare_sets(space: Space, name: str) -> None:
    await populate(space)
    space.raw.delete(space.keys.queue)
    await space.add(request="second", primary=True, capacity=1)
    await space.make("unhealthy")
    await expect_refusal(space, "release_lease", name, ["list"])


@pytest.mark.parametrize("name", sorted(OTHER_READY_SETS))
async def test_a_release_from_a_full_replica_checks_all_keys(space: Space, name: str) -> None:
    await populate(space)
    space.raw.delete(space.keys.queue)
    await space.add(request="second", primary=True, capacity=1)
    await expect_refusal(space, "release_lease", name, ["list"])


@pytest.mark.parametrize("command", [name for name in CALLS if "meta" in read_header(name).names("KEYS")])
async def test_a_namespace_of_another_schema_is_refused(space: Space, command: str) -> None:
    await populate(space)
    space.raw.hset(space.keys.meta, "schema", "3")
    before = space.dump()
    with pytest.raises(StoreRefused, match=r"schema 3, .* uses schema 2: a newer version has upgraded it"):
        await CALLS[command](space)
    assert space.dump() == before


@pytest.mark.parametrize(
    ("schema", "remedy"),
    [("1", "upgrade it first"), ("0-1", "upgrade it first"), ("3-4", "a newer version"), ("two", "is not a number")],
)
async def test_the_message_about_a_schema_is_true(space: Space, schema: str, remedy: str) -> None:
    await populate(space)
    space.raw.hset(space.keys.meta, "schema", schema)
    for use in (lambda space: space.reader.head(), CALLS["acquire_lease"], CALLS["heartbeat"]):
        with pytest.raises(StoreRefused, match=f"schema {schema}, .*{remedy}"):
            await use(space)


@pytest.mark.parametrize("schema", ["2", "1-2", "2-3", "1-9"])
async def test_data_that_this_version_may_use_are_used(space: Space, schema: str) -> None:
    await populate(space)
    space.raw.hset(space.keys.meta, "schema", schema)
    await space.reader.head()
    for command in ("acquire_lease", "heartbeat", "register_replica"):
        await CALLS[command](space)
    assert space.raw.hget(space.keys.meta, "schema") == schema


async def test_a_namespace_of_another_schema_is_not_read(space: Space) -> None:
    await populate(space)
    space.raw.hset(space.keys.meta, "schema", "3")
    for read in (space.reader.head, space.reader.snapshot):
        with pytest.raises(StoreRefused, match=r"schema 3, .* uses schema 2: a newer version has upgraded it"):
            await read()


def test_lua_and_python_mean_the_same_schema() -> None:
    text = (LUA_DIR / "lib/schema.lua").read_text()
    assert f"local SCHEMA = '{SCHEMA}'" in text
    assert f"local OLDEST_SCHEMA = '{OLDEST_SCHEMA}'" in text


@pytest.mark.parametrize("command", sorted(CALLS.keys() - {"list_participants"}))
async def test_every_command_writes_where_nothing_is_wrong(space: Space, command: str) -> None:
    """Otherwise the tests above would show nothing."""
    await populate(space)
    if command == "campaign":
        space.raw.delete(space.keys.leader)
    if command == "repair_namespace":
        space.raw.hset(space.keys.replica(A), "in_flight", 9)
    if command == "repair_affinities":
        space.raw.delete(space.keys.affinity_prefix + "session")
    if command == "restore_leases":
        space.raw.delete(space.keys.leases("router~1"))
    if command == "restore_view":
        space.raw.delete(*space.dump())
    space.raw.persist(space.keys.leader)
    before = space.dump(), space.raw.pttl(space.keys.leader)
    await CALLS[command](space)
    assert (space.dump(), space.raw.pttl(space.keys.leader)) != before


async def test_without_the_rights_for_lengths_types_are_not_checked(space: Space) -> None:
    await populate(space)
    name = f"no-lengths-{space.keys.namespace}"
    space.raw.acl_setuser(
        name, enabled=True, nopass=True, keys=["*"], commands=["+@all", "-hlen", "-scard", "-xlen", "-strlen"]
    )
    try:
        async with on_server(space_url(space, user=name), space.keys.namespace, raw_url=space_url(space)) as restricted:
            await restricted.store.release(LEASE)
        assert space.raw.hlen(space.keys.leases("router~1")) == 0
    finally:
        space.raw.acl_deluser(name)


def space_url(space: Space, *, user: str = "") -> str:
    options = space.raw.connection_pool.connection_kwargs
    return f"redis://{user + ':any@' if user else ''}{options['host']}:{options['port']}/{options.get('db', 0)}"
