"""Outcomes of sessions on one router: what is reported when, on the test's clock, without Redis."""

from __future__ import annotations

import random
import socket
from typing import Any, cast

import pytest

from shared_registry.model import (
    ConnectedSessions,
    EjectionLimits,
    Event,
    EventKind,
    ProbeResult,
    ProberInfo,
    Replica,
    ReplicaEndpoint,
    Thresholds,
)
from shared_registry.probing.prober_list import ProberList
from shared_registry.probing.trouble_log import TroubleLog
from shared_registry.registry.outcomes import Outcomes
from shared_registry.selection import Selection
from shared_registry.selection.cooldown import Cooldown
from shared_registry.store.commands import Store
from tests.support.choices import record, shown, url, view_of
from tests.support.fake_clock import FakeClock

LIMITS = EjectionLimits(max_percent=50.0)
EAI_AGAIN = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


class Reporting:
    """The outcomes of a router with two replicas, and what they send to Redis."""

    def __init__(self, limits: EjectionLimits = LIMITS) -> None:
        self.clock = FakeClock()
        self.sent: list[ConnectedSessions | None] = []
        self.ages: list[float | None] = []
        self.distrusted: list[str] = []
        self.probers = ProberList(router="r~1", machine="m")
        self.probers.update("1", [ProberInfo("same", "m", "r~2")])
        self.view = view_of(Selection("priority", rng=random.Random(1)))
        shown(self.view, record(0), record(1))
        self.replica = self.view.all()[0]
        self.outcomes = Outcomes(
            cast("Store", self),
            self.view,
            Cooldown(self.view, seconds=5.0, clock=self.clock),
            TroubleLog(quiet_seconds=10.0, clock=self.clock),
            ejection=limits,
            on_failed_session=self.distrusted.append,
            probers=self.probers,
            clock=self.clock,
        )
        self.outcomes.is_shared = True

    async def record_outcome(
        self,
        result: ProbeResult,
        thresholds: Thresholds,
        *,
        sessions: ConnectedSessions | None,
        failed_ago_seconds: float | None,
        **options: Any,
    ) -> list[Event]:
        if sessions is not None:
            assert (result.error is None) is (sessions.failures == 0)
        self.sent.append(sessions)
        self.ages.append(failed_ago_seconds)
        return []

    async def end(self, *, ok: bool, client: str = "a", reason: str | BaseException = "HTTP 500") -> None:
        await self.outcomes.connected(self.replica, Thresholds(), ok=ok, reason=reason, client=client)

    async def connect(self, *, ok: bool) -> None:
        await self.outcomes.passive(self.replica, Thresholds(), ok=ok, reason="refused")

    async def testify(self, probed_at: float) -> None:
        await self.outcomes.testify(self.replica.key, probed_at=probed_at)

    def report_elsewhere(self) -> None:
        event = Event("2-0", EventKind.REPLICA_REPORTED, 0.0, "1-0", "r~2", 1, reported=self.replica.key)
        self.outcomes.notice([event])


async def test_failures_are_counted_between_reports_of_a_second() -> None:
    reporting = Reporting()
    for client in "abb":
        await reporting.end(ok=False, client=client)
    assert reporting.sent == [ConnectedSessions(1, "a")]
    await reporting.clock.advance(1.0)
    await reporting.end(ok=False, client="b")
    assert reporting.sent[1:] == [ConnectedSessions(3, "b")]
    for client in "ab":
        await reporting.end(ok=False, client=client)
    await reporting.clock.advance(1.0)
    await reporting.end(ok=False, client="b")
    assert reporting.sent[2:] == [ConnectedSessions(3, "*")]


async def test_a_success_is_reported_once_after_a_failure() -> None:
    reporting = Reporting()
    await reporting.end(ok=True)
    assert reporting.sent == []
    await reporting.end(ok=False)
    assert reporting.outcomes.counts_success(reporting.replica.key)
    for _ in range(5):
        await reporting.end(ok=True)
    assert reporting.sent == [ConnectedSessions(1, "a"), ConnectedSessions(0)]
    assert not reporting.outcomes.counts_success(reporting.replica.key)


async def test_a_success_forgets_failures_that_were_not_reported() -> None:
    reporting = Reporting()
    for ok in (False, False, False, True, False):
        await reporting.end(ok=ok)
    await reporting.clock.advance(1.0)
    await reporting.end(ok=False)
    assert reporting.sent == [ConnectedSessions(1, "a"), ConnectedSessions(0), ConnectedSessions(2, "a")]


async def test_a_failure_elsewhere_asks_for_the_next_success() -> None:
    reporting = Reporting()
    reporting.report_elsewhere()
    for _ in range(3):
        await reporting.end(ok=True)
    assert reporting.sent == [ConnectedSessions(0)]
    reporting.report_elsewhere()
    await reporting.outcomes.passive(reporting.replica, Thresholds(), ok=True, reason="")
    assert len(reporting.sent) == 2


async def test_a_removed_replica_is_forgotten() -> None:
    reporting = Reporting()
    await reporting.end(ok=False)
    reporting.report_elsewhere()
    event = Event(
        "3-0", EventKind.REPLICA_DEREGISTERED, 0.0, "2-0", "r~2", 1, record=Replica(ReplicaEndpoint(url(0))).record
    )
    reporting.outcomes.notice([event])
    assert not reporting.outcomes.counts_success(reporting.replica.key)


async def test_sessions_on_an_ejected_replica_count_nothing() -> None:
    reporting = Reporting()
    shown(reporting.view, record(0, ejected_until=1e12, revision=2), record(1))
    await reporting.end(ok=False)
    assert reporting.sent == []


async def test_without_ejections_nothing_is_reported() -> None:
    reporting = Reporting(EjectionLimits(max_percent=0.0))
    await reporting.end(ok=False)
    await reporting.end(ok=True)
    assert reporting.sent == []


async def test_own_trouble_is_no_failed_session() -> None:
    reporting = Reporting()
    await reporting.end(ok=False, reason=MemoryError())
    assert reporting.sent == []


@pytest.mark.parametrize(("trouble", "is_cooling"), [(EAI_AGAIN, True), (MemoryError(), False)])
async def test_a_name_without_answer_is_chosen_last(trouble: BaseException, is_cooling: bool) -> None:
    """Nothing is held against the replica. Trouble that all replicas have in common changes no order."""
    reporting = Reporting()
    await reporting.outcomes.passive(reporting.replica, Thresholds(), ok=False, reason=trouble)
    assert reporting.sent == []
    assert (reporting.view.preference[-1] is reporting.replica) is is_cooling
    assert reporting.distrusted == []


async def test_a_session_that_did_not_connect_distrusts_the_replica() -> None:
    reporting = Reporting()
    await reporting.outcomes.passive(reporting.replica, Thresholds(), ok=False, reason="refused")
    assert reporting.distrusted == [reporting.replica.key]
    assert reporting.sent == [None]


async def test_a_probe_that_began_later_makes_a_failure_count() -> None:
    reporting = Reporting()
    await reporting.connect(ok=False)
    await reporting.clock.advance(0.5)
    now = reporting.clock.monotonic()
    await reporting.testify(now - 0.6)
    assert reporting.ages == [None], "the probe began before the session failed"
    for _ in range(2):
        await reporting.testify(now - 0.4)
    assert reporting.ages == [None, pytest.approx(0.5)], "once for each report"


async def test_a_session_that_connects_ends_the_testimony() -> None:
    reporting = Reporting()
    await reporting.connect(ok=False)
    await reporting.connect(ok=True)
    await reporting.testify(reporting.clock.monotonic())
    assert reporting.ages == [None, None]


async def test_without_ejections_nobody_testifies() -> None:
    reporting = Reporting(EjectionLimits(max_percent=0.0))
    await reporting.connect(ok=False)
    await reporting.testify(reporting.clock.monotonic())
    assert reporting.ages == [None]


async def test_a_second_has_one_report_and_one_probe() -> None:
    reporting = Reporting()
    for _ in range(3):
        await reporting.connect(ok=False)
    assert (len(reporting.sent), len(reporting.distrusted)) == (1, 1)
    await reporting.clock.advance(1.0)
    await reporting.connect(ok=False)
    assert (len(reporting.sent), len(reporting.distrusted)) == (2, 2)
