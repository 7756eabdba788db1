"""The plan by which routers share the probing, as the scripts keep it: who may take part, and who may report."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from shared_registry.embedded import EmbeddedServer
from shared_registry.errors import Fenced
from shared_registry.model import Event, EventKind, Plan, ProbeResult, Share, Term, Thresholds
from shared_registry.model.plan import BUCKETS, bucket_of
from shared_registry.store.replies import Elected, Report
from tests.support.space import A, B, Space, info, on_server

INTERVAL_MS = 60_000
LIMITS = Thresholds(failure=3, recovery=2, interval_seconds=INTERVAL_MS / 1000, timeout_seconds=2.0)
LEADER, TWO, THREE = (f"router~{number}" for number in range(1, 4))
EXPIRY_MS = 60_000


class Planned:
    """A namespace with a leader and other routers that offer to share."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.term = Term(0, "")
        self._batches = dict[str, int]()

    async def join(self, *routers: str, probe_print: str = "same", probing: str = "shared") -> None:
        for router in routers:
            described = replace(info(router), machine=f"of-{router}", probe_print=probe_print, probing=probing)
            await self.space.store_of(router).heartbeat(described, expiry_seconds=EXPIRY_MS / 1000)
        meta, now = self.space.keys.meta, self.space.now_ms()
        self.space.raw.hset(meta, mapping={"reap_after_ms": now - 1, "heartbeats_resumed_at_ms": now - EXPIRY_MS})
        self.space.raw.hset(meta, "reap_until_ms", now + EXPIRY_MS)

    async def lead(self, router: str = LEADER, token: str = "token") -> None:
        self.space.raw.delete(self.space.keys.leader)
        elected = await self.space.store_of(router).campaign(token, lease_seconds=60, seen_epoch=0)
        assert isinstance(elected, Elected)
        self.term = Term(elected.epoch, token)

    async def routers(self) -> list[str]:
        return [*(await self.space.store.participants(self.term)).routers]

    async def plan(self) -> Plan:
        plan = await self.space.reader.plan()
        assert plan is not None
        return plan

    async def give(self, others: str, **owners: str) -> Plan:
        """Write a plan: all buckets to one router, but those of A and B as said."""
        urls = {"a": A, "b": B}
        shares = dict.fromkeys(BUCKETS, others) | {bucket_of(urls[name]): owner for name, owner in owners.items()}
        await self.space.store.write_plan(self.term, shares)
        return await self.plan()

    async def report(
        self, router: str, plan: Plan, *results: ProbeResult, batch: int | None = None, limits: Thresholds = LIMITS
    ) -> Report:
        self._batches[router] = self._batches.get(router, 0) + 1
        number = self._batches[router] if batch is None else batch
        return await self.space.store_of(router).report(Share(plan.number, router), number, results, limits)

    def let_pass(self, ms: int) -> None:
        written = int(self.space.raw.hget(self.space.keys.plan, "written_at_ms"))
        self.space.raw.hset(self.space.keys.plan, "written_at_ms", written - ms)

    def failures(self, url: str = A) -> int:
        return int(self.space.fields(url)["consecutive_failures"])

    async def events(self, kind: EventKind) -> list[Event]:
        return [event async for event in self.space.reader.all_events() if event.kind is kind]


@pytest.fixture
async def planned(server: EmbeddedServer, namespace: str) -> AsyncIterator[Planned]:
    async with on_server(server.url, namespace) as space:
        planned = Planned(space)
        assert bucket_of(A) != bucket_of(B)
        await space.add(A)
        await space.add(B)
        await planned.join(LEADER, TWO, THREE)
        await planned.lead()
        yield planned


async def test_routers_that_offer_it_and_probe_alike_take_part(planned: Planned) -> None:
    assert await planned.routers() == [LEADER, TWO, THREE]
    await planned.join(TWO, probing="leader")
    await planned.join(THREE, probe_print="another")
    assert await planned.routers() == [LEADER]
    await planned.join(LEADER, probe_print="another")
    assert await planned.routers() == [LEADER, THREE]
    planned.space.raw.hdel(planned.space.keys.router(THREE), "probing")  # a router of an earlier version
    assert await planned.routers() == [LEADER]


async def test_a_router_that_has_expired_takes_no_part(planned: Planned) -> None:
    member = next(one for one in planned.space.raw.zrange(planned.space.keys.probers, 0, -1) if one.endswith(TWO))
    planned.space.raw.zadd(planned.space.keys.probers, {member: planned.space.now_ms() - 1})
    assert await planned.routers() == [LEADER, THREE]
    planned.space.raw.hset(planned.space.keys.meta, "reap_after_ms", planned.space.now_ms() + 9999)
    assert await planned.routers() == [LEADER, TWO, THREE], "after an outage nobody is dead yet"


async def test_a_leader_that_does_not_probe_plans_with_nobody(planned: Planned) -> None:
    planned.space.raw.delete(planned.space.keys.router(LEADER))
    assert await planned.routers() == []


async def test_only_the_leader_lists_and_writes(planned: Planned) -> None:
    await planned.give(TWO)
    before = planned.space.dump()
    for term in (Term(planned.term.epoch, "other"), Term(planned.term.epoch - 1, "token")):
        with pytest.raises(Fenced, match="its plan was refused"):
            await planned.space.store.write_plan(term, {})
        with pytest.raises(Fenced):
            await planned.space.store.participants(term)
    assert planned.space.dump() == before


async def test_a_new_plan_is_one_event_with_all_shares(planned: Planned) -> None:
    plan = await planned.give(LEADER, a=TWO)
    assert await planned.give(LEADER, a=TWO) == plan, "the same plan is not written again"
    (event,) = await planned.events(EventKind.PLAN_CHANGED)
    assert event.plan == plan
    assert (plan.prober_of(A), plan.prober_of(B), plan.routers) == (TWO, LEADER, frozenset({LEADER, TWO}))
    assert (event.router, event.epoch, plan.epoch) == (LEADER, planned.term.epoch, planned.term.epoch)
    assert (await planned.space.reader.snapshot()).plan == plan


async def test_the_next_term_has_a_plan_of_its_own(planned: Planned) -> None:
    first = await planned.give(LEADER, a=TWO)
    await planned.lead(TWO, "theirs")
    second = await planned.give(LEADER, a=TWO)
    assert second.number > first.number
    assert (second.epoch, second.shares) == (planned.term.epoch, first.shares)


async def test_a_plan_that_ends_is_removed_with_an_event(planned: Planned) -> None:
    plan = await planned.give(LEADER, a=TWO)
    assert await planned.space.store.write_plan(planned.term, {})
    assert not await planned.space.store.write_plan(planned.term, {})
    assert await planned.space.reader.plan() is None
    assert [event.plan for event in await planned.events(EventKind.PLAN_CHANGED)] == [plan, None]
    with pytest.raises(Fenced):
        await planned.report(TWO, plan, planned.space.failure(A))
    assert (await planned.give(LEADER, a=TWO)).number > plan.number, "no number comes twice"


async def test_a_participant_reports_on_its_own_replicas(planned: Planned) -> None:
    plan, space = await planned.give(LEADER, a=TWO), planned.space
    report = await planned.report(TWO, plan, space.success(A), space.success(B))
    assert (report.done, report.dropped) == (2, 1)
    assert (space.fields(A)["status"], space.fields(B)["status"]) == ("healthy", "unknown")
    (event,) = report.events
    assert event.router == TWO
    with pytest.raises(Fenced, match=f"plan {plan.number} is over"):
        await planned.report(THREE, plan, space.success(B))


async def test_the_plan_before_counts_for_an_interval(planned: Planned) -> None:
    first, space = await planned.give(LEADER, a=TWO), planned.space
    second = await planned.give(LEADER, a=THREE)
    assert (await planned.report(TWO, first, space.failure(A), space.failure(B))).dropped == 1
    assert (await planned.report(THREE, second, space.failure(A))).dropped == 0
    assert planned.failures() == 2
    planned.let_pass(INTERVAL_MS + 1)
    with pytest.raises(Fenced):
        await planned.report(TWO, first, space.failure(A))
    planned.let_pass(-3 * INTERVAL_MS)  # the clock was set back
    with pytest.raises(Fenced):
        await planned.report(TWO, first, space.failure(A))
    assert (await planned.report(THREE, second, space.failure(A))).dropped == 0


async def test_the_plan_before_the_last_counts_no_more(planned: Planned) -> None:
    first = await planned.give(LEADER, a=TWO)
    await planned.give(LEADER, a=THREE)
    await planned.give(LEADER, a=TWO)
    with pytest.raises(Fenced):
        await planned.report(TWO, first, planned.space.failure(A))


async def test_a_participant_cannot_report_under_a_later_plan(planned: Planned) -> None:
    plan = await planned.give(LEADER, a=TWO)
    with pytest.raises(Fenced):
        await planned.report(TWO, Plan(plan.number + 1, plan.epoch, plan.shares), planned.space.failure(A))


async def test_each_participant_numbers_its_own_batches(planned: Planned) -> None:
    plan, space = await planned.give(LEADER, a=TWO), planned.space
    await planned.report(LEADER, plan, space.success(B), batch=7)
    assert not (await planned.report(TWO, plan, space.failure(A), batch=1)).is_duplicate
    again = await planned.report(TWO, plan, space.failure(A), batch=1)
    assert (again.is_duplicate, again.done) == (True, 1)
    assert planned.failures() == 1
    assert (await planned.report(LEADER, plan, space.success(B), batch=6)).is_duplicate


async def test_batch_numbers_outlive_changes_of_the_plan(planned: Planned) -> None:
    first = await planned.give(LEADER, a=TWO)
    await planned.report(TWO, first, planned.space.failure(A), batch=1)
    second = await planned.give(THREE)
    assert (await planned.report(TWO, first, planned.space.failure(A), batch=1)).is_duplicate
    await planned.give(LEADER)
    assert not {name for name in planned.space.raw.hgetall(planned.space.keys.plan) if name.endswith(TWO)}
    assert second.routers == {THREE}


async def test_a_participants_failures_ask_others_the_leader_too(planned: Planned) -> None:
    plan, space = await planned.give(LEADER, a=TWO), planned.space
    await planned.report(TWO, plan, space.success(A))
    await planned.report(TWO, plan, space.failure(A))
    await planned.report(TWO, plan, space.failure(A))
    state = space.fields(A)
    assert (state["suspected_by"], set(state["asked"].split())) == (TWO, {LEADER, THREE})
    await planned.report(TWO, plan, space.failure(A))
    assert space.fields(A)["status"] == "healthy", "nobody has answered yet"


async def test_the_leader_reports_under_its_term_as_before(planned: Planned) -> None:
    await planned.give(LEADER, a=TWO)
    report = await planned.space.store.report(planned.term, 1, [planned.space.success(A)], LIMITS)
    assert (report.done, report.dropped) == (1, 0)


@pytest.mark.parametrize(("waiting", "changes"), [(0, 36), (1, 6)])
async def test_a_call_of_a_share_stops_after_some_changes(planned: Planned, waiting: int, changes: int) -> None:
    """Fewer while sessions wait, because the call serves these as well."""
    urls = [f"http://10.1.0.{number}:8000" for number in range(60)]
    for url in urls:
        await planned.space.add(url, capacity=1)
    plan = await planned.give(TWO)
    results = [planned.space.success(url) for url in urls]
    for number in range(waiting * 20):  # more than the call can serve
        planned.space.raw.zadd(planned.space.keys.queue, {f"{TWO}/{number}": number})
    report = await planned.report(TWO, plan, *results, batch=1)
    assert (report.done, [len(event.changes) for event in report.events]) == (changes, [changes])
    again = await planned.report(TWO, plan, *results, batch=1)
    assert (again.is_duplicate, again.done) == (True, changes)


@pytest.mark.parametrize("url", [A, B, "http://[::1]:80", "https://ü.example:8443", "http://127.0.3.77:65535"])
async def test_redis_and_routers_agree_on_the_bucket(planned: Planned, url: str) -> None:
    await planned.space.add(url)
    plan = await planned.give(LEADER)
    shares = {bucket: TWO if bucket == bucket_of(url) else router for bucket, router in plan.shares.items()}
    await planned.space.store.write_plan(planned.term, shares)
    assert (await planned.report(TWO, await planned.plan(), planned.space.success(url))).dropped == 0
