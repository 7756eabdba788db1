"""What a router does as a peer: when it probes, and what it tells. The store, the probe and the time are scripted."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import os
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from shared_registry.aio.clock import SystemClock
from shared_registry.config import RouterConfig
from shared_registry.errors import StoreUnavailable
from shared_registry.model import (
    AdminState,
    Doubt,
    Event,
    EventKind,
    Leader,
    Opinion,
    OpinionKind,
    Plan,
    ProberInfo,
    ReplicaEndpoint,
    ReplicaHealth,
    ReplicaRecord,
    ReplicaStatus,
    Thresholds,
)
from shared_registry.model.plan import BUCKETS
from shared_registry.probing import HttpProber
from shared_registry.probing.listeners import ProbeListeners
from shared_registry.probing.names import Names
from shared_registry.probing.outcome import ProbeOutcome
from shared_registry.probing.peer import Peer, PeerSettings
from shared_registry.probing.probe_counts import ProbeCounts
from shared_registry.probing.prober_list import ProberList
from shared_registry.probing.trouble_log import TroubleLog
from shared_registry.store.replies import Opinions
from tests.support.fake_clock import START, FakeClock
from tests.support.replica_server import ReplicaServer
from tests.support.until import until

INTERVAL, FAST, TIMEOUT = 5.0, 1.0, 2.0
LEADER, ME, OTHER = "leader~1", "me~1", "other~1"
A, B = "http://127.0.0.1:8001", "http://127.0.0.2:8001"


@dataclass(frozen=True)
class Said:
    """One opinion, and when it was sent."""

    at: float
    kind: OpinionKind
    id: str
    key: str
    is_ok: bool
    is_unsure: bool


class Cluster:
    """The shared state as a mirror shows it, and the probe, both as the test says."""

    def __init__(self, clock: FakeClock) -> None:
        self.leader: Leader | None = Leader(LEADER, 1, 0.0)
        self.plan: Plan | None = None
        self.records: dict[str, ReplicaRecord] = {}
        self.said: list[Said] = []
        self.probes: list[tuple[float, str]] = []
        self.reached: dict[str, bool] = {}
        self.testified: list[tuple[float, str]] = []
        self.down: set[str] = set()
        self.failure: Exception | None = None
        self.error: StoreUnavailable | None = None
        self.handled_at_once = 1000
        self.latency = 0.01
        self._clock = clock
        probers = ProberList(router=ME, machine="m")
        probers.probe_print = "same"
        probers.update("1", [ProberInfo("same", "m", router) for router in (LEADER, OTHER, ME)])
        self.trouble_log = TroubleLog(quiet_seconds=10, clock=clock)
        self.counts = ProbeCounts(clock)
        self.peer = Peer(
            self,
            self.send,
            self.probe,
            PeerSettings(lambda record: f"{record.key}/health", FAST, Thresholds(3, 2, INTERVAL, TIMEOUT)),
            probers=probers,
            clock=clock,
            rng=random.Random(1),
            listeners=ProbeListeners(self.trouble_log, self.on_reach, testify=self.testify, counts=self.counts),
        )
        self.probers = probers

    def probed(self) -> list[ReplicaRecord]:
        return list(self.records.values())

    def record(self, key: str) -> ReplicaRecord | None:
        return self.records.get(key)

    def on_reach(self, keys: Sequence[str], is_reached: bool) -> None:
        self.reached |= dict.fromkeys(keys, is_reached)

    async def testify(self, key: str, *, probed_at: float) -> None:
        self.testified.append((probed_at - START, key))

    async def probe(self, url: str, *, timeout: float) -> tuple[float, str | None]:
        key = url.removesuffix("/health")
        self.probes.append((self._clock.monotonic() - START, key))
        await self._clock.sleep(self.latency)
        if self.failure:
            raise self.failure
        return 1.0, "refused" if key in self.down else None

    async def send(self, opinions: Sequence[Opinion], thresholds: Thresholds) -> Opinions:
        if self.error:
            raise self.error
        for one in opinions[: self.handled_at_once]:
            at, result = self._clock.monotonic() - START, one.result
            self.said.append(Said(at, one.kind, one.id, result.key, result.error is None, result.is_unsure))
        return Opinions(done=min(len(opinions), self.handled_at_once))

    def show(self, key: str = A, *, status: ReplicaStatus = ReplicaStatus.HEALTHY, **doubt: object) -> None:
        """Let the mirror show a replica from now on."""
        known = self.records.get(key) or ReplicaRecord(key, ReplicaEndpoint(key), incarnation="1")
        health = ReplicaHealth(status)
        self.records[key] = replace(known, health=health, doubt=Doubt(**doubt))  # type: ignore[arg-type]
        event = Event("1-1", EventKind.REPLICA_HEALTHY, 0.0, "0-0", LEADER, 1)
        self.peer.notice([event.with_changed([self.records[key]])])

    def tell(self, record: ReplicaRecord) -> None:
        self.peer.notice([Event("1-1", EventKind.REPLICA_UPDATED, 0.0, "0-0", LEADER, 1, record=record)])

    def reports(self) -> list[Said]:
        return [one for one in self.said if one.kind is OpinionKind.REPORT]

    def kinds(self) -> list[OpinionKind]:
        return [one.kind for one in self.said]


@pytest.fixture
async def cluster(clock: FakeClock) -> AsyncIterator[Cluster]:
    cluster = Cluster(clock)
    cluster.show()
    running = asyncio.create_task(cluster.peer.run())
    await clock.advance(0.1)
    yield cluster
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def test_while_routers_agree_a_peer_probes_nothing(clock: FakeClock, cluster: Cluster) -> None:
    await clock.advance(20 * INTERVAL)
    assert (cluster.probes, cluster.said) == ([], [])


@pytest.mark.parametrize("is_up", [True, False])
async def test_a_question_is_answered_once_and_soon(clock: FakeClock, cluster: Cluster, is_up: bool) -> None:
    cluster.down = set() if is_up else {A}
    cluster.show(suspicion="q1", suspected_by=LEADER, asked=(OTHER, ME))
    await clock.advance(0.2)
    (answer,) = cluster.said
    assert (answer.kind, answer.id, answer.is_ok) == (OpinionKind.OPINION, "q1", is_up)
    assert cluster.counts.opinions == {"ok" if is_up else "failed": 1}
    cluster.tell(cluster.records[A])
    await clock.advance(0.2)
    assert len(cluster.said) == 1
    cluster.show(suspicion="q2", suspected_by=LEADER, asked=(ME,))
    await clock.advance(0.2)
    assert cluster.said[-1].id == "q2"


async def test_a_question_to_others_is_not_answered(clock: FakeClock, cluster: Cluster) -> None:
    cluster.show(suspicion="q1", suspected_by=LEADER, asked=(OTHER,))
    await clock.advance(2 * INTERVAL)
    assert cluster.probes == []


async def test_own_trouble_is_an_unsure_answer(clock: FakeClock, cluster: Cluster) -> None:
    cluster.failure = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    cluster.show(suspicion="q1", suspected_by=LEADER, asked=(ME,))
    await clock.advance(0.2)
    assert [one.is_unsure for one in cluster.said] == [True]
    assert cluster.reached.get(A, True), "this says nothing about the replica"
    assert cluster.trouble_log.reason == "too many open files"
    cluster.failure = None
    cluster.show(suspicion="q2", suspected_by=LEADER, asked=(ME,))
    await clock.advance(10.2)
    cluster.show(suspicion="q3", suspected_by=LEADER, asked=(ME,))
    await clock.advance(0.2)
    assert not cluster.trouble_log.is_on


async def test_a_replica_not_reached_is_chosen_last_until_it_is(clock: FakeClock, cluster: Cluster) -> None:
    cluster.down = {A}
    cluster.show(suspicion="q1", suspected_by=LEADER, asked=(ME,))
    await clock.advance(0.2)
    assert cluster.reached[A] is False
    cluster.show(reached_by=OTHER, refuted_prober=LEADER)
    await clock.advance(2 * INTERVAL)
    assert cluster.reached[A] is False
    cluster.down = set()
    await clock.advance(1.2 * INTERVAL)
    assert cluster.reached[A] is True
    probes = len(cluster.probes)
    await clock.advance(5 * INTERVAL)
    assert len(cluster.probes) == probes, "and then it is left to its prober"


async def test_a_recovered_replica_is_tried_before_it_is_avoided(clock: FakeClock, cluster: Cluster) -> None:
    """While nobody reached it there was no disagreement: only what this router finds now counts."""
    cluster.down = {A}
    cluster.show(status=ReplicaStatus.UNHEALTHY)
    await clock.advance(2 * INTERVAL)
    assert cluster.probes
    cluster.down = set()
    probes = len(cluster.probes)
    cluster.show()
    await clock.settle()
    assert cluster.reached[A] is True
    await clock.advance(0.1)
    assert len(cluster.probes) == probes + 1
    assert cluster.reached[A] is True
    cluster.show(status=ReplicaStatus.UNHEALTHY)
    cluster.down = {A}
    await clock.advance(2 * INTERVAL)
    cluster.show()
    await clock.advance(0.1)
    assert cluster.reached[A] is False, "others reach it by now, and this router does not"


async def test_the_new_prober_reports_each_interval(clock: FakeClock, cluster: Cluster) -> None:
    cluster.show(prober=ME)
    await clock.advance(4 * INTERVAL + 0.5)
    assert cluster.kinds() == [OpinionKind.REPORT] * 4
    numbers = [int(one.id) for one in cluster.said]
    assert sorted(set(numbers)) == numbers, "each report has a higher number, also after a restart of its task"
    cluster.down = {A}
    await clock.advance(INTERVAL + 2 * FAST + 0.5)
    assert [one.is_ok for one in cluster.said[4:]] == [False] * 3, "failures come at the fast interval"
    cluster.show(prober=OTHER)
    count = len(cluster.said)
    await clock.advance(4 * INTERVAL)
    assert len(cluster.said) == count


@pytest.mark.parametrize("whose", ["own", "another router's"])
async def test_a_failed_session_hastens_the_new_probers_report(clock: FakeClock, cluster: Cluster, whose: str) -> None:
    cluster.show(prober=ME)
    await clock.advance(1.5 * INTERVAL)
    cluster.down = {A}
    reports = len(cluster.reports())
    if whose == "own":
        cluster.peer.distrust(A)
    else:
        cluster.peer.notice([Event("2-1", EventKind.REPLICA_REPORTED, 0.0, "0-0", OTHER, 1, reported=A)])
    await clock.advance(0.1)
    assert [one.is_ok for one in cluster.reports()[reports:]] == [False]
    await clock.advance(FAST + 0.1)
    assert len(cluster.reports()) == reports + 2, "and then at the fast interval"


async def test_a_failed_session_hastens_no_report_under_way(clock: FakeClock, cluster: Cluster) -> None:
    cluster.show(prober=ME)
    cluster.latency = 1.0
    await clock.advance(INTERVAL + 0.5)
    for _ in range(3):
        cluster.peer.notice([Event("2-1", EventKind.REPLICA_REPORTED, 0.0, "0-0", OTHER, 1, reported=A)])
    await clock.advance(1.0)
    assert (len(cluster.probes), len(cluster.reports())) == (1, 1)


async def test_routers_take_turns_to_appeal(clock: FakeClock, cluster: Cluster) -> None:
    cluster.down = {A}
    cluster.show(status=ReplicaStatus.UNHEALTHY)
    await clock.advance(6 * INTERVAL)
    gaps = [later - earlier for (earlier, _), (later, _) in zip(cluster.probes, cluster.probes[1:], strict=False)]
    assert gaps == pytest.approx([2 * INTERVAL] * len(gaps), abs=0.1), "two of three routers are not the leader"
    assert len(cluster.probes) >= 3
    assert cluster.said == [], "only a success is told"


async def test_a_router_that_was_asked_appeals_last(clock: FakeClock, cluster: Cluster) -> None:
    cluster.down = {A, B}
    cluster.show(A, status=ReplicaStatus.UNHEALTHY, unreached_by=(OTHER,))
    cluster.show(B, status=ReplicaStatus.UNHEALTHY, unreached_by=(ME,))
    await clock.advance(0.5)
    assert [key for _, key in cluster.probes] == [A]
    await clock.advance(INTERVAL)
    assert [key for _, key in cluster.probes] == [A, B]


async def test_successes_in_a_row_are_counted_quickly(clock: FakeClock, cluster: Cluster) -> None:
    cluster.show(status=ReplicaStatus.UNHEALTHY, unreached_by=(OTHER,))
    await clock.advance(2 * FAST + 0.5)
    assert [(one.kind, one.id) for one in cluster.said] == [(OpinionKind.APPEAL, number) for number in "123"]
    cluster.show(status=ReplicaStatus.HEALTHY, prober=ME)
    await clock.advance(INTERVAL + 0.5)
    assert cluster.kinds()[3:] == [OpinionKind.REPORT]


async def test_a_new_replica_is_left_to_its_prober_at_first(clock: FakeClock, cluster: Cluster) -> None:
    cluster.show(B, status=ReplicaStatus.UNKNOWN)
    await clock.advance(INTERVAL + TIMEOUT - 0.1)
    assert cluster.probes == []
    await clock.advance(1.2 * INTERVAL)
    assert cluster.kinds()[:1] == [OpinionKind.APPEAL]


@pytest.mark.parametrize("what", ["leads", "no leader", "other probes", "draining", "removed"])
async def test_without_right_or_reason_nobody_appeals(clock: FakeClock, cluster: Cluster, what: str) -> None:
    match what:
        case "leads":
            cluster.leader = Leader(ME, 1, 0.0)
        case "no leader":
            cluster.leader = None
        case "other probes":
            cluster.leader = Leader("lenient~1", 1, 0.0)
        case "draining":
            cluster.records[A] = replace(cluster.records[A], admin=AdminState.DRAINING)
    cluster.show(status=ReplicaStatus.UNHEALTHY)
    if what == "removed":
        record = cluster.records.pop(A)
        cluster.tell(replace(record, admin=AdminState.REMOVED))
    await clock.advance(6 * INTERVAL)
    assert cluster.probes == []


async def test_opinions_are_kept_while_redis_is_away(clock: FakeClock, cluster: Cluster) -> None:
    cluster.error = StoreUnavailable("away")
    cluster.show(suspicion="q1", suspected_by=LEADER, asked=(ME,))
    await clock.advance(INTERVAL)
    cluster.error = None
    await clock.advance(2 * INTERVAL)
    assert [one.id for one in cluster.said] == ["q1"]


async def test_an_opinion_is_dropped_when_its_time_is_over(clock: FakeClock, cluster: Cluster) -> None:
    """The replica may have come back since. A failure is old sooner than a success."""
    cluster.error = StoreUnavailable("away")
    cluster.down = {B}
    for key in (A, B):
        cluster.show(key, suspicion=f"of {key}", suspected_by=LEADER, asked=(ME,))
    await clock.advance(TIMEOUT + FAST + 1.5)
    cluster.error = None
    await clock.advance(2.0)
    assert [one.id for one in cluster.said] == [f"of {A}"]
    cluster.error = StoreUnavailable("away")
    cluster.show(suspicion="q2", suspected_by=LEADER, asked=(ME,))
    await clock.advance(TIMEOUT + INTERVAL + 1.5)
    cluster.error = None
    await clock.advance(2 * INTERVAL)
    assert [one.id for one in cluster.said] == [f"of {A}"]


async def test_what_one_call_did_not_handle_is_sent_again(clock: FakeClock, cluster: Cluster) -> None:
    cluster.handled_at_once = 1
    for key in (A, B):
        cluster.show(key, suspicion=f"of {key}", suspected_by=LEADER, asked=(ME,))
    await clock.advance(0.5)
    assert {one.id for one in cluster.said} == {f"of {A}", f"of {B}"}
    assert len(cluster.said) == 2


async def test_at_most_64_probes_run_at_once(clock: FakeClock, cluster: Cluster) -> None:
    cluster.latency = TIMEOUT
    for number in range(200):
        cluster.show(f"http://127.1.0.{number}:8001", suspicion="q", suspected_by=LEADER, asked=(ME,))
    await clock.advance(TIMEOUT / 2)
    assert len(cluster.probes) == 64
    await clock.advance(4 * TIMEOUT)
    assert len(cluster.said) == 200


async def test_a_full_read_brings_questions_that_no_event_brought(clock: FakeClock, cluster: Cluster) -> None:
    cluster.records[A] = replace(cluster.records[A], doubt=Doubt(suspicion="q1", suspected_by=LEADER, asked=(ME,)))
    cluster.peer.notice(())
    await clock.advance(0.2)
    assert [one.id for one in cluster.said] == ["q1"]


def share(cluster: Cluster, router: str) -> None:
    """Give all replicas to one router."""
    cluster.plan = Plan(7, 1, dict.fromkeys(BUCKETS, router))
    cluster.peer.notice([Event("1-1", EventKind.PLAN_CHANGED, 0.0, "0-0", LEADER, 1, plan=cluster.plan)])


async def test_nobody_appeals_for_replicas_of_its_own_share(clock: FakeClock, cluster: Cluster) -> None:
    """Its own probes say the same; the leader, whose share it is not, appeals."""
    share(cluster, ME)
    cluster.down = {A}
    cluster.show(status=ReplicaStatus.UNHEALTHY)
    await clock.advance(6 * INTERVAL)
    assert cluster.probes == []
    cluster.leader = Leader(ME, 2, 0.0)
    share(cluster, OTHER)
    await clock.advance(6 * INTERVAL)
    assert len(cluster.probes) >= 3, "in turns with the router that led before"


async def test_a_router_reports_only_beside_its_own_share(clock: FakeClock, cluster: Cluster) -> None:
    """The health loop reports on what is in its share, also on what was handed over to it before."""
    cluster.show(prober=ME)
    await clock.advance(INTERVAL + 0.5)
    assert cluster.kinds() == [OpinionKind.REPORT]
    share(cluster, ME)
    await clock.advance(4 * INTERVAL)
    assert cluster.kinds() == [OpinionKind.REPORT]
    cluster.leader = Leader(ME, 2, 0.0)
    share(cluster, OTHER)
    await clock.advance(2 * INTERVAL + 0.5)
    assert cluster.kinds() == [OpinionKind.REPORT] * 3, "the leader too"


async def test_only_peers_of_a_replicas_prober_appeal(clock: FakeClock, cluster: Cluster) -> None:
    share(cluster, "lenient~1")
    cluster.down = {A}
    cluster.show(status=ReplicaStatus.UNHEALTHY)
    await clock.advance(6 * INTERVAL)
    assert cluster.probes == []


async def test_a_failed_session_makes_a_router_probe_once(clock: FakeClock, cluster: Cluster) -> None:
    cluster.peer.distrust(A)
    await clock.advance(3 * INTERVAL)
    assert [key for _, key in cluster.probes] == [A]
    assert cluster.testified == cluster.probes, "with the time at which the probe began"
    assert cluster.said == []


@pytest.mark.parametrize("looked_up_ago", [-math.inf, -0.1, 5.0])
async def test_a_probe_testifies_from_the_lookup_of_its_name(
    clock: FakeClock, cluster: Cluster, looked_up_ago: float
) -> None:
    """A session may have failed because the resolver hangs, while a probe goes on by the last answer."""

    class Prober(HttpProber):
        async def ask(self, url: str, **_: Any) -> ProbeOutcome:
            return ProbeOutcome(1.0, looked_up_at=clock.monotonic() - looked_up_ago)

    cluster.peer._probe = Prober()
    cluster.peer.distrust(A)
    await clock.advance(3 * INTERVAL)
    ((probed_at, _),) = cluster.testified
    assert probed_at == pytest.approx(0.1 - max(0.0, looked_up_ago))  # the probe begins at 0.1


async def test_a_blind_router_does_not_testify(clock: FakeClock, cluster: Cluster) -> None:
    """It chooses the replica last, and tries until it reaches it; that says nothing about a session of long ago."""
    cluster.down = {A}
    for _ in range(3):
        cluster.peer.distrust(A)
        await clock.advance(0.1)
    assert (cluster.testified, cluster.reached[A]) == ([], False)
    await clock.advance(INTERVAL)
    cluster.down = set()
    await clock.advance(INTERVAL)
    assert (cluster.testified, cluster.reached[A]) == ([], True)


async def test_own_trouble_is_no_testimony(clock: FakeClock, cluster: Cluster) -> None:
    cluster.failure = OSError(errno.EMFILE, "Too many open files")
    cluster.peer.distrust(A)
    await clock.advance(INTERVAL)
    assert cluster.testified == []
    assert A not in cluster.reached


async def test_sessions_that_fail_during_a_probe_get_another(clock: FakeClock, cluster: Cluster) -> None:
    cluster.latency = 1.0
    cluster.peer.distrust(A)
    await clock.advance(0.5)
    for _ in range(3):
        cluster.peer.distrust(A)
    await clock.advance(3.0)
    assert [at for at, _ in cluster.testified] == pytest.approx([0.1, 1.1])


async def test_a_prober_too_probes_after_a_failed_session(clock: FakeClock, cluster: Cluster) -> None:
    """What its health loop found out remains: who is chosen last is left to that."""
    cluster.leader = Leader(ME, 2, 0.0)
    cluster.peer.learn([A], False)
    cluster.peer.distrust(A)
    await clock.advance(1.0)
    assert [key for _, key in cluster.testified] == [A]
    assert not cluster.reached[A]


@pytest.mark.parametrize("what", ["unhealthy", "disabled", "unknown", "alone"])
async def test_no_testimony_where_it_would_change_nothing(clock: FakeClock, cluster: Cluster, what: str) -> None:
    if what == "alone":
        cluster.probers.update("2", [])
    elif what == "disabled":
        cluster.records[A] = replace(cluster.records[A], admin=AdminState.DISABLED)
    elif what == "unhealthy":
        cluster.records[A] = replace(cluster.records[A], health=ReplicaHealth(ReplicaStatus.UNHEALTHY))
    cluster.peer.distrust(B if what == "unknown" else A)
    await clock.advance(0.2)
    assert (cluster.probes, cluster.testified) == ([], [])


async def test_a_replica_registered_anew_gets_no_testimony(clock: FakeClock, cluster: Cluster) -> None:
    cluster.latency = 1.0
    cluster.peer.distrust(A)
    await clock.advance(0.2)
    cluster.peer.distrust(A)
    cluster.tell(replace(cluster.records[A], incarnation="2"))
    cluster.records[A] = replace(cluster.records[A], incarnation="2")
    await clock.advance(5.0)
    assert len(cluster.probes) == 1
    assert cluster.testified == []


async def test_a_former_leader_goes_on_avoiding_what_it_missed(clock: FakeClock, cluster: Cluster) -> None:
    cluster.leader = Leader(ME, 2, 0.0)
    cluster.down = {A}
    cluster.peer.learn([A], False)
    cluster.tell(cluster.records[A])
    await clock.advance(3 * INTERVAL)
    assert (cluster.probes, cluster.reached[A]) == ([], False), "its health loop probes"
    cluster.leader = Leader(OTHER, 3, 0.0)
    cluster.peer.notice([Event("2-1", EventKind.LEADER_ELECTED, 0.0, "1-1", OTHER, 3)])
    await clock.advance(INTERVAL + 0.5)
    assert (len(cluster.probes), cluster.reached[A]) == (1, False)
    cluster.down = set()
    await clock.advance(INTERVAL)
    assert cluster.reached[A]


@pytest.mark.parametrize(("address", "is_ok"), [("127.0.0.2", True), ("127.0.0.3", False), ("127.0.0.4", True)])
async def test_the_address_of_a_question_is_probed(address: str, is_ok: bool) -> None:
    """Where the name has it: on this machine it has two addresses, of which the first one answers."""
    said: list[Opinion] = []

    async def send(opinions: Sequence[Opinion], thresholds: Thresholds) -> Opinions:
        said.extend(opinions)
        return Opinions(done=len(opinions))

    async with ReplicaServer("127.0.0.2") as replica:
        url = replica.url("replica.test")
        known = Known(
            ReplicaRecord(url, ReplicaEndpoint(url), incarnation="1", health=ReplicaHealth(ReplicaStatus.HEALTHY))
        )
        known.ask(Doubt(suspicion="q1", suspected_by=LEADER, suspected_address=address, asked=(ME,)))
        names = Names(lookup=lambda _: ["127.0.0.2", "127.0.0.3"])
        async with HttpProber(RouterConfig(), names=names) as prober:
            peer = Peer(
                known,
                send,
                prober,
                PeerSettings(lambda record: f"{record.key}/health", FAST, Thresholds(3, 2, INTERVAL, TIMEOUT)),
                probers=ProberList(router=ME, machine="m"),
                clock=SystemClock(),
                rng=random.Random(1),
                listeners=ProbeListeners(TroubleLog(quiet_seconds=10, clock=SystemClock()), lambda *_: None),
            )
            running = asyncio.create_task(peer.run())
            await until(lambda: said)
            running.cancel()
            await asyncio.wait([running])
    [opinion] = said
    assert (opinion.result.error is None) is is_ok
    assert opinion.result.address == ("127.0.0.2" if is_ok else "127.0.0.3")


class Known:
    """One replica, as a mirror shows it."""

    leader = Leader(LEADER, 1, 0.0)
    plan = None

    def __init__(self, record: ReplicaRecord) -> None:
        self._record = record

    def ask(self, doubt: Doubt) -> None:
        self._record = replace(self._record, doubt=doubt)

    def probed(self) -> list[ReplicaRecord]:
        return [self._record]

    def record(self, key: str) -> ReplicaRecord | None:
        return self._record if key == self._record.key else None
