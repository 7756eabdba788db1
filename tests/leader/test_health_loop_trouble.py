"""What a leader does about probes that it could not make. The store, the probe and the time are scripted."""

from __future__ import annotations

import errno
import logging
import os

import pytest

from shared_registry.errors import Fenced
from shared_registry.leader.election import RunningTerm, StandAside
from shared_registry.model import ReplicaStatus
from tests.support.fake_clock import FakeClock
from tests.support.leading_router import FAST, INTERVAL, Cluster, Leader, leading, url_of

EMFILE = OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def let_fail(leader: Leader, *numbers: int) -> None:
    for number in numbers:
        leader.probe.failure[url_of(number)] = EMFILE


async def settled(clock: FakeClock, leader: Leader, replicas: int) -> None:
    await clock.advance(2 * INTERVAL)
    assert all(leader.cluster.status(number) is ReplicaStatus.HEALTHY for number in range(replicas))


def reported(cluster: Cluster, number: int) -> list[str | None]:
    return [result.error for sent in cluster.sent for result in sent.results if result.key == url_of(number)]


async def test_a_probe_that_could_not_be_made_does_not_count(clock: FakeClock) -> None:
    cluster = Cluster(clock, 4, probed_ago=1.0)
    async with leading(clock, cluster) as leader:
        await settled(clock, leader, 4)
        let_fail(leader, 0)
        before, results = cluster.records[url_of(0)], len(reported(cluster, 0))
        await clock.advance(4 * INTERVAL)
        assert cluster.records[url_of(0)] == before
        unsure = reported(cluster, 0)[results:]
        assert unsure == ["too many open files"] * 3, "the first alone says nothing, then others are asked"
        leader.probe.failure.clear()
        await clock.advance(1.5 * INTERVAL)
        assert reported(cluster, 0)[results + len(unsure) :] == [None]


@pytest.mark.parametrize(
    ("status", "pace"),
    [(ReplicaStatus.HEALTHY, INTERVAL), (ReplicaStatus.UNHEALTHY, INTERVAL), (ReplicaStatus.UNKNOWN, FAST)],
)
async def test_an_impossible_probe_is_repeated_at_the_usual_pace(
    clock: FakeClock, status: ReplicaStatus, pace: float
) -> None:
    cluster = Cluster(clock, 4, probed_ago=1.0 if status is ReplicaStatus.HEALTHY else None)
    leader = Leader(clock, cluster)
    if status is ReplicaStatus.UNHEALTHY:
        leader.probe.error[url_of(0)] = "HTTP 503"
    if status is ReplicaStatus.UNKNOWN:
        let_fail(leader, 0)
    await leader.lead()
    await clock.advance(4 * INTERVAL)
    let_fail(leader, 0)
    assert cluster.status(0) is status
    await clock.advance(INTERVAL)
    probes = len(leader.probe.starts_of(0))
    await clock.advance(3 * INTERVAL)
    assert len(leader.probe.starts_of(0)) - probes == pytest.approx(3 * INTERVAL / pace, abs=1)
    assert cluster.status(0) is status
    await leader.stop()


@pytest.mark.parametrize(("replicas", "troubled"), [(1, 1), (2, 1), (3, 2), (4, 2), (7, 4), (8, 4)])
async def test_a_leader_that_cannot_probe_half_the_replicas_stands_aside(
    clock: FakeClock, replicas: int, troubled: int
) -> None:
    cluster = Cluster(clock, replicas, probed_ago=1.0)
    async with leading(clock, cluster) as leader:
        await settled(clock, leader, replicas)
        let_fail(leader, *range(troubled - 1))
        await clock.advance(2 * INTERVAL)
        assert leader.is_running, "fewer than half"
        let_fail(leader, troubled - 1)
        await clock.run_until(lambda: not leader.is_running, within=1.5 * INTERVAL)
        assert leader.task is not None
        text = f"{troubled} of {replicas} replicas could not be probed: too many open files"
        assert str(leader.task.exception()) == text
        error = leader.task.exception()
        assert isinstance(error, StandAside)
        assert not error.is_contradicted
        assert {cluster.status(number) for number in range(replicas)} == {ReplicaStatus.HEALTHY}


async def test_results_are_reported_before_the_leader_stands_aside(clock: FakeClock) -> None:
    cluster = Cluster(clock, 4)
    leader = Leader(clock, cluster)
    let_fail(leader, 2, 3)
    await leader.lead()
    await clock.run_until(lambda: not leader.is_running)
    assert [result.key for sent in cluster.sent for result in sent.results] == [url_of(0), url_of(1)]


async def test_a_healthy_replica_not_probed_for_long_counts_too(clock: FakeClock) -> None:
    """It may be dead all the while, behind the other replicas' kept connections that need no descriptor."""
    async with leading(clock, Cluster(clock, 20, probed_ago=1.0)) as leader:
        await settled(clock, leader, 20)
        let_fail(leader, 7)
        await clock.run_until(lambda: not leader.is_running)
        assert leader.probe.starts_of(7)[-1] - leader.probe.starts_of(7)[-6] == pytest.approx(5 * INTERVAL, abs=1)


async def test_a_last_resort_leader_continues_until_its_handicap_ends(clock: FakeClock) -> None:
    cluster = Cluster(clock, 4)
    leader = Leader(clock, cluster)
    let_fail(leader, 0, 1)
    await leader.lead()
    leader.term.handicap_until = clock.monotonic() + 6 * INTERVAL
    await clock.advance(6 * INTERVAL - 0.1)
    assert leader.is_running
    assert cluster.status(3) is ReplicaStatus.HEALTHY
    await clock.run_until(lambda: not leader.is_running, within=INTERVAL)


async def test_trouble_that_ends_in_time_is_forgotten(clock: FakeClock) -> None:
    cluster = Cluster(clock, 4)
    leader = Leader(clock, cluster)
    let_fail(leader, 0, 1)
    await leader.lead()
    leader.term.handicap_until = clock.monotonic() + 3 * INTERVAL
    await clock.advance(INTERVAL)
    leader.probe.failure.clear()
    await clock.advance(10 * INTERVAL)
    assert leader.is_running
    await leader.stop()
    await leader.lead(2)
    await clock.advance(INTERVAL)
    assert leader.is_running, "a new term begins without a past"
    await leader.stop()


async def test_a_troubled_leader_fenced_meanwhile_ends_as_fenced(clock: FakeClock) -> None:
    cluster = Cluster(clock, 4)
    leader = Leader(clock, cluster)
    let_fail(leader, 0, 1)
    cluster.error = Fenced("another leads")
    await leader.lead()
    await clock.run_until(lambda: not leader.is_running)
    assert leader.task is not None
    assert isinstance(leader.task.exception(), Fenced | StandAside)


async def test_trouble_is_logged_once(clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    cluster = Cluster(clock, 5, probed_ago=1.0)
    async with leading(clock, cluster) as leader:
        await settled(clock, leader, 5)
        let_fail(leader, 0, 1)
        await clock.advance(3 * INTERVAL)
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        leader.probe.failure.clear()
        await clock.advance(5 * INTERVAL)
        assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_a_term_is_the_last_resort_during_its_handicap(clock: FakeClock) -> None:
    assert not RunningTerm(1, "token", 1e6, clock).is_last_resort
    term = RunningTerm(1, "token", 1e6, clock, clock.monotonic() + 1)
    assert term.is_last_resort
    clock.jump(1)
    assert not term.is_last_resort
