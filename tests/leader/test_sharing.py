"""Shared probing, with the store, the probes and the time as the test says: who gets what, and how it is reported."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace

import pytest

from shared_registry.errors import Fenced, StoreError, StoreUnavailable
from shared_registry.leader.authority import Participation
from shared_registry.leader.election import RunningTerm
from shared_registry.leader.sharing import TOLERANCE, PlanKeeper, SharedProbing, divide
from shared_registry.model import Event, EventKind, Plan, ReplicaStatus, Term
from shared_registry.model.plan import BUCKETS, bucket_of
from shared_registry.probing.prober_list import ProberList
from shared_registry.store.replies import Participants
from tests.support.fake_clock import START, FakeClock
from tests.support.leading_router import FAST, FOREVER, INTERVAL, Cluster, Leader, leading, url_of

ME, OTHER, THIRD = "r~1", "r~2", "r~3"


def counted(urls: list[str]) -> Counter[str]:
    return Counter(map(bucket_of, urls))


def loads(shares: Mapping[str, str], replicas: Counter[str]) -> Counter[str]:
    found = Counter(dict.fromkeys(shares.values(), 0))
    for bucket, router in shares.items():
        found[router] += replicas[bucket]
    return found


@pytest.mark.parametrize("routers", [1, 2, 3, 7, 20])
@pytest.mark.parametrize("count", [0, 1, 6, 100, 1000])
def test_the_shares_are_even(routers: int, count: int) -> None:
    """Within a twentieth of the mean, where there are many replicas; otherwise within one."""
    names = [f"r~{number:02}" for number in range(routers)]
    replicas = counted([url_of(number) for number in range(count)])
    shares = divide(names, {}, replicas)
    assert shares.keys() == set(BUCKETS)
    found = loads(shares, replicas)
    assert found.keys() == set(names), "everybody has buckets, so that a new replica may be in any share"
    heaviest = max(replicas.values(), default=0)
    assert max(found.values()) - min(found.values()) <= max(1, heaviest, 0.05 * count / routers)


@pytest.mark.parametrize("seed", range(20))
def test_two_routers_share_a_thousand_replicas_within_a_twentieth(seed: int) -> None:
    rng = random.Random(seed)
    urls = [f"http://10.{rng.randrange(256)}.{rng.randrange(256)}.{rng.randrange(256)}:8000" for _ in range(1000)]
    found = loads(divide([ME, OTHER], {}, counted(urls)), counted(urls))
    assert all(abs(count - 500) <= 0.05 * 500 for count in found.values())


def test_a_router_that_leaves_moves_only_what_it_had() -> None:
    replicas = counted([url_of(number) for number in range(1000)])
    before = divide([ME, OTHER, THIRD], {}, replicas)
    after = divide([ME, THIRD], before, replicas)
    assert OTHER not in after.values()
    moved = [bucket for bucket in BUCKETS if before[bucket] != after[bucket]]
    assert len(moved) <= list(before.values()).count(OTHER) + 5


def test_a_router_that_comes_takes_a_part_of_each_share() -> None:
    replicas = counted([url_of(number) for number in range(1000)])
    before = divide([ME, OTHER], {}, replicas)
    after = divide([ME, OTHER, THIRD], before, replicas)
    moved = [bucket for bucket in BUCKETS if before[bucket] != after[bucket]]
    assert {after[bucket] for bucket in moved} == {THIRD}
    found = loads(after, replicas)
    assert max(found.values()) - min(found.values()) <= max(TOLERANCE * 334, *replicas.values())


def test_shares_that_are_even_stay() -> None:
    urls = [url_of(number) for number in range(1000)]
    shares = divide([ME, OTHER], {}, counted(urls))
    assert divide([ME, OTHER], shares, counted(urls)) == shares
    assert divide([ME, OTHER], shares, counted(urls[3:])) == shares, "three replicas less are no reason"
    gone = [url for url in urls if shares[bucket_of(url)] == ME or int(url[-6]) % 2]
    found = loads(divide([ME, OTHER], shares, counted(gone)), counted(gone))
    assert max(found.values()) - min(found.values()) <= 0.05 * len(gone)


def test_without_routers_nobody_gets_anything() -> None:
    assert divide([], {"00": ME}, Counter()) == {}


class Plans:
    """The part of the store that keeps the plan."""

    def __init__(self) -> None:
        self.routers = [ME, OTHER]
        self.plan: Plan | None = None
        self.next_expiry_seconds: float | None = None
        self.asked = 0
        self.written: list[Mapping[str, str]] = []
        self.error: StoreError | None = None

    async def participants(self, term: Term) -> Participants:
        self.asked += 1
        if self.error:
            raise self.error
        return Participants(self.routers, self.plan, self.next_expiry_seconds)

    async def write_plan(self, term: Term, shares: Mapping[str, str]) -> bool:
        if self.error:
            raise self.error
        self.written.append(shares)
        self.plan = Plan(len(self.written), term.epoch, shares) if shares else None
        return True


class Keeping:
    """The duty of a leader to keep the plan."""

    def __init__(self, clock: FakeClock, *, is_shared: bool = True) -> None:
        self.clock = clock
        self.plans = Plans()
        self.cluster = Cluster(clock, 6, probed_ago=1.0)
        self.keeper = PlanKeeper(self.plans, self.cluster, is_shared=is_shared, heartbeat_seconds=1.0, clock=clock)
        self.task: asyncio.Task[None] | None = None

    async def lead(self, epoch: int = 1) -> None:
        self.task = asyncio.ensure_future(self.keeper.run(RunningTerm(epoch, "token", START + FOREVER, self.clock)))
        await self.clock.settle()

    async def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)

    def tell(self, kind: EventKind) -> None:
        self.keeper.notice([Event("1-1", kind, 0.0, "0-0", OTHER, 1)])


@pytest.fixture
async def keeping(clock: FakeClock) -> AsyncIterator[Keeping]:
    keeping = Keeping(clock)
    yield keeping
    await keeping.stop()


async def test_a_plan_is_written_at_the_start_and_on_changes(keeping: Keeping) -> None:
    await keeping.lead()
    assert [set(shares.values()) for shares in keeping.plans.written] == [{ME, OTHER}]
    await keeping.clock.advance(10.0)
    assert len(keeping.plans.written) == 1, "nothing has changed"
    assert keeping.plans.asked == pytest.approx(11, abs=1), "one question a heartbeat"
    keeping.plans.routers = [ME, OTHER, THIRD]
    await keeping.clock.advance(1.1)
    assert [set(shares.values()) for shares in keeping.plans.written[1:]] == [{ME, OTHER, THIRD}]


async def test_each_term_writes_a_plan_of_its_own(keeping: Keeping) -> None:
    await keeping.lead()
    await keeping.stop()
    await keeping.lead(epoch=2)
    assert len(keeping.plans.written) == 2
    assert keeping.plans.written[0] == keeping.plans.written[1]


async def test_many_new_replicas_change_the_plan(keeping: Keeping) -> None:
    await keeping.lead()
    shares = keeping.plans.written[0]
    mine = [number for number in range(400) if shares[bucket_of(url_of(number))] == ME][:40]
    for number in mine:
        if url_of(number) not in keeping.cluster.records:
            keeping.cluster.add(number)
    await keeping.clock.advance(1.1)
    assert len(keeping.plans.written) == 2
    found = loads(keeping.plans.written[1], counted([*keeping.cluster.records]))
    assert abs(found[ME] - found[OTHER]) <= 1


@pytest.mark.parametrize("kind", [EventKind.ROUTER_LEFT, EventKind.ROUTER_EXPIRED])
async def test_a_departure_changes_the_plan_at_once(keeping: Keeping, kind: EventKind) -> None:
    await keeping.lead()
    keeping.plans.routers = [ME]
    keeping.tell(kind)
    await keeping.clock.settle()
    assert set(keeping.plans.written[-1].values()) == {ME}


async def test_a_router_that_expires_loses_its_share_at_once(keeping: Keeping) -> None:
    """Not only with the next heartbeat."""
    keeping.plans.next_expiry_seconds = 0.3
    await keeping.lead()
    keeping.plans.routers, keeping.plans.next_expiry_seconds = [ME], 4.0
    await keeping.clock.advance(0.4)
    assert set(keeping.plans.written[-1].values()) == {ME}
    await keeping.clock.advance(10.0)
    assert keeping.plans.asked == pytest.approx(12, abs=1)


async def test_without_participants_there_is_no_plan(keeping: Keeping) -> None:
    keeping.plans.routers = []
    await keeping.lead()
    assert keeping.plans.written == []
    keeping.plans.routers = [ME]
    await keeping.clock.advance(1.1)
    keeping.plans.routers = []
    await keeping.clock.advance(1.1)
    assert [bool(shares) for shares in keeping.plans.written] == [True, False]


async def test_while_redis_is_away_the_plan_is_tried_again(keeping: Keeping) -> None:
    keeping.plans.error = StoreUnavailable("away")
    await keeping.lead()
    await keeping.clock.advance(5.0)
    keeping.plans.error = None
    await keeping.clock.advance(1.1)
    assert len(keeping.plans.written) == 1


async def test_a_fenced_leader_keeps_no_plan(keeping: Keeping) -> None:
    keeping.plans.error = Fenced("over")
    await keeping.lead()
    assert keeping.task is not None
    with pytest.raises(Fenced):
        await keeping.task


async def test_a_leader_that_probes_alone_removes_a_plan(clock: FakeClock) -> None:
    """And without one it sends nothing at all."""
    keeping = Keeping(clock, is_shared=False)
    try:
        await keeping.lead()
        await clock.advance(60.0)
        assert (keeping.plans.asked, keeping.plans.written) == (0, [])
        keeping.cluster.plan = Plan(7, 1, dict.fromkeys(BUCKETS, OTHER))
        keeping.tell(EventKind.PLAN_CHANGED)
        await clock.settle()
        assert (keeping.plans.asked, keeping.plans.written) == (0, [{}])
    finally:
        await keeping.stop()


def plan(number: int, *mine: int, router: str = ME) -> Plan:
    """Return a plan that gives these replicas to one router, and all others to another one."""
    shares = dict.fromkeys(BUCKETS, OTHER if router == ME else ME)
    return Plan(number, 1, shares | {bucket_of(url_of(one)): router for one in mine})


def change(cluster: Cluster, new: Plan | None) -> None:
    cluster.plan = new
    cluster.listener([Event("1-1", EventKind.PLAN_CHANGED, 0.0, "0-0", OTHER, 1, plan=new)])


async def test_a_leader_probes_its_share_and_reports_under_the_plan(clock: FakeClock) -> None:
    cluster = Cluster(clock, 6)
    cluster.plan = plan(7, 0, 1)
    async with leading(clock, cluster) as leader:
        await clock.advance(3 * INTERVAL)
        assert {key for _, key in leader.probe.starts} == {url_of(0), url_of(1)}
        assert {(sent.token, sent.epoch) for sent in cluster.sent} == {(ME, 7)}
        assert [sent.batch for sent in cluster.sent] == [*range(1, len(cluster.sent) + 1)]
        leader.connected = {f"{url_of(number)}/health" for number in range(6)}
        leader.loop.notice([])
        await clock.settle()
        assert leader.connected == {f"{url_of(number)}/health" for number in (0, 1)}


async def test_results_count_under_the_plan_in_which_their_probes_began(clock: FakeClock) -> None:
    cluster = Cluster(clock, 6, probed_ago=INTERVAL)
    cluster.plan = plan(7, 0, 1)
    leader = Leader(clock, cluster)
    leader.probe.latency |= {url_of(0): 1.03, url_of(1): 1.03, url_of(2): 0.55}
    await leader.lead()
    await clock.advance(0.5)
    change(cluster, plan(8, 1, 2))  # the probe of the new replica ends before results are reported
    await clock.advance(2.0)
    sent = {(one.epoch, key) for one in cluster.sent for key in one.keys}
    assert sent == {(7, url_of(0)), (7, url_of(1)), (8, url_of(2))}, "a batch has the results of one plan"
    assert [one.batch for one in cluster.sent] == [*range(1, len(cluster.sent) + 1)]
    probes = len(leader.probe.starts_of(0))
    await clock.advance(3 * INTERVAL)
    assert len(leader.probe.starts_of(0)) == probes, "it is not the leader's any more"
    await leader.stop()


async def test_batches_of_shares_go_on_in_the_next_term(clock: FakeClock) -> None:
    """Redis would take a batch of the same number for a repeated one."""
    cluster = Cluster(clock, 2)
    cluster.plan = plan(7, 0, 1)
    leader = Leader(clock, cluster)
    for epoch in (1, 2):
        await leader.lead(epoch)
        await clock.advance(2 * INTERVAL)
        await leader.stop()
    numbers = [sent.batch for sent in cluster.sent]
    assert numbers == sorted(set(numbers))
    assert {(sent.token, sent.epoch) for sent in cluster.sent} == {(ME, 7)}


async def test_what_a_plan_brings_is_probed_in_its_slot(clock: FakeClock) -> None:
    """Not all at once: what another router has probed a second ago has time."""
    cluster = Cluster(clock, 40, probed_ago=1.0)
    cluster.plan = plan(7, 0)
    async with leading(clock, cluster) as leader:
        await clock.advance(2.0)
        began = clock.monotonic() - START
        last_ok_at = await cluster.read_probe_times() - 1.0
        for key, record in cluster.records.items():
            cluster.records[key] = replace(record, health=replace(record.health, last_ok_at=last_ok_at))
        change(cluster, plan(8, *range(40)))
        await clock.advance(0.5)
        assert sum(at >= began for at, _ in leader.probe.starts) < 15
        await clock.advance(INTERVAL)
        assert {key for at, key in leader.probe.starts if at >= began} == set(cluster.records)


async def test_an_overdue_replica_of_a_new_share_comes_first(clock: FakeClock) -> None:
    cluster = Cluster(clock, 6, probed_ago=1.0)
    cluster.plan = plan(7, 0)
    async with leading(clock, cluster) as leader:
        await clock.advance(2 * INTERVAL)
        change(cluster, plan(8, 0, 1, 2))
        await clock.advance(0.1)
        assert leader.probe.starts_of(1)
        assert leader.probe.starts_of(2)


async def test_results_under_a_plan_that_is_over_are_dropped(clock: FakeClock) -> None:
    """The leader's term goes on, and so do its reports."""
    cluster = Cluster(clock, 6)
    cluster.plan = plan(7, 0, 1)
    cluster.errors = [Fenced("plan 7 is over")]
    async with leading(clock, cluster) as leader:
        await clock.advance(2 * INTERVAL)
        assert leader.is_running
        assert [sent.batch for sent in cluster.sent[:2]] == [1, 2], "it does not come again"
        assert cluster.status(0) is ReplicaStatus.HEALTHY


async def test_when_the_plan_ends_the_leader_probes_all(clock: FakeClock) -> None:
    cluster = Cluster(clock, 6, probed_ago=INTERVAL)
    cluster.plan = plan(7, 0)
    async with leading(clock, cluster) as leader:
        await clock.advance(1.0)
        change(cluster, None)
        await clock.advance(0.3)
        assert {key for _, key in leader.probe.starts} == set(cluster.records)
        assert (cluster.sent[-1].token, cluster.sent[-1].epoch) == ("token 1", 1)


async def test_a_leader_is_judged_by_its_own_share(clock: FakeClock) -> None:
    """Wrong about one of four of its replicas, it stands aside, although the cluster has twelve."""
    cluster = Cluster(clock, 12, probed_ago=1.0)
    cluster.plan = plan(7, 0, 1, 2, 3)
    async with leading(clock, cluster) as leader:
        await clock.advance(INTERVAL)
        assert {key for _, key in leader.probe.starts} == {url_of(number) for number in range(4)}
        record = cluster.records[url_of(0)]
        cluster.listener([Event("1-1", EventKind.REPLICA_CLEARED, 0.0, "0-0", OTHER, 1, by=ME, record=record)])
        await clock.advance(1.0)
        assert not leader.is_running


class Participant:
    """A router with a share that is not the leader."""

    def __init__(self, clock: FakeClock, cluster: Cluster) -> None:
        self.leader = Leader(clock, cluster)
        self.probe = self.leader.probe
        self.clock = clock
        self.is_leading = False
        self.probers = ProberList(router=ME, machine="m")
        self.probers.alive_until = START + FOREVER
        batches = itertools.count(1)
        self.sharing = SharedProbing(
            self.leader.loop,
            lambda: Participation(
                cluster, self.probers, is_leader=lambda: self.is_leading, share_batches=batches, clock=clock
            ),
            clock=clock,
        )
        cluster.listener = self.sharing.notice
        self.task = asyncio.ensure_future(self.sharing.run())

    async def probes_from_now(self, seconds: float) -> set[str]:
        began = self.clock.monotonic() - START
        await self.clock.advance(seconds)
        return {key for at, key in self.probe.starts if at >= began}


@pytest.fixture
def cluster(clock: FakeClock) -> Cluster:
    return Cluster(clock, 6, probed_ago=INTERVAL)


@pytest.fixture
async def participant(clock: FakeClock, cluster: Cluster) -> AsyncIterator[Participant]:
    participant = Participant(clock, cluster)
    yield participant
    participant.task.cancel()
    await clock.run_until(participant.task.done)


async def test_a_participant_probes_while_it_has_a_share(cluster: Cluster, participant: Participant) -> None:
    assert await participant.probes_from_now(2 * INTERVAL) == set()
    change(cluster, plan(7, 0, 1))
    assert await participant.probes_from_now(2 * INTERVAL) == {url_of(0), url_of(1)}
    assert {(sent.token, sent.epoch) for sent in cluster.sent} == {(ME, 7)}
    change(cluster, plan(8, 0, router=THIRD))
    assert await participant.probes_from_now(2 * INTERVAL) == {url_of(number) for number in range(1, 6)}
    change(cluster, plan(9, *range(6), router=THIRD))
    change(cluster, Plan(10, 1, dict.fromkeys(BUCKETS, THIRD)))
    await participant.clock.advance(0.1)
    assert await participant.probes_from_now(2 * INTERVAL) == set()


async def test_a_participant_without_heartbeats_stops_at_its_expiry(cluster: Cluster, participant: Participant) -> None:
    change(cluster, plan(7, *range(6)))
    participant.probers.alive_until = participant.clock.monotonic() + INTERVAL
    assert await participant.probes_from_now(INTERVAL)
    assert await participant.probes_from_now(4 * INTERVAL) == set()
    participant.probers.alive_until = START + FOREVER
    assert await participant.probes_from_now(INTERVAL + 1.0) == set(cluster.records)


async def test_a_participant_that_leads_leaves_its_share_to_its_term(
    cluster: Cluster, participant: Participant
) -> None:
    change(cluster, plan(7, *range(6)))
    await participant.clock.advance(1.0)
    participant.is_leading = True
    cluster.listener([Event("1-1", EventKind.LEADER_ELECTED, 0.0, "0-0", ME, 2)])
    await participant.clock.advance(0.1)
    assert await participant.probes_from_now(2 * INTERVAL) == set()
    participant.is_leading = False
    cluster.listener([Event("1-1", EventKind.LEADER_RESIGNED, 0.0, "0-0", ME, 2)])
    assert await participant.probes_from_now(INTERVAL + FAST) == set(cluster.records)


async def test_a_plan_that_is_gone_for_a_moment_stops_nothing(cluster: Cluster, participant: Participant) -> None:
    """As while the mirror shows a history that was lost: the probes under way have a result, or are made again."""
    for number in range(6):
        participant.probe.latency[url_of(number)] = 0.5
    change(cluster, plan(7, *range(6)))
    await participant.clock.advance(0.2)
    change(cluster, None)
    await participant.clock.advance(0.2)
    change(cluster, plan(8, *range(6)))
    await participant.clock.advance(1.0)
    assert await participant.probes_from_now(2 * INTERVAL) == set(cluster.records)
    assert {sent.epoch for sent in cluster.sent} == {8}


async def test_a_participant_that_others_refute_goes_on(cluster: Cluster, participant: Participant) -> None:
    """It leads nobody: what it does not reach is handed over replica by replica."""
    change(cluster, plan(7, *range(6)))
    await participant.clock.advance(1.0)
    for number in range(6):
        record = cluster.records[url_of(number)]
        cluster.listener([Event("1-1", EventKind.REPLICA_CLEARED, 0.0, "0-0", OTHER, 1, by=ME, record=record)])
    assert await participant.probes_from_now(INTERVAL + FAST) == set(cluster.records)


async def test_batches_of_a_router_never_begin_again(cluster: Cluster, participant: Participant) -> None:
    change(cluster, plan(7, *range(6)))
    await participant.clock.advance(1.0)
    change(cluster, None)
    await participant.clock.advance(1.0)
    change(cluster, plan(8, *range(6)))
    await participant.clock.advance(2 * INTERVAL)
    numbers = [sent.batch for sent in cluster.sent]
    assert numbers == sorted(set(numbers))
    assert len(numbers) > 2
