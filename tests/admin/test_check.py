"""`check` finds every kind of violation, and none while routers are at work."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from shared_registry.admin import inspector
from shared_registry.admin.check import Violation, find_violations
from shared_registry.admin.inspector import QueueInspection
from shared_registry.admin.repair import REPAIRABLE, repair
from shared_registry.embedded import EmbeddedServer
from shared_registry.errors import KeyConflict, StoreUnavailable
from shared_registry.model import AdminState, EventKind, ProbeResult, ReplicaEndpoint, Source
from shared_registry.store.answers import new_token
from shared_registry.store.commands import Store
from shared_registry.store.replies import Grant
from tests.support.space import THRESHOLDS, A, B, C, Space, info, on_server

Plant = Callable[[Space], object]


async def populate(space: Space) -> None:
    """A is a ready primary with a session, B is full, C is a tombstone; a leader and a router are there."""
    await space.add(A, primary=True, weight=3.0)
    await space.add(B, capacity=2)
    for url in (A, B):
        await space.make("healthy", url)
    await space.store.heartbeat(info("router~1"), expiry_seconds=60)
    for lease_id, excluded in (("00000001", B), ("00000002", A), ("00000003", A)):
        await space.store.acquire(lease_id, excluded=[excluded])
    await space.add(C)
    await space.remove(C)
    await space.elect()
    assert space.ready() == ({A}, set(), {B})


async def found(space: Space) -> list[Violation]:
    return await find_violations(space.reader, space.keys)


async def test_check_finds_nothing_in_an_empty_namespace(space: Space) -> None:
    assert await found(space) == []


async def test_check_finds_nothing_in_correct_data(space: Space) -> None:
    await populate(space)
    assert await found(space) == []


def replica(url: str, **fields: str | int) -> Plant:
    return lambda space: space.raw.hset(space.keys.replica(url), mapping=fields)


def sessions(*urls: str, bound: str | None = None, **several: int) -> Plant:
    """A session with leases on these replicas, bound to one; several: the number of its leases on the replicas a, b."""

    def plant(space: Space) -> None:
        for number, url in enumerate(urls):
            space.raw.hset(space.keys.leases("router~1"), f"{number:08x}:anna", url)
            space.raw.hincrby(space.keys.replica(url), "in_flight", 1)
            if url == A:
                space.raw.zincrby(space.keys.ready_primary, 1 / 3, url)
        if bound:
            space.raw.set(space.keys.affinity_prefix + "anna", bound)
        if several:
            counts = {{"a": A, "b": B}[name]: str(count) for name, count in several.items()}
            space.raw.hset(space.keys.several_prefix + "anna", mapping=counts)

    return plant


def expiring(plant: Plant) -> Plant:
    return lambda space: (plant(space), space.raw.pexpire(space.keys.affinity_prefix + "anna", 60_000))


AFFINITY_CASES: dict[str, Plant] = {
    "an affinity without a session": sessions(bound=A),
    "counts without a session": sessions(a=2),
    "counts of a session with one lease": sessions(A, bound=A, a=2),
    "no counts of a session with two leases": sessions(A, A, bound=A),
    "too few leases counted": sessions(A, A, bound=A, a=1),
    "too many leases counted": sessions(A, A, bound=A, a=2, b=1),
    "leases counted elsewhere": sessions(A, B, bound=A, a=2),
    "a session bound elsewhere": sessions(A, bound=B),
    "a session bound to nothing": sessions(A, A, a=2),
    "an affinity that ends before its session": expiring(sessions(A, bound=A)),
}

PLANTED: dict[str, tuple[Plant, str, str, str]] = {
    # what was done, the rule that it breaks, the key to look at, a word of the message
    "a string for a hash": (lambda s: s.raw.set(s.keys.replica(B), "x"), "type", "replica:" + B, "is a string"),
    "a hash for a zset": (
        lambda s: (s.raw.delete(s.keys.replicas), s.raw.hset(s.keys.replicas, "a", 1)),
        "type",
        "replicas",
        "not a zset",
    ),
    "a list for a set": (
        lambda s: (s.raw.delete(s.keys.full), s.raw.rpush(s.keys.full, "a")),
        "type",
        "full",
        "not a set",
    ),
    "a string for the event stream": (lambda s: s.raw.set(s.keys.events, "x"), "type", "events", "not a stream"),
    "a foreign key": (lambda s: s.raw.set(s.keys.prefix + "mine", "x"), "type", "mine", "not a key of the registry"),
    "a capacity that is no number": (replica(A, capacity="many"), "type", "replica:" + A, "many"),
    "a weight that is no number": (replica(A, weight="heavy"), "type", "replica:" + A, "heavy"),
    "a load that is no number": (replica(A, in_flight="1.5"), "type", "replica:" + A, "1.5"),
    "a weight of zero": (replica(A, weight="0"), "type", "replica:" + A, "weight"),
    "a negative weight": (replica(A, weight="-1.0"), "type", "replica:" + A, "weight"),
    "a weight that is not finite": (replica(A, weight="nan"), "type", "replica:" + A, "weight"),
    "a status that does not exist": (replica(B, status="fine"), "type", "replica:" + B, "field status holds 'fine'"),
    "a field missing": (
        lambda s: s.raw.hdel(s.keys.replica(B), "incarnation"),
        "type",
        "replica:" + B,
        "field incarnation is missing",
    ),
    "an event that is none": (
        lambda s: s.raw.xadd(s.keys.events, {"a": "b"}),
        "type",
        "events",
        "field kind is missing",
    ),
    "a load without leases": (replica(A, in_flight=2), "load", "replica:" + A, "in_flight is 2, but 1 leases name it"),
    "a lease that is not counted": (
        lambda s: s.raw.hset(s.keys.leases("router~1"), "00000009", B),
        "load",
        "replica:" + B,
        "in_flight is 2, but 3",
    ),
    "a lease on nothing": (
        lambda s: s.raw.hset(s.keys.leases("router~1"), "00000009", "http://x"),
        "load",
        "replica:http://x",
        "in_flight is missing, but 1",
    ),
    "leases of nobody": (
        lambda s: s.raw.hset(s.keys.leases("router~9"), "00000009", A),
        "lease",
        "leases:router~9",
        "its router is not listed",
    ),
    "a waiter of nobody": (
        lambda s: s.raw.zadd(s.keys.queue, {"router~9/0000000a": 5}),
        "queue",
        "queue",
        "router~9 has waiters or an inbox, but is not listed",
    ),
    "an inbox of nobody": (
        lambda s: s.raw.xadd(s.keys.inbox("router~9"), {"lease_id": "0000000a"}),
        "queue",
        "queue",
        "router~9 has waiters or an inbox, but is not listed",
    ),
    "somebody who waits beside room": (
        lambda s: s.raw.zadd(s.keys.queue, {"router~1/0000000a": 5}),
        "queue",
        "queue",
        "1 sessions wait, although 1 replicas have room",
    ),
    "a list for the queue": (lambda s: s.raw.rpush(s.keys.queue, "x"), "type", "queue", "is a list"),
    "a hash for an inbox": (lambda s: s.raw.hset(s.keys.inbox("r"), "a", 1), "type", "inbox:r", "is a hash"),
    "a list for leases": (lambda s: s.raw.rpush(s.keys.leases("r"), "x"), "type", "leases:r", "is a list"),
    "a negative load": (replica(A, in_flight=-1), "load", "replica:" + A, "in_flight is -1"),
    "a load that the score does not show": (replica(A, in_flight=2), "ready", "ready:primary", "should have 0.666"),
    "a load at which it is full": (replica(A, capacity=1), "ready", "ready:primary", "should have None"),
    "room where it is full": (replica(B, in_flight=1), "ready", "full", "should not be in it"),
    "a status behind its back": (replica(B, status="unhealthy"), "ready", "full", "should not be in it"),
    "an operator's word behind its back": (replica(A, admin="draining"), "ready", "ready:primary", "None"),
    "the other tier": (replica(A, primary="0"), "ready", "ready:secondary", "should have 0.333"),
    "an entry too much": (lambda s: s.raw.zadd(s.keys.ready_secondary, {C: 0}), "ready", "ready:secondary", C),
    "an entry for nothing": (
        lambda s: s.raw.zadd(s.keys.ready_primary, {"http://x": 0}),
        "ready",
        "ready:primary",
        "x",
    ),
    "an entry missing": (lambda s: s.raw.zrem(s.keys.ready_primary, A), "ready", "ready:primary", "has None"),
    "a wrong score": (lambda s: s.raw.zadd(s.keys.ready_primary, {A: 0.5}), "ready", "ready:primary", "has 0.5"),
    "a full one forgotten": (lambda s: s.raw.srem(s.keys.full, B), "ready", "full", "should be in it"),
    "one that is full of nothing": (lambda s: s.raw.sadd(s.keys.full, A), "ready", "full", A),
    "a url without a hash": (
        lambda s: s.raw.zadd(s.keys.replicas, {"http://x": 9}),
        "membership",
        "replicas",
        "no hash",
    ),
    "a hash without a url": (
        lambda s: s.raw.zrem(s.keys.replicas, A),
        "membership",
        "replica:" + A,
        "order in replicas None",
    ),
    "a url with a tombstone": (
        lambda s: s.raw.zadd(s.keys.replicas, {C: 9}),
        "membership",
        "replica:" + C,
        "'removed'",
    ),
    "another order": (replica(A, order=7), "membership", "replica:" + A, "order"),
    "a gap in the event stream": (
        lambda s: s.raw.xdel(s.keys.events, s.raw.xrange(s.keys.events)[3][0]),
        "events",
        "events",
        "comes after",
    ),
    "a event stream without its last event": (
        lambda s: s.raw.xdel(s.keys.events, s.raw.xrevrange(s.keys.events, count=1)[0][0]),
        "events",
        "meta",
        "not the last event's id",
    ),
    "another revision": (lambda s: s.raw.hset(s.keys.meta, "revision", "5-5"), "events", "meta", "revision 5-5"),
    "no revision": (lambda s: s.raw.hdel(s.keys.meta, "revision"), "events", "meta", "revision 0-0"),
    "a event stream that is gone": (lambda s: s.raw.delete(s.keys.events), "events", "events", "empty"),
    "an epoch that fell": (lambda s: add_event(s, epoch="1"), "events", "events", "epoch 1 after"),
}


def add_event(space: Space, **fields: str) -> None:
    """Append an event as a command would, but for the given fields."""
    head = space.raw.hgetall(space.keys.meta)
    entry = {"at_ms": "1", "prev": head["revision"], "epoch": head["epoch"], "kind": "router_left", "router": "r"}
    space.raw.hset(space.keys.meta, "revision", space.raw.xadd(space.keys.events, entry | fields))


@pytest.mark.parametrize("case", PLANTED)
async def test_check_finds_every_planted_violation(space: Space, case: str) -> None:
    await populate(space)
    plant, rule, key, words = PLANTED[case]
    plant(space)
    violations = await found(space)
    wanted = [each for each in violations if (each.rule, each.key) == (rule, space.keys.prefix + key)]
    assert [each for each in wanted if words in each.message], violations


async def test_one_violation_does_not_hide_another(space: Space) -> None:
    await populate(space)
    for case in ("a weight of zero", "a full one forgotten", "another revision"):
        PLANTED[case][0](space)
    assert {each.rule for each in await found(space)} == {"type", "ready", "events"}


async def test_a_score_may_differ_by_rounding_only(space: Space) -> None:
    await populate(space)
    score = space.raw.zscore(space.keys.ready_primary, A)
    space.raw.zadd(space.keys.ready_primary, {A: score * (1 + 1e-12)})
    assert await found(space) == []
    space.raw.zadd(space.keys.ready_primary, {A: score * (1 + 1e-6)})
    assert await found(space)


async def test_checking_changes_nothing(space: Space) -> None:
    await populate(space)
    before = space.dump()
    await found(space)
    assert space.dump() == before


async def test_a_server_that_is_down_is_no_violation(own_server: Callable[..., EmbeddedServer]) -> None:
    server = own_server()
    async with on_server(server.url, "own") as space:
        await populate(space)
        server.kill()
        with pytest.raises(StoreUnavailable):
            await found(space)


async def do_something(space: Space, store: Store, rng: random.Random) -> None:
    url, token = f"http://10.0.0.{rng.randrange(12)}:80", f"token {rng.randrange(4)}"
    incarnation = (await space.clients.commands.hgetall(space.keys.replica(url))).get("incarnation", "none")
    spec = ReplicaEndpoint(url, primary=rng.random() < 0.5, capacity=rng.randrange(2), weight=rng.choice([0.3, 2.0]))
    state = rng.choice([AdminState.ACTIVE, AdminState.DRAINING, AdminState.DISABLED])
    result = ProbeResult(url, incarnation, 1.0, rng.choice([None, None, "refused"]))
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: store.register(url, spec, mode=Source.EXPLICIT, request=new_token()),
        lambda: store.register(url, spec, mode=Source.SEED, request=new_token()),
        lambda: store.deregister(url, incarnation),
        lambda: store.set_admin(url, state, reason=f"{rng.random()}"),
        lambda: store.record_outcome(result, THRESHOLDS),
        lambda: store.record_outcome(result, THRESHOLDS),
        lambda: store.heartbeat(info(token), expiry_seconds=60),
        store.leave,
        lambda: store.campaign(token, lease_seconds=60, seen_epoch=0),
        lambda: store.resign(token),
        lambda: step_down(space, store),
    ]
    await rng.choice(calls)()


async def step_down(space: Space, store: Store) -> None:
    leader = await space.reader.leader()
    if leader is not None:
        await store.step_down(leader.epoch, sit_out_seconds=9, by="me")


@pytest.mark.parametrize("wanted", [10, pytest.param(172, marks=pytest.mark.long)])
@pytest.mark.parametrize("is_large", [False, True])
async def test_check_finds_nothing_while_routers_work(
    space: Space, monkeypatch: pytest.MonkeyPatch, is_large: bool, wanted: int
) -> None:
    """Four routers do everything that they can, as fast as they can; in a large namespace all is read in pieces."""
    counts: Counter[str] = Counter()
    if is_large:
        for name in ("LEASES_AT_ONE_INSTANT", "SESSIONS_AT_ONCE", "URLS_AT_ONCE"):
            monkeypatch.setattr(inspector, name, 2)

    def is_enough() -> bool:
        return counts["done"] >= 600 and counts["checked"] >= wanted

    async def work(number: int) -> None:
        rng, store = random.Random(number), space.store_of(f"router~{number}")
        while not is_enough():
            await do_something(space, store, rng)
            counts["done"] += 1

    async def check() -> None:
        while not is_enough():
            assert await found(space) == []
            counts["checked"] += 1

    await asyncio.gather(*(work(number) for number in range(4)), check())
    assert await found(space) == []


@pytest.mark.parametrize("case", AFFINITY_CASES)
async def test_an_affinity_that_disagrees_with_leases_is_repaired(space: Space, case: str) -> None:
    await populate(space)
    AFFINITY_CASES[case](space)
    wrong = await found(space)
    assert [(one.rule, one.key) for one in wrong] == [("affinity", space.keys.affinity_prefix + "anna")]
    assert await repair(space.store, wrong, by="me")
    assert await found(space) == []
    (event,) = await space.reader.last_events(1)
    assert (event.kind, event.by) == (EventKind.NAMESPACE_REPAIRED, "me")


@pytest.mark.parametrize(
    "plant",
    [
        sessions(A, bound=A),
        sessions(A, A, bound=A, a=2),
        sessions(A, B, B, bound=A, a=1, b=2),
        expiring(sessions(bound=A)),
    ],
)
async def test_an_affinity_that_agrees_is_left_alone(space: Space, plant: Plant) -> None:
    await populate(space)
    plant(space)
    assert await found(space) == []


@pytest.mark.parametrize("case", AFFINITY_CASES)
async def test_a_session_that_has_changed_since_is_left_alone(space: Space, case: str) -> None:
    await populate(space)
    AFFINITY_CASES[case](space)
    wrong = await found(space)
    space.raw.set(space.keys.affinity_prefix + "anna", C)
    before = space.dump()
    await repair(space.store, wrong, by="me")
    assert space.dump() == before


async def test_many_wrong_affinities_are_all_found_and_repaired(space: Space) -> None:
    await populate(space)
    for number in range(450):
        space.raw.set(f"{space.keys.affinity_prefix}{number}", A)
    wrong = await found(space)
    assert len(wrong) == 450
    assert await repair(space.store, wrong, by="me")
    assert await found(space) == []
    assert len(await space.reader.last_events(5)) == 5


async def test_a_session_that_begins_and_ends_is_no_false_alarm(space: Space) -> None:
    """It does nothing else, and has an affinity without an end about half of the time."""
    await populate(space)
    checked = 0

    async def come_and_go(number: int) -> None:
        while checked < 20:
            lease_id = f"{number:02x}{space.now_ms():030x}:anna{number}"
            await space.store.acquire(lease_id)
            await space.store.release(lease_id, affinity_seconds=60)

    async def check() -> None:
        nonlocal checked
        while checked < 20:
            assert await found(space) == []
            checked += 1

    await asyncio.gather(*(come_and_go(number) for number in range(8)), check())


NOT_REPAIRED = {"a lease on nothing"}
IS_KNOWN = {"a load that is no number", "a status that does not exist"}
"""They do not parse. The first follows from the leases all the same, and probes find out the second."""


@pytest.mark.parametrize("case", [name for name in PLANTED if PLANTED[name][1] in REPAIRABLE or name in IS_KNOWN])
async def test_repair_restores_what_follows_from_other_data(space: Space, case: str) -> None:
    await populate(space)
    PLANTED[case][0](space)
    assert await repair(space.store, await found(space), by="me")
    left = await found(space)
    assert [each.key for each in left] == ([space.keys.replica("http://x")] if case in NOT_REPAIRED else [])
    (event,) = await space.reader.last_events(1)
    assert ((event.kind, event.by) == (EventKind.NAMESPACE_REPAIRED, "me")) is (case not in NOT_REPAIRED)


@pytest.mark.parametrize(
    "case", [name for name in PLANTED if PLANTED[name][1] not in REPAIRABLE and name not in IS_KNOWN]
)
async def test_repair_leaves_alone_what_only_its_owner_knows(space: Space, case: str) -> None:
    await populate(space)
    PLANTED[case][0](space)
    before = await found(space)
    with contextlib.suppress(KeyConflict):
        await repair(space.store, before, by="me")
    left = {(each.key, each.message) for each in await found(space) if each.rule == "type"}
    assert left == {(each.key, each.message) for each in before if each.rule == "type"}


async def test_repairing_correct_data_changes_nothing(space: Space) -> None:
    await populate(space)
    before = space.dump()
    assert not await repair(space.store, [], by="me")
    urls = [A, B, C, "http://never"]
    assert await space.store.repair(loads=dict.fromkeys(urls), routers=["router~1"], first_event="", by="me") == 0
    assert space.dump() == before


async def test_repairing_an_empty_namespace_writes_nothing(space: Space) -> None:
    assert await space.store.repair(loads=dict.fromkeys([A]), routers=["router~1"], first_event="", by="me") == 0
    assert space.raw.keys(space.keys.prefix + "*") == []


async def test_repair_begins_a_lost_event_stream_again(space: Space) -> None:
    await populate(space)
    before = await space.reader.head()
    space.raw.delete(space.keys.events)
    assert await space.store.repair(loads={}, routers=[], first_event="", by="me") == 1
    (event,) = await space.reader.last_events(1)
    assert (event.kind, event.previous) == (EventKind.NAMESPACE_REPAIRED, before.revision)
    assert (await space.reader.head()).revision == event.id
    assert await space.store.repair(loads={}, routers=[], first_event="", by="me") == 0


async def test_repairing_while_routers_are_at_work_loses_nothing(space: Space) -> None:
    await populate(space)
    is_over = False

    async def work(number: int) -> None:
        store = space.store_of(f"router~{number}")
        await store.heartbeat(info(f"router~{number}"), expiry_seconds=60)
        turn = 0
        while not is_over:
            turn += 1
            lease_id = f"{number}{turn:07x}"
            if isinstance(await store.acquire(lease_id), Grant) and turn % 3:
                await store.release(lease_id)

    async def repair_often() -> None:
        nonlocal is_over
        for _ in range(50):
            await space.store.repair(loads=dict.fromkeys([A, B, C]), routers=[], first_event="", by="me")
            assert [each for each in await found(space) if each.rule == "load"] == []
        is_over = True

    await asyncio.gather(*(work(number) for number in range(2, 5)), repair_often())
    assert await found(space) == []


@pytest.fixture
def in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat the leases as too many to be counted at one instant."""
    monkeypatch.setattr("shared_registry.admin.inspector.LEASES_AT_ONE_INSTANT", -1)


@pytest.mark.usefixtures("in_pieces")
@pytest.mark.parametrize("case", [name for name in PLANTED if PLANTED[name][1] in ("load", "lease")])
async def test_leases_counted_in_pieces_are_found_and_repaired(space: Space, case: str) -> None:
    await populate(space)
    PLANTED[case][0](space)
    before = await found(space)
    assert PLANTED[case][1:3] in [(each.rule, each.key.removeprefix(space.keys.prefix)) for each in before]
    await repair(space.store, before, by="me")
    left = await found(space)
    assert [each.key for each in left] == ([space.keys.replica("http://x")] if case in NOT_REPAIRED else [])


@pytest.mark.usefixtures("in_pieces")
async def test_sessions_at_work_are_no_difference_between_pieces(space: Space) -> None:
    """A load that somebody wrote by hand is found after them."""
    await populate(space)
    is_over = False

    async def work(number: int) -> None:
        store = space.store_of(f"router~{number}")
        await store.heartbeat(info(f"router~{number}"), expiry_seconds=60)
        at = 0
        while not is_over:
            at += 1
            lease_id = f"{number:08x}{at:024x}"
            if isinstance(await store.acquire(lease_id, excluded=[B]), Grant):
                await asyncio.sleep(0.001 * (at % 7))
                await store.release(lease_id)

    async def check_often() -> None:
        nonlocal is_over
        try:
            for _ in range(20):
                assert [each for each in await found(space) if each.rule == "load"] == []
        finally:
            is_over = True

    await asyncio.gather(*(work(number) for number in range(2, 5)), check_often())
    space.raw.hset(space.keys.replica(A), "in_flight", 7)
    assert [each.url for each in await found(space) if each.rule == "load"] == [A]


async def test_a_load_that_has_changed_since_is_not_overwritten(space: Space) -> None:
    """A repair that is sent twice changes nothing the second time."""
    await populate(space)
    space.raw.hset(space.keys.replica(A), "in_flight", 7)
    assert await space.store.repair(loads={A: ("7", 1)}, routers=[], first_event="", by="me")
    assert await space.store.repair(loads={A: ("7", 1)}, routers=[], first_event="", by="me") == 0
    space.raw.hset(space.keys.replica(A), "in_flight", 5)
    await space.store.repair(loads={A: ("7", 1)}, routers=[], first_event="", by="me")
    assert space.fields(A)["in_flight"] == "5"


async def test_a_long_queue_is_read_in_pages(space: Space) -> None:
    """Routers that are not listed, and sessions that wait beside room, are found on any of them."""
    await space.store.heartbeat(info("router~1"), expiry_seconds=60)
    waiters = {f"router~1/{number:08x}": number for number in range(2500)}
    space.raw.zadd(space.keys.queue, waiters | {"gone~1/00000001": 3000})
    assert await space.reader.inspect_queue(["gone~2"]) == QueueInspection(2500, 0, ["gone~2", "gone~1"])
    space.raw.zadd(space.keys.ready_primary, {A: 0})
    assert (await space.reader.inspect_queue([])).ready == 1
    space.raw.zremrangebyrank(space.keys.queue, 0, 1999)
    assert (await space.reader.inspect_queue([])).waiting == 500
    space.raw.delete(space.keys.queue, space.keys.ready_primary)
    assert await space.reader.inspect_queue([]) == QueueInspection(0, 0, [])


@pytest.mark.parametrize("value", [None, "soon"])
async def test_a_router_record_without_its_expiry_is_named(space: Space, value: str | None) -> None:
    await populate(space)
    await space.store_of("router~1").heartbeat(info("router~1"), expiry_seconds=60)
    key = space.keys.router("router~1")
    assert await found(space) == []
    space.raw.hdel(key, "expiry_ms")
    if value:
        space.raw.hset(key, "expiry_ms", value)
    (violation,) = wrong = await found(space)
    assert (violation.rule, violation.key) == ("membership", key)
    assert "expiry_ms" in violation.message
    await repair(space.store, wrong, by="me")
    assert await found(space) == [violation]
    await space.store_of("router~1").heartbeat(info("router~1"), expiry_seconds=60)
    assert await found(space) == []
