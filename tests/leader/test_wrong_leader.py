"""A leader whose probes disagree with those of other routers. The store, the probe and the time are scripted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shared_registry.leader.election import StandAside
from shared_registry.model import Doubt, Event, EventKind, ReplicaStatus
from tests.support.fake_clock import FakeClock
from tests.support.leading_router import FAST, INTERVAL, Cluster, Leader, leading, url_of

ME, OTHER = "r~1", "r~2"


async def settled(clock: FakeClock, leader: Leader) -> None:
    await clock.advance(2 * INTERVAL)
    assert all(record.health.status is ReplicaStatus.HEALTHY for record in leader.cluster.records.values())


def tell(cluster: Cluster, kind: EventKind, number: int, *, by: str = "", doubt: Doubt | None = None) -> None:
    key = url_of(number)
    if doubt is not None:
        cluster.records[key] = replace(cluster.records[key], doubt=doubt)
    cluster.listener([Event("1-1", kind, 0.0, "0-0", OTHER, 1, by=by, record=cluster.records[key])])


@pytest.mark.parametrize(
    ("replicas", "refuted", "is_over"), [(12, 2, False), (12, 3, True), (1, 1, True), (5, 1, False)]
)
async def test_a_leader_that_is_wrong_about_a_quarter_stands_aside(
    clock: FakeClock, replicas: int, refuted: int, is_over: bool
) -> None:
    async with leading(clock, Cluster(clock, replicas, probed_ago=1.0)) as leader:
        await settled(clock, leader)
        for number in range(refuted):
            tell(leader.cluster, EventKind.REPLICA_CLEARED, number, by=ME)
        await clock.advance(INTERVAL)
        assert leader.is_running is not is_over
        if is_over:
            assert leader.task is not None
            error = leader.task.exception()
            assert isinstance(error, StandAside)
            assert error.is_contradicted
            assert "reached by other routers" in str(error)


async def test_the_mistakes_of_others_do_not_count(clock: FakeClock) -> None:
    async with leading(clock, Cluster(clock, 4, probed_ago=1.0)) as leader:
        await settled(clock, leader)
        for number in range(4):
            tell(leader.cluster, EventKind.REPLICA_CLEARED, number, by="r~3")
        await clock.advance(INTERVAL)
        assert leader.is_running


async def test_a_failed_session_makes_the_leader_probe_at_once(clock: FakeClock) -> None:
    async with leading(clock, Cluster(clock, 4, probed_ago=1.0)) as leader:
        await settled(clock, leader)
        probes = len(leader.probe.starts_of(2))
        event = Event("1-1", EventKind.REPLICA_REPORTED, 0.0, "0-0", OTHER, 1, reported=url_of(2))
        leader.cluster.listener([event])
        await clock.advance(0.05)
        assert len(leader.probe.starts_of(2)) == probes + 1
        leader.cluster.listener([replace(event, reported=url_of(99))])
        await clock.advance(0.05)
        assert leader.is_running, "a replica that is gone meanwhile is no failure"


async def test_a_replica_handed_over_is_probed_at_the_interval(clock: FakeClock) -> None:
    """Its failures here do not count, so there is no hurry; handed back it is probed at once, and quickly."""
    async with leading(clock, Cluster(clock, 8, probed_ago=1.0)) as leader:
        await settled(clock, leader)
        tell(leader.cluster, EventKind.REPLICA_CLEARED, 0, by="r~9", doubt=Doubt(prober=OTHER))
        leader.probe.error[url_of(0)] = "refused"
        probes = len(leader.probe.starts_of(0))
        leader.cluster.is_counting = False
        await clock.advance(4 * INTERVAL)
        assert len(leader.probe.starts_of(0)) - probes == pytest.approx(4, abs=1)
        assert dict(leader.reached)[url_of(0)] is False, "and chosen last by this router"
        leader.cluster.is_counting = True
        probes = len(leader.probe.starts_of(0))
        tell(leader.cluster, EventKind.REPLICA_HANDED_BACK, 0, by=OTHER, doubt=Doubt())
        await clock.advance(2 * FAST + 0.2)
        assert len(leader.probe.starts_of(0)) - probes == 3


async def test_results_that_one_call_did_not_handle_come_next(clock: FakeClock) -> None:
    cluster = Cluster(clock, 120)
    cluster.handled_at_once = 50
    async with leading(clock, cluster) as leader:
        await clock.advance(1.0)
        assert all(record.health.status is ReplicaStatus.HEALTHY for record in cluster.records.values())
        assert [sent.batch for sent in cluster.sent] == [*range(1, len(cluster.sent) + 1)]
        assert leader.is_running


async def test_batches_go_on_when_work_begins_anew_in_a_term(clock: FakeClock) -> None:
    """Redis would take a batch of the same number for a repeated one."""
    cluster = Cluster(clock, 2)
    async with leading(clock, cluster) as leader:
        await clock.advance(0.5)
        await leader.stop()
        last = cluster.sent[-1].batch
        await leader.go_on()
        await clock.advance(2 * INTERVAL)
        assert cluster.sent[-1].batch > last
