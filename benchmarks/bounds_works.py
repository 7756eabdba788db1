"""What is done in the large namespace: for each script, the situation in which one call has most to do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from benchmarks.bounds_namespace import CAPACITY, Namespace, lease_ids, session
from shared_registry.admin.check import Violation, find_violations
from shared_registry.admin.repair import repair
from shared_registry.leader.ramps import URLS_AT_ONCE as RAMPS_AT_ONCE
from shared_registry.leader.unreported import RESULTS_AT_ONCE
from shared_registry.leases.reconciliation import RESTORED_AT_ONCE
from shared_registry.mirror.restoration import ENTRIES_AT_ONCE
from shared_registry.model import (
    AdminState,
    ConnectedSessions,
    EjectionLimits,
    Opinion,
    OpinionKind,
    ProbeResult,
    ReplicaEndpoint,
    Share,
    Source,
    Term,
    Thresholds,
)
from shared_registry.model.plan import BUCKETS, bucket_of
from shared_registry.probing.peer import OPINIONS_AT_ONCE
from shared_registry.registry.membership import DRAINS_AT_ONCE
from shared_registry.store.answers import new_token
from shared_registry.store.codec import removed_entry, restored_entry
from shared_registry.store.replies import Departure

Work = Callable[[], Awaitable[object]]

CHANGES = 500
LIMITS = Thresholds(failure=3, recovery=2, interval_seconds=5.0, timeout_seconds=2.0)
EJECTION = EjectionLimits(max_percent=50.0, failures=5)
WAITERS_ASKED = 2000
"""How many waiters of one router are asked for their positions."""


def works(space: Namespace) -> dict[str, Work]:
    """Return what is done, in this order. The queue is filled by the second one."""
    named: list[Callable[[Namespace], Awaitable[object]]] = [
        sessions_at_once,
        sessions_that_wait,
        reads,
        heartbeats_after_ejections,
        verdicts_of_the_leader,
        verdicts_of_participants,
        words_of_peers,
        outcomes_among_ejected,
        duties_of_the_leader,
        operators,
        upgrades,
        leases_put_back,
        views_put_back,
        checks,
        repairs,
        departures,
    ]
    return {work.__name__.replace("_", " "): _bound(work, space) for work in named}


def _bound(work: Callable[[Namespace], Awaitable[object]], space: Namespace) -> Work:
    return lambda: work(space)


async def sessions_at_once(space: Namespace) -> None:
    """Nobody waits: sessions without a name begin and end, many in one turn of the event loop."""
    ids = [f"{2 * 10**6 + at:032x}" for at in range(CHANGES)]
    urls = space.urls[:CHANGES]
    for url in urls:
        await space.store.register(
            url, ReplicaEndpoint(url, capacity=2 * CAPACITY), mode=Source.EXPLICIT, request=new_token()
        )
    await asyncio.gather(*(space.store.acquire(one) for one in ids))
    await asyncio.gather(*(space.store.release(one) for one in ids))
    for url in urls:
        await space.store.register(
            url, ReplicaEndpoint(url, capacity=CAPACITY), mode=Source.EXPLICIT, request=new_token()
        )


async def sessions_that_wait(space: Namespace) -> None:
    """Everybody waits: sessions join the queue, ask to leave out replicas, and end while others wait."""
    space.fill_queue()
    for number in range(100):
        await space.store.acquire(f"{3 * 10**6 + number:032x}", max_queue=10**6)
        await space.store.acquire(f"{4 * 10**6 + number:032x}", excluded=space.urls[:20])
        await space.store.acquire(f"{5 * 10**6 + number:032x}:{session(number, 0)}", max_queue=10**6)
        await space.store.release(lease_ids(number * len(space.routers))[0], affinity_seconds=60)
        await space.store.release(f"{3 * 10**6 + number:032x}")
    for router in space.routers:
        await space.heartbeat(router)


async def reads(space: Namespace) -> None:
    """A mirror starts, and an operator looks at everything."""
    reader = space.reader
    snapshot = await reader.snapshot()
    await reader.loads({url: record.endpoint for url, record in snapshot.records.items()})
    async for _ in reader.waiters():
        pass
    async for _ in reader.leases(space.routers[0]):
        pass
    await reader.last_events(10_000)
    await reader.poll(after="0-0")
    waiting = [one.partition("/")[2] for one in space.raw.zrange(space.keys.queue, 0, WAITERS_ASKED)]
    await reader.positions(space.routers[0], waiting)


async def heartbeats_after_ejections(space: Namespace) -> None:
    """Ejections of many replicas with free slots are over, and many more wait to be removed without a session."""
    over = space.urls[-CHANGES:]
    space.set_each(over, {"ejected_until_ms": 1, "in_flight": 0})
    space.raw.srem(space.keys.full, *over)
    space.raw.zadd(space.keys.ejected, dict.fromkeys(over, 1))
    for at in range(len(space.routers)):
        drained = over[at * DRAINS_AT_ONCE :][:DRAINS_AT_ONCE]
        state = {"admin": AdminState.DRAINING.value, "removes_when_drained": "1", "in_flight": 0}
        space.set_each(drained, state)
        await space.heartbeat(space.routers[at], drains=drained)
    for router in space.routers:
        await space.heartbeat(router)


async def verdicts_of_the_leader(space: Namespace) -> None:
    """Many replicas fail at once and recover at once, and panic begins and ends."""
    term = await space.lead()
    await _fail_and_recover(space, term, space.urls[:CHANGES])
    await space.store.declare_panic(term, "many fail")
    await space.store.declare_panic(term, "")


async def verdicts_of_participants(space: Namespace) -> None:
    """The same, for the share of a router in a plan."""
    term = await space.lead()
    own, other = space.routers[1], space.routers[2]
    for at in range(10):
        shares = {bucket: space.routers[(at + number) % len(space.routers)] for number, bucket in enumerate(BUCKETS)}
        await space.store.write_plan(term, shares)
        await space.store.participants(term)
    await space.store.write_plan(term, {bucket: own if at % 2 else other for at, bucket in enumerate(BUCKETS)})
    plan = (await space.store.participants(term)).plan
    if plan is None:
        raise TypeError("there is no plan")
    buckets = set(BUCKETS[1::2])
    urls = [url for url in space.urls if bucket_of(url) in buckets][:CHANGES]
    await _fail_and_recover(space, Share(plan.number, own), urls)
    await space.store.write_plan(term, {})


async def _fail_and_recover(space: Namespace, mandate: Term | Share, urls: Sequence[str]) -> None:
    store = space.store if isinstance(mandate, Term) else space.store_of(mandate.router)
    down, batch = _results(space, urls, "down"), 0
    up = [replace(one, error=None) for one in down]
    for round_ in range(6):
        if round_ == 3:
            space.set_each([one.key for one in down], {"suspected_until_ms": 1})
        if round_ == 4:  # their sessions have gone elsewhere
            space.set_each([one.key for one in down], {"in_flight": 0})
        rest = down if round_ < 4 else up
        while rest:
            batch += 1
            rest = rest[(await store.report(mandate, batch, rest[:RESULTS_AT_ONCE], LIMITS)).done :]


def _results(space: Namespace, urls: Sequence[str], error: str | None) -> list[ProbeResult]:
    pipe = space.raw.pipeline(transaction=False)
    for url in urls:
        pipe.hget(space.keys.replica(url), "incarnation")
    return [ProbeResult(url, one, 1.0, error) for url, one in zip(urls, pipe.execute(), strict=True)]


async def words_of_peers(space: Namespace) -> None:
    """Questions about many replicas are answered, and many unhealthy replicas are reached by another router."""
    urls = space.urls[CHANGES : 2 * CHANGES]
    down = _results(space, urls, "down")
    up = [replace(one, error=None) for one in down]
    for asked, results in (("r1~1 r2~1", up), ("r1~1", down)):
        questions = {"suspicion": "1", "suspected_by": "r0~1", "suspected_at_ms": space.now_ms(), "asked": asked}
        space.set_each(urls, questions)
        await _say(space, OpinionKind.OPINION, results)
    space.set_each(urls, {"in_flight": 0})
    await _say(space, OpinionKind.APPEAL, up)
    await _say(space, OpinionKind.REPORT, up)


async def _say(space: Namespace, kind: OpinionKind, results: Sequence[ProbeResult]) -> None:
    store, opinions = space.store_of("r1~1"), [Opinion(kind, "1", result) for result in results]
    while opinions:
        opinions = opinions[(await store.give_opinions(opinions[:OPINIONS_AT_ONCE], LIMITS)).done :]


async def outcomes_among_ejected(space: Namespace) -> None:
    """Sessions fail on replicas, while as many are ejected as may be."""
    ejected = space.urls[len(space.urls) // 2 :]
    until_ms = space.now_ms() + 10**6
    space.set_each(ejected, {"ejected_until_ms": until_ms})
    space.raw.zadd(space.keys.ejected, dict.fromkeys(ejected, until_ms))
    urls = space.urls[1000 : 1000 + 50]
    answered = {"last_ok_at_ms": space.now_ms() + 10**5, "consecutive_failures": 0, "announced_at_ms": 1}
    failing = {"sessions_failing_since_ms": space.now_ms() - 10**4, "session_failures": 9, "failing_client": "*"}
    space.set_each(urls, {**answered, **failing})
    for one in _results(space, urls, "status 500"):
        await space.store.record_outcome(
            one, LIMITS, is_passive=True, sessions=ConnectedSessions(1, "*"), ejection=EJECTION
        )
    pipe = space.raw.pipeline(transaction=False)
    for url in ejected:
        pipe.hdel(space.keys.replica(url), "ejected_until_ms")
    pipe.delete(space.keys.ejected)
    pipe.execute()


async def duties_of_the_leader(space: Namespace) -> None:
    """A leader is elected, advances ramps, and steps down."""
    urls = space.urls[: 2 * RAMPS_AT_ONCE]
    since = {"slow_start_ms": 10**6, "status_since_ms": space.now_ms()}
    space.set_each(urls[:RAMPS_AT_ONCE], since)
    space.set_each(urls[RAMPS_AT_ONCE:], {**since, "status_since_ms": 1})
    for _ in range(10):
        term = await space.lead()
        await space.store_of("r1~1").campaign(new_token(), lease_seconds=600, seen_epoch=0)
        await space.store.renew(term.token, lease_seconds=600)
        for half in (urls[:RAMPS_AT_ONCE], urls[RAMPS_AT_ONCE:]):
            await space.store.advance_ramps(term, half, slow_start_seconds=1000)
        await space.store.resign(term.token, reason="unfit", handicap_seconds=10)
    await space.store.step_down((await space.lead()).epoch, sit_out_seconds=10)
    space.raw.hdel(space.keys.meta, "slow_start_ms")


async def operators(space: Namespace) -> None:
    """Operators disable, enable, enlarge, remove and add replicas."""
    for url in space.urls[200:250]:
        await space.store.set_admin(url, AdminState.DISABLED)
        await space.store.set_admin(url, AdminState.ACTIVE)
        larger = ReplicaEndpoint(url, capacity=20 * CAPACITY)
        await space.store.register(url, larger, mode=Source.EXPLICIT, request=new_token())
        incarnation = space.raw.hget(space.keys.replica(url), "incarnation")
        await space.store.deregister(url, incarnation)
        await space.store.register(url, larger, mode=Source.EXPLICIT, request=new_token())


async def upgrades(space: Namespace) -> None:
    """Operators ask for a newer schema, and routers of an older version live."""
    await space.store.upgrade(by="operator", is_dry_run=True)
    space.raw.hset(space.keys.meta, "schema", "1-2")
    for router in space.routers:
        space.raw.hset(space.keys.router(router), "schemas", "1-1")
    await space.store.upgrade(by="operator")
    for router in space.routers:
        await space.heartbeat(router)
    await space.store.upgrade(by="operator", is_dry_run=False)
    space.raw.hset(space.keys.meta, "schema", "2")


async def leases_put_back(space: Namespace) -> None:
    """A router puts back leases of named sessions that Redis has lost, or has on other replicas."""
    urls = space.urls[500 : 500 + CHANGES]
    lost = {f"{6 * 10**6 + at:032x}:{session(at, 2)}": url for at, url in enumerate(urls)}
    moved = dict(zip(lost, (*urls[1:], urls[0]), strict=True))
    for leases in (lost, moved):
        items = [*leases.items()]
        for at in range(0, len(items), RESTORED_AT_ONCE):
            await space.store.restore_leases(dict(items[at : at + RESTORED_AT_ONCE]), is_lost=leases is lost)
        space.raw.delete(space.keys.settling)


async def views_put_back(space: Namespace) -> None:
    """A router's view is restored over what an earlier view has restored, and removes what it does not have."""
    records, _ = await space.reader.read_each(space.urls[:CHANGES])
    entries = [restored_entry("replica", record) for record in records.values()]
    absent = [removed_entry("absent", url) for url in records]
    for at in range(0, len(entries), ENTRIES_AT_ONCE):
        chunk = slice(at, at + ENTRIES_AT_ONCE)
        urls = [entry[1] for entry in entries[chunk]]
        space.set_each(urls, {"restored_from": "1-0 lost", "in_flight": 0})
        await space.store.restore(entries[chunk], view_history_id="lost", view_revision="2-0")
        await space.store.restore(absent[chunk], view_history_id="lost", view_revision="3-0")
        await space.store.restore(entries[chunk], view_history_id="lost", view_revision="4-0")


async def checks(space: Namespace) -> None:
    """An operator checks the namespace, in which nothing is wrong with sessions."""
    await find_violations(space.reader, space.keys)


async def repairs(space: Namespace) -> None:
    """Many replicas and sessions are wrong, and sessions of a router that nobody knows have leases."""
    urls = space.urls[1000 : 1000 + 2 * CHANGES]
    space.set_each(urls, {"in_flight": 9, "status": "nonsense", "last_ok_at_ms": "nonsense"})
    space.raw.hset(space.keys.leases("unlisted~1"), mapping={f"{at:032x}": space.urls[0] for at in range(2500)})
    for number in range(CHANGES):
        space.raw.set(space.keys.affinity_prefix + session(number, 1), "http://elsewhere")
    violations: list[Violation] = await find_violations(space.reader, space.keys)
    await repair(space.store, violations, by="benchmark")


async def departures(space: Namespace) -> None:
    """A router dies and another one stops. Some of their replicas are to be removed with their last sessions."""
    for gone in (space.routers[-1], space.routers[-2]):
        urls = [url for number, url in enumerate(space.urls) if space.router_of(number) == gone]
        drains = {"admin": AdminState.DRAINING.value, "removes_when_drained": "1"}
        space.set_each(urls[::2], drains)
    gone = space.routers[-1]
    space.raw.zadd(space.keys.routers, {gone: 1})
    while await space.store.reap(gone, affinity_seconds=60) is Departure.PARTIAL:
        pass
    while await space.store_of(space.routers[-2]).leave(affinity_seconds=60) is Departure.PARTIAL:
        pass
