"""Reading again what no event carries: shared by its callers, rate-limited, and never undoing the event stream."""

from __future__ import annotations

import asyncio

import pytest

from shared_registry.errors import StoreUnavailable
from shared_registry.mirror import mirror
from shared_registry.model import AdminState, Leader, ReplicaHealth, ReplicaRecord, ReplicaStatus
from tests.support.fake_clock import FakeClock
from tests.support.mirroring_router import REFRESH, MirroringRouter
from tests.support.scripted_reader import History, url_of

HEALTHY = ReplicaStatus.HEALTHY


async def test_a_refresh_reads_fields_that_no_event_carries(
    clock: FakeClock, history: History, router: MirroringRouter
) -> None:
    history.count(1, ReplicaHealth(HEALTHY, last_ok_at=5.0, last_latency_ms=12.0), in_flight=7)
    await clock.advance(REFRESH)
    await router.mirror.refresh()
    assert router.handle(1).in_flight == 7
    assert router.handle(1).health.last_latency_ms == 12.0


async def test_refreshes_are_rate_limited_unless_at_once(clock: FakeClock, router: MirroringRouter) -> None:
    router.reader.calls.clear()
    await router.mirror.refresh()
    assert router.reader.count("records") == 0, "just loaded"
    await clock.advance(REFRESH)
    for _ in range(5):
        await router.mirror.refresh()
    assert router.reader.count("records") == 1
    await router.mirror.refresh(at_once=True)
    assert router.reader.count("records") == 2
    await router.mirror.refresh()
    assert router.reader.count("records") == 2


async def test_a_large_fleet_is_refreshed_less_often(
    clock: FakeClock, router: MirroringRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "REPLICAS_A_SECOND", len(router.shown()) / (3 * REFRESH))
    router.reader.calls.clear()
    for reads in (0, 0, 1):
        await clock.advance(REFRESH)
        await router.mirror.refresh()
        assert router.reader.count("records") == reads


async def test_the_age_of_what_no_event_carries_is_known(clock: FakeClock, router: MirroringRouter) -> None:
    assert router.mirror.read_age_seconds == 0
    await clock.advance(2 * REFRESH)
    assert router.mirror.read_age_seconds == 2 * REFRESH
    await router.mirror.refresh()
    assert router.mirror.read_age_seconds == 0


async def test_a_full_read_ends_what_a_refresh_has_not_applied(
    clock: FakeClock, history: History, router: MirroringRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "RECORDS_AT_ONCE", 1)
    for number in (1, 2):
        history.count(number, ReplicaHealth(HEALTHY), in_flight=7)
    read, pieces = router.view.read, 0

    def interrupted(records: list[ReplicaRecord]) -> None:
        nonlocal pieces
        pieces += 1
        read(records)
        router.mirror.generation += 1

    monkeypatch.setattr(router.view, "read", interrupted)
    await clock.advance(REFRESH)
    await router.mirror.refresh()
    assert pieces == 1
    assert sorted(router.handle(number).in_flight for number in (1, 2)) == [0, 7]


async def test_concurrent_refreshes_share_one_read_despite_a_cancelled_caller(
    clock: FakeClock, history: History, router: MirroringRouter
) -> None:
    await clock.advance(REFRESH)
    router.reader.calls.clear()
    history.count(1, ReplicaHealth(HEALTHY), in_flight=7)
    router.reader.records_gate.clear()
    callers = [asyncio.ensure_future(router.mirror.refresh(at_once=at_once)) for at_once in (False, True, False)]
    await clock.settle()
    callers[0].cancel()
    await clock.settle()
    assert [caller.done() for caller in callers] == [True, False, False]
    router.reader.records_gate.set()
    await asyncio.gather(*callers[1:])
    assert router.reader.count("records") == 1
    assert router.handle(1).in_flight == 7


async def test_a_failed_refresh_reaches_every_caller_and_is_retried(clock: FakeClock, router: MirroringRouter) -> None:
    await clock.advance(REFRESH)
    router.reader.records_gate.clear()
    callers = [asyncio.ensure_future(router.mirror.refresh()) for _ in range(2)]
    await clock.settle()
    router.reader.error = StoreUnavailable("away")
    router.reader.records_gate.set()
    await clock.settle()
    for caller in callers:
        with pytest.raises(StoreUnavailable):
            await caller
    router.reader.error = None
    await router.mirror.refresh()
    assert router.mirror.age_seconds is not None


async def test_a_refresh_without_a_waiting_caller_fails_silently(clock: FakeClock, router: MirroringRouter) -> None:
    await clock.advance(REFRESH)
    router.reader.records_gate.clear()
    caller = asyncio.ensure_future(router.mirror.refresh())
    await clock.settle()
    caller.cancel()
    router.reader.error = StoreUnavailable("away")
    router.reader.records_gate.set()
    await clock.settle()
    assert caller.cancelled()


async def test_a_refresh_begun_before_a_full_read_undoes_nothing(
    clock: FakeClock, history: History, router: MirroringRouter
) -> None:
    await clock.advance(REFRESH)
    router.reader.records_gate.clear()
    caller = asyncio.ensure_future(router.mirror.refresh())
    await clock.settle()
    other = History("history id 2")  # the same revisions, another history
    for number in (1, 2, 3):
        other.register(number)
        other.change(number, admin=AdminState.DRAINING)
    router.reader.history = other
    await clock.advance(2 * REFRESH)
    router.reader.records_gate.set()
    await caller
    assert router.handle(1).admin is AdminState.DRAINING
    assert router.is_equal


async def test_a_refresh_does_not_undo_events_that_came_during_it(
    clock: FakeClock, history: History, router: MirroringRouter
) -> None:
    await clock.advance(REFRESH)
    router.reader.records_gate.clear()
    caller = asyncio.ensure_future(router.mirror.refresh())
    await clock.settle()
    history.change(1, status=ReplicaStatus.UNHEALTHY)
    history.remove(2)
    history.register(4)
    await clock.settle()
    router.reader.records_gate.set()
    await caller
    assert router.is_equal
    assert router.view.first is router.handle(3)


async def test_a_refresh_ahead_of_the_event_stream_keeps_order(
    clock: FakeClock, history: History, router: MirroringRouter
) -> None:
    await clock.advance(REFRESH)
    router.reader.stream_gate.clear()
    await clock.advance(REFRESH)
    history.change(1, order=99)
    await router.mirror.refresh(at_once=True)
    assert router.shown() == [url_of(2), url_of(3), url_of(1)]
    router.reader.stream_gate.set()
    await clock.settle()
    assert router.shown() == [url_of(2), url_of(3), url_of(1)]
    assert router.view.first is router.handle(2)


async def test_a_refresh_shows_that_the_leader_is_dead(
    clock: FakeClock, history: History, router: MirroringRouter
) -> None:
    history.elect("a~1")
    await clock.advance(REFRESH)
    history.leader = None  # its lease ended, which no event tells
    await router.mirror.refresh()
    assert router.mirror.leader is None


async def test_a_refresh_shows_no_leader_older_than_the_streams(
    clock: FakeClock, history: History, router: MirroringRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    history.elect("a~1")
    await clock.advance(REFRESH)
    read, gate = history.leader, asyncio.Event()

    async def slow_leader() -> Leader | None:
        await gate.wait()
        return read

    monkeypatch.setattr(router.reader, "leader", slow_leader)
    caller = asyncio.ensure_future(router.mirror.refresh())
    await clock.settle()
    history.elect("b~1")
    await clock.settle()
    gate.set()
    await caller
    assert router.mirror.leader is not None
    assert router.mirror.leader.router == "b~1"
