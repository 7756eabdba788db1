"""One damaged key stops its own replica, router or session only, whatever was done to it.

A is the replica of the damaged key, and B and C are sound ones. `bad~1` is the router of the damaged key, `router~1`
is the one at work, and `dead~1` is one that has died.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from shared_registry.admin.check import Violation, find_violations
from shared_registry.admin.observer import Observer
from shared_registry.admin.repair import repair
from shared_registry.config import RouterConfig
from shared_registry.embedded import EmbeddedServer
from shared_registry.errors import KeyConflict
from shared_registry.model import AdminState, Opinion, OpinionKind, ProbeResult, ReplicaStatus, RouterInfo, Term
from shared_registry.store.replies import Departure, Grant, Held, Queued, Resignation
from tests.support.space import THRESHOLDS, A, B, C, Space, info

Damage = Callable[[Space], object]
NAMED = "0000000a:" + "5e" * 32
DEAD_LEASES = {"0000000d": A, "0000000e": B, NAMED: C}


def rewrite(key: Callable[[Space], str], kind: str) -> Damage:
    """Put a value of another type there."""

    def damage(space: Space) -> None:
        space.raw.delete(key(space))
        if kind == "text":
            space.raw.set(key(space), "text")
        else:
            space.raw.rpush(key(space), "item")

    return damage


def without(field: str) -> Damage:
    return lambda space: space.raw.hdel(space.keys.replica(A), field)


def holding(field: str, value: str) -> Damage:
    return lambda space: space.raw.hset(space.keys.replica(A), field, value)


def member(name: str, text: str, score: float = 0) -> Damage:
    return lambda space: space.raw.zadd(getattr(space.keys, name), {text: score})


REQUIRED = (
    *("url", "name", "primary", "weight", "capacity", "order", "source", "incarnation", "status", "admin"),
    *("consecutive_failures", "consecutive_successes", "revision"),
)
NUMBERS = ("weight", "capacity", "order", "in_flight", "consecutive_failures", "consecutive_successes")
OPTIONAL_NUMBERS = (
    *("registered_at_ms", "status_since_ms", "admin_since_ms", "slow_start_ms", "ejected_until_ms", "ejections"),
    *("last_ok_at_ms", "last_failure_at_ms", "last_latency_ms", "prober_until_ms", "suspected_at_ms"),
    *("suspected_until_ms", "health_check_port"),
)
ONLY_FOR_SCRIPTS = (
    "reported_at_ms",
    "session_failures",
    "sessions_failing_since_ms",
    "returned_at_ms",
    "prober_report",
)
"""Numbers that no reader parses. `check` does not name them, and `--repair` deletes them in a replica that it mends."""
FOREIGN = "http://foreign"
MEMBERS = {
    name: member(name, FOREIGN)
    for name in (
        "replicas",
        "removed",
        "ready_primary",
        "ready_secondary",
        "spare_primary",
        "spare_answered",
        "ejected",
    )
}
HASHES = {
    "replica": lambda space: space.keys.replica(A),
    "router": lambda space: space.keys.router("bad~1"),
    "leases": lambda space: space.keys.leases("bad~1"),
}
OTHERS = {
    "inbox": lambda space: space.keys.inbox("bad~1"),
    "affinity": lambda space: space.keys.affinity_prefix + "5e" * 32,
    "sequence": lambda space: space.keys.sequence_prefix + "5e" * 32,
}
MENDED_BY_OPERATOR = {"primary", "weight", "capacity", "incarnation", "admin"}
"""Fields whose value only an operator knows."""

DAMAGES: dict[str, Damage] = {
    **{f"{kind} for {name}": rewrite(key, kind) for name, key in HASHES.items() for kind in ("text", "list")},
    **{f"list for {name}": rewrite(key, "list") for name, key in OTHERS.items()},
    "incarnation of two words": holding("incarnation", "two words"),
    **{f"no {field}": without(field) for field in REQUIRED},
    **{f"{field} no number": holding(field, "x") for field in (*NUMBERS, *OPTIONAL_NUMBERS, *ONLY_FOR_SCRIPTS)},
    **{f"{field} nan": holding(field, "nan") for field in ("weight", "capacity")},
    "weight 0": holding("weight", "0"),
    "status unknown to us": holding("status", "fine"),
    "no expiry_ms of a router": lambda space: space.raw.hdel(space.keys.router("bad~1"), "expiry_ms"),
    **{f"foreign in {name}": plant for name, plant in MEMBERS.items()},
    "foreign in full": lambda space: space.raw.sadd(space.keys.full, FOREIGN),
    "foreign in routers": member("routers", "foreign", 1),
    "foreign in probers": member("probers", "foreign", 1e15),
    "foreign in queue": member("queue", "foreign"),
    "foreign lease in queue": member("queue", "router~1/zz"),
    "short lease in queue": member("queue", "router~1/a!"),
}


def prober(key: str) -> RouterInfo:
    return replace(info(key), machine=f"m-{key}", probe_print="same")


@pytest.fixture
async def populated(space: Space) -> Space:
    for url in (A, B, C):
        await space.add(url, request=f"first-of-{url}", primary=True)
        await space.make("healthy", url)
    for router in ("bad~1", "dead~1", "router~1"):
        await space.store_of(router).heartbeat(prober(router), expiry_seconds=60)
    await space.store_of("dead~1").restore_leases(DEAD_LEASES)
    await space.store_of("bad~1").acquire("0000000b")
    await space.elect()
    return space


async def check(space: Space) -> list[Violation]:
    return await find_violations(space.reader, space.keys)


def results(space: Space, *, error: str | None = None) -> list[ProbeResult]:
    return [ProbeResult(url, f"first-of-{url}", 1.0, error) for url in (A, B, C)]


async def everything_goes_on(space: Space) -> None:
    """Whoever is not concerned must notice nothing."""
    store = space.store
    last_ok = space.fields(B)["last_ok_at_ms"]
    heartbeat = await store.heartbeat(prober("router~1"), expiry_seconds=60)
    assert sorted(one.router for one in heartbeat.probers or ()) == ["bad~1", "dead~1", "router~1"]
    epoch = int(space.raw.hget(space.keys.leader, "epoch"))
    for batch in range(1, THRESHOLDS.failure + 1):
        report = await space.report(epoch, batch, *results(space, error="down"))
        assert report.done == len(results(space))
    assert space.fields(B)["consecutive_failures"] == str(THRESHOLDS.failure)
    await space.report(epoch, batch + 1, *results(space))
    await space.report(epoch, batch + 2, *results(space))
    assert space.fields(B)["last_ok_at_ms"] >= last_ok
    assert space.fields(B)["status"] == "healthy"
    appeals = [Opinion(OpinionKind.APPEAL, "1", result) for result in results(space)]
    assert (await space.store_of("other~1").give_opinions(appeals, THRESHOLDS)).done == len(appeals)
    await store.record_outcome(results(space)[1], THRESHOLDS)
    await store.advance_ramps(Term(epoch, "token"), [A, B, C], slow_start_seconds=1)

    snapshot = await space.reader.snapshot()
    assert {B, C} <= snapshot.records.keys() <= {A, B, C}

    for number in range(20, 30):
        grant = await store.acquire(f"000000{number}")
        assert isinstance(grant, Grant)
        assert grant.key in (A, B, C)
    for number in range(20, 30):
        if space.raw.hget(space.keys.leases("router~1"), f"000000{number}") != A:
            await store.release(f"000000{number}")

    space.expire_router("dead~1")
    space.raw.hset(space.keys.meta, "reap_after_ms", 0)
    space.raw.zadd(space.keys.queue, {f"dead~1/{NAMED[:-2]}00": 1})
    while (departure := await store.reap("dead~1", affinity_seconds=60)) is Departure.PARTIAL:
        pass
    assert departure is Departure.DONE
    assert not space.raw.exists(space.keys.leases("dead~1"))

    for url in (B, C):
        assert await store.set_admin(url, AdminState.DISABLED)
    if space.raw.type(space.keys.replica(A)) == "hash" and space.fields(A).get("admin") == "active":
        await store.set_admin(A, AdminState.DISABLED)
    assert isinstance(await store.acquire("000000f0", max_queue=10), Queued)
    assert await store.set_admin(B, AdminState.ACTIVE)
    assert space.raw.hget(space.keys.leases("router~1"), "000000f0") == B, "a waiter was served"
    assert await store.set_admin(C, AdminState.ACTIVE)
    assert await store.restore_leases({"000000f1": A, "000000f2": C})
    assert space.raw.hget(space.keys.leases("router~1"), "000000f2") == C


@pytest.mark.parametrize("case", DAMAGES)
async def test_everything_else_goes_on(populated: Space, case: str) -> None:
    DAMAGES[case](populated)
    await everything_goes_on(populated)
    while (departure := await populated.store.leave()) is Departure.PARTIAL:
        pass
    assert departure is Departure.DONE


@pytest.mark.parametrize("case", DAMAGES)
async def test_a_bad_replica_at_the_front_is_passed_over(populated: Space, case: str) -> None:
    """It is the least loaded one of its ready set, so that every session would be given it first."""
    space = populated
    for url in (B, C):
        space.raw.hset(space.keys.replica(url), "in_flight", 50)
        space.raw.zadd(space.keys.ready_primary, {url: 50})
    DAMAGES[case](space)
    space.raw.zadd(space.keys.ready_primary, {A: 0, FOREIGN: 0})
    space.raw.zadd(space.keys.queue, {"router~1/000000f0": 1, f"router~1/{NAMED[:-2]}00": 2})
    assert isinstance(await space.store.acquire("000000f1"), Grant)
    held = space.raw.hgetall(space.keys.leases("router~1"))
    assert {"000000f0", f"{NAMED[:-2]}00", "000000f1"} == held.keys()
    assert set(held.values()) <= {A, B, C}


NOT_NAMED = ("incarnation of two words", "no expiry_ms of a router")
"""The first is as good as any, and the second is written anew by the router's next heartbeat."""


@pytest.mark.parametrize(
    "case", [name for name in DAMAGES if name.split()[0] not in ONLY_FOR_SCRIPTS and name not in NOT_NAMED]
)
async def test_check_names_the_damage_and_mends_what_it_can(populated: Space, case: str) -> None:
    """What stays is named with what to do, and an operator can do that."""
    space = populated
    await everything_sound(space)
    DAMAGES[case](space)
    before = await check(space)
    if case.startswith("foreign in ") and case.rsplit(maxsplit=1)[-1] in (
        "removed",
        "ejected",
        "routers",
        "spare_answered",
    ):
        return  # nothing but the entry itself: a script that meets it takes it out
    assert before, "named"
    await repair(space.store, before, by="me")
    left = await check(space)
    for violation in left:
        assert "move or delete it" in violation.message or "shared-registry add" in violation.message
        if violation.url:
            await space.add(violation.url, request="again", primary=True)
        else:
            space.raw.delete(violation.key)
    await repair(space.store, await check(space), by="me")
    assert await check(space) == []
    is_mendable = not case.startswith(("text", "list")) and case.split()[-1 if case[:2] == "no" else 0] not in (
        MENDED_BY_OPERATOR
    )
    assert is_mendable is not bool(left)


async def everything_sound(space: Space) -> None:
    assert await check(space) == []


async def test_check_names_a_shared_key_alone(populated: Space) -> None:
    """No command works on such a namespace."""
    populated.raw.delete(populated.keys.full)
    populated.raw.set(populated.keys.full, "text")
    (violation,) = await check(populated)
    assert "move or delete it" in violation.message
    with pytest.raises(KeyConflict):
        await populated.store.heartbeat(info(), expiry_seconds=60)


@pytest.mark.parametrize("name", ["replica", "router", "leases"])
async def test_an_observer_shows_all_others(server: EmbeddedServer, populated: Space, name: str) -> None:
    rewrite(HASHES[name], "list")(populated)
    config = RouterConfig(redis_url=server.url, namespace=populated.keys.namespace)
    async with Observer(config) as observer:
        overview = await observer.overview()
        assert {B, C} <= {record.key for record in overview.replicas}
        assert all(record.health.status is ReplicaStatus.HEALTHY for record in overview.replicas)
        assert {"dead~1", "router~1"} <= {router.info.key for router in (await observer.routers()).routers}
        assert {lease.router for lease in (await observer.leases()).leases} >= {"dead~1"}


META_NUMBERS = (
    *("epoch", "next_order", "queue_sequence", "heartbeat_at_ms", "checked_at_ms", "reap_after_ms", "reap_until_ms"),
    *(
        "heartbeats_resumed_at_ms",
        "announcements_resumed_at_ms",
        "announcements_cut_at_ms",
        "older_router_at_ms",
        "probers_version",
    ),
    *("slow_start_ms", "names_cursor", "revision"),
)


@pytest.mark.parametrize("value", ["x", "", "nan", "inf", "-1", "9" * 30])
@pytest.mark.parametrize("field", META_NUMBERS)
async def test_a_wrong_number_in_meta_lasts_until_the_next_heartbeat(populated: Space, field: str, value: str) -> None:
    space, meta = populated, populated.keys.meta
    if field == "names_cursor" and value == "9" * 30:
        value = "x"  # a cursor may have many digits
    space.raw.hset(meta, field, value)
    await space.store.heartbeat(prober("router~1"), expiry_seconds=60)
    assert space.raw.hget(meta, field) != value
    head, (last, *_) = await space.reader.head(), space.raw.xrevrange(space.keys.events, count=1)
    assert head.revision == last[0]
    await everything_goes_on(space)
    await space.add("http://10.0.0.7:8000", request="new")
    term = int(space.raw.hget(space.keys.leader, "epoch"))
    space.raw.delete(space.keys.leader)
    assert await space.elect("other") > term


@pytest.mark.parametrize("field", ["elected_at_ms", "epoch", "lease_ms", "batch", "batch_done"])
async def test_a_wrong_number_of_the_leader_ends_with_its_term(populated: Space, field: str) -> None:
    space = populated
    space.raw.hset(space.keys.leader, field, "x")
    assert isinstance(await space.store_of("other~1").campaign("o", lease_seconds=60, seen_epoch=0), Held)


async def test_a_leaders_damaged_record_stops_no_report(populated: Space) -> None:
    space = populated
    rewrite(lambda space: space.keys.router("router~1"), "list")(space)
    epoch = int(space.raw.hget(space.keys.leader, "epoch"))
    for batch in range(1, THRESHOLDS.failure + 1):
        assert (await space.report(epoch, batch, *results(space, error="down"))).done == len(results(space))
    await space.store.record_outcome(results(space, error="down")[1], THRESHOLDS)
    assert await space.store.resign("token", reason="blind", handicap_seconds=9) is Resignation.RESIGNED
    assert not space.raw.exists(space.keys.leader)
