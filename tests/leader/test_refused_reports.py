"""A leader whose reports fail while Redis goes on renewing its lead. The store, the probe and the time are scripted."""

from __future__ import annotations

import logging

import pytest
from redis import exceptions

from shared_registry.errors import KeyConflict, StoreError, StoreRefused, StoreUnavailable
from shared_registry.leader.election import StandAside
from shared_registry.leader.reports import CONFIRMATIONS_AT_MOST, MEMORY_SECONDS, UNREPORTED
from shared_registry.model import Event, EventKind, ReplicaStatus
from tests.support.fake_clock import START, FakeClock
from tests.support.leading_router import FAST, INTERVAL, Cluster, Leader, leading, url_of

LEASE = 3.0
TIMEOUT = 2.0


def refused() -> StoreError:
    """What becomes of a reply that begins with OOM."""
    error = StoreUnavailable("Redis is unavailable: OOM")
    error.__cause__ = exceptions.OutOfMemoryError("OOM")
    return error


async def renew(clock: FakeClock, leader: Leader, seconds: float) -> None:
    """Let time pass in which the lease is renewed once a second."""
    for _ in range(round(seconds)):
        leader.term.deadline = clock.monotonic() + LEASE
        await clock.advance(1.0)


def resigned(router: str, reason: str) -> Event:
    return Event("1-1", EventKind.LEADER_RESIGNED, 0.0, "0-0", router, 1, reason=reason)


@pytest.mark.parametrize(
    "error", [refused(), StoreRefused("NOPERM"), StoreUnavailable("no answer")], ids=["OOM", "NOPERM", "no answer"]
)
async def test_a_leader_that_cannot_report_stands_aside(clock: FakeClock, error: StoreError) -> None:
    cluster = Cluster(clock, 3, probed_ago=1.0)
    cluster.error = error
    async with leading(clock, cluster) as leader:
        await renew(clock, leader, CONFIRMATIONS_AT_MOST - 1)
        assert leader.is_running
        await renew(clock, leader, 4)
        assert leader.task is not None
        assert isinstance(leader.task.exception(), StandAside)
        assert str(leader.task.exception()).startswith(UNREPORTED)


async def test_an_outage_of_redis_is_no_reason_to_stand_aside(clock: FakeClock) -> None:
    """Nothing renews the lead meanwhile. Afterwards the leader goes on."""
    cluster = Cluster(clock, 3, probed_ago=1.0)
    async with leading(clock, cluster) as leader:
        cluster.error = StoreUnavailable("no answer")
        await clock.advance(60)
        cluster.error = None
        await renew(clock, leader, 2 * INTERVAL)
        assert leader.is_running


async def test_reports_that_succeed_in_between_keep_the_lead(clock: FakeClock) -> None:
    cluster = Cluster(clock, 3, probed_ago=1.0)
    async with leading(clock, cluster) as leader:
        for _ in range(5):
            cluster.error = refused()
            await renew(clock, leader, CONFIRMATIONS_AT_MOST - 1)
            cluster.error = None
            await renew(clock, leader, INTERVAL + 1)
        assert leader.is_running


async def test_the_next_leader_keeps_the_lead_if_it_fares_alike(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Otherwise the lead would go round. It says so, and once only."""
    cluster = Cluster(clock, 3, probed_ago=1.0)
    cluster.error = refused()
    async with leading(clock, cluster) as leader:
        cluster.listener([resigned("r~2", f"{UNREPORTED} for 5 renewals: OOM")])
        with caplog.at_level(logging.WARNING):
            await renew(clock, leader, 60)
        assert leader.is_running
        assert sum(UNREPORTED in text for text in caplog.messages) == 1


@pytest.mark.parametrize(
    ("router", "reason", "seconds_ago"),
    [
        ("r~1", f"{UNREPORTED} for 5 renewals: OOM", 0.0),
        ("r~2", "out of everything", 0.0),
        ("r~2", f"{UNREPORTED} for 5 renewals: OOM", MEMORY_SECONDS),
    ],
    ids=["its own", "another reason", "long ago"],
)
async def test_other_resignations_do_not_keep_the_lead(
    clock: FakeClock, router: str, reason: str, seconds_ago: float
) -> None:
    leader = Leader(clock, Cluster(clock, 3, probed_ago=1.0))
    leader.cluster.listener([resigned(router, reason)])
    await clock.advance(seconds_ago)
    leader.cluster.error = refused()
    await leader.lead(seconds=LEASE)
    await renew(clock, leader, CONFIRMATIONS_AT_MOST + 3)
    assert leader.task is not None
    assert isinstance(leader.task.exception(), StandAside)


async def test_a_success_of_its_own_ends_that_memory(clock: FakeClock) -> None:
    cluster = Cluster(clock, 3, probed_ago=1.0)
    async with leading(clock, cluster) as leader:
        cluster.listener([resigned("r~2", f"{UNREPORTED} for 5 renewals: OOM")])
        await renew(clock, leader, 2 * INTERVAL)
        cluster.error = refused()
        await renew(clock, leader, INTERVAL + CONFIRMATIONS_AT_MOST + 3)
        assert not leader.is_running


async def test_a_key_of_a_wrong_type_ends_no_term(clock: FakeClock) -> None:
    """It refuses the reports of every router. Once it is mended, the leader goes on."""
    cluster = Cluster(clock, 3)
    cluster.error = KeyConflict("key events is a string")
    async with leading(clock, cluster) as leader:
        await renew(clock, leader, 60)
        assert leader.is_running
        cluster.error = None
        await renew(clock, leader, INTERVAL + 2)
        assert all(cluster.status(number) is ReplicaStatus.HEALTHY for number in range(3))


@pytest.mark.parametrize("error", [refused(), StoreUnavailable("no answer")], ids=["refused", "no answer"])
async def test_a_result_is_dropped_when_its_time_is_over(
    clock: FakeClock, caplog: pytest.LogCaptureFixture, error: StoreError
) -> None:
    """Replicas that were down while Redis took no reports, and are up again, are not reported as down."""
    cluster = Cluster(clock, 3, probed_ago=1.0)
    async with leading(clock, cluster) as leader:
        await clock.advance(2 * INTERVAL)
        cluster.error = error
        leader.probe.error = {url_of(number): "down" for number in range(3)}
        await clock.advance(4 * INTERVAL)
        leader.probe.error = {}
        await clock.advance(TIMEOUT + INTERVAL)
        cluster.error = None
        before = len(cluster.sent)
        with caplog.at_level(logging.WARNING):
            await clock.advance(INTERVAL)
        results = [result for sent in cluster.sent[before:] for result in sent.results]
        assert {result.key for result in results} == {url_of(number) for number in range(3)}
        assert all(result.error is None for result in results)
        assert len(results) <= 3 * (TIMEOUT + 2 * INTERVAL) / FAST
        (said,) = [text for text in caplog.messages if "takes probe results again" in text]
        assert int(said.split(";")[1].split()[0]) >= 4


async def test_a_failure_is_dropped_sooner_than_a_success(clock: FakeClock) -> None:
    """A failing replica is probed more often, so that its failure is old sooner."""
    cluster = Cluster(clock, 2, probed_ago=1.0)
    async with leading(clock, cluster) as leader:
        await clock.advance(2 * INTERVAL)
        leader.probe.error[url_of(1)] = "down"
        cluster.error = refused()
        await clock.advance(4 * INTERVAL)
        cluster.error = None
        before = len(cluster.sent)
        now = clock.monotonic() - START
        await clock.advance(1.2)
        failures = [one for sent in cluster.sent[before:] for one in sent.results if one.error is not None]
        lately = [at for at in leader.probe.starts_of(1) if at >= now - TIMEOUT - FAST]
        assert 0 < len(failures) <= len(lately) + 1
