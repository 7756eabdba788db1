"""A router's own ramps, and the leader's, on the test's clock: how far, how often, and what if Redis is away."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Sequence
from typing import cast

import pytest

from shared_registry.errors import Fenced, StoreUnavailable
from shared_registry.leader.election import RunningTerm
from shared_registry.leader.ramps import URLS_AT_ONCE, Ramps
from shared_registry.mirror.mirror import Mirror, Notice
from shared_registry.mirror.slow_start import MARGIN_SECONDS, SlowStart, step_seconds
from shared_registry.model import Event, EventKind, ReplicaRecord, Term
from shared_registry.selection import Selection
from shared_registry.selection.view import View
from shared_registry.store.reader import Reader
from tests.support.choices import UNHEALTHY, record, shown, tally, url, view_of
from tests.support.fake_clock import FakeClock

OFFSET = 1_700_000_000.0


def marked(number: int, since: float, *, seconds: float = 20.0, revision: int = 2) -> ReplicaRecord:
    return record(number, status_since=OFFSET + since, slow_start_seconds=seconds, revision=revision)


class Server:
    """The mirror of a router, as far as slow start knows it, and the server's clock."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.view = view_of(Selection("round_robin", rng=random.Random(1)))
        self.listeners: list[Notice] = []
        self.is_away = False
        self.asked = 0

    @contextlib.contextmanager
    def subscribed(self, *listeners: Notice):  # type: ignore[no-untyped-def]  # noqa: ANN201  as the mirror's
        self.listeners += listeners
        yield

    async def server_time(self) -> float:
        self.asked += 1
        if self.is_away:
            raise StoreUnavailable("away")
        return OFFSET + self.clock.monotonic()

    def tell(self, *records: ReplicaRecord) -> None:
        self.view.apply(records)
        for listener in self.listeners:
            listener([Event("2-0", EventKind.REPLICA_HEALTHY, 0.0, "1-0", "r", 1, changed=records)])

    def shares(self) -> dict[str, float]:
        return dict(self.view._shares)


@contextlib.asynccontextmanager
async def ramping(clock: FakeClock, *records: ReplicaRecord) -> AsyncIterator[Server]:
    server = Server(clock)
    shown(server.view, *records)
    work = SlowStart(cast("Reader", server), cast("Mirror", server), clock=clock)
    task = asyncio.ensure_future(work.run())
    await clock.settle()
    try:
        yield server
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_share_grows_linearly_from_a_tenth_to_all() -> None:
    clock = FakeClock()
    async with ramping(clock, record(0), record(1, status=UNHEALTHY)) as server:
        assert (server.shares(), server.asked) == ({}, 0)
        server.tell(marked(1, clock.monotonic()))
        await clock.settle()
        found = []
        for _ in range(22):
            found.append(server.shares().get(url(1)))
            await clock.advance(1.0)
        assert found[:3] == [0.1, 0.1, 0.1]
        assert found[3:20] == pytest.approx([step / 20 for step in range(3, 20)], abs=0.051)
        assert found[20:] == [None, None]
        assert server.asked == 1
        assert set(server.view.ramping) == {url(1)}
        await clock.advance(MARGIN_SECONDS + 1)
        assert set(server.view.ramping) == set()
        choose = server.view.choose
        assert choose is not None
        assert tally(choose, [None] * 100) == {0: 50, 1: 50}


async def test_a_router_that_joins_later_continues_the_ramp() -> None:
    clock = FakeClock()
    now = clock.monotonic()
    records = [record(0), marked(1, now - 10), marked(2, now - 21), marked(3, now - 100), marked(4, now + 50)]
    async with ramping(clock, *records) as server:
        assert server.shares() == {url(1): pytest.approx(0.5)}
        assert set(server.view.ramping) == {url(1), url(2)}


async def test_an_unhealthy_replica_stops_ramping_and_later_begins_again() -> None:
    clock = FakeClock()
    async with ramping(clock, record(0)) as server:
        server.tell(marked(1, clock.monotonic()))
        await clock.advance(10)
        server.tell(record(1, status=UNHEALTHY, revision=3))
        await clock.advance(0.1)
        assert server.shares() == {}
        server.tell(marked(1, clock.monotonic(), revision=4))
        await clock.advance(0.1)
        assert server.shares() == {url(1): 0.1}


async def test_without_redis_a_newly_seen_ramp_begins_at_once() -> None:
    clock = FakeClock()
    async with ramping(clock, record(0)) as server:
        server.is_away = True
        server.tell(marked(1, clock.monotonic() - 500))
        await clock.advance(0.1)
        assert server.shares() == {url(1): 0.1}
        await clock.advance(20)
        assert server.shares() == {}


async def test_equal_ramps_of_all_replicas_change_no_choice() -> None:
    view = view_of(Selection("hash"), *(record(number) for number in range(5)))
    before = [view.selection.select(None, f"k{number}", ()) for number in range(200)]
    view.ramp({url(number): 0.1 for number in range(5)}, ())
    assert [view.selection.select(None, f"k{number}", ()) for number in range(200)] == before
    view.ramp({url(0): 0.1}, ())
    after = [view.selection.select(None, f"k{number}", ()) for number in range(200)]
    assert 0 < after.count(view.all()[0]) < before.count(view.all()[0])
    assert all(now is then for now, then in zip(after, before, strict=True) if then is not view.all()[0])


@pytest.mark.parametrize(("seconds", "step"), [(0.5, 0.1), (10.0, 0.5), (3600.0, 1.0)])
def test_steps_are_a_twentieth_of_the_ramp_within_bounds(seconds: float, step: float) -> None:
    assert step_seconds(seconds) == step


# The leader


class Scores:
    """Where ramps are advanced, and what is asked for there."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, list[str]]] = []
        self.left: set[str] = set()
        self.error: Exception | None = None

    async def advance_ramps(self, term: Term, urls: Sequence[str], *, slow_start_seconds: float) -> list[str]:
        assert (term.epoch, term.token) == (1, "t")
        self.calls.append((slow_start_seconds, list(urls)))
        if self.error:
            raise self.error
        return [one for one in urls if one in self.left]


class Leader:
    """The leader's part in ramps, while its term lasts."""

    def __init__(self, clock: FakeClock, seconds: float, *records: ReplicaRecord) -> None:
        self.scores = Scores()
        self.view = shown(View(), *records)
        self.work = Ramps(self.scores, self.view, slow_start_seconds=seconds, clock=clock, rng=random.Random(1))
        self.clock = clock

    @contextlib.asynccontextmanager
    async def leading(self) -> AsyncIterator[asyncio.Task[None]]:
        term = cast("RunningTerm", type("RunningTerm", (), {"is_current": True, "token": "t", "epoch": 1})())
        task = asyncio.ensure_future(self.work.run(term))
        await self.clock.settle()
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_with_slow_start_off_the_leader_reports_once_and_ends() -> None:
    clock = FakeClock()
    leader = Leader(clock, 0.0, record(0))
    async with leader.leading() as task:
        await clock.advance(1.5)
        assert task.done()
        assert leader.scores.calls == [(0.0, [])]


async def test_with_slow_start_off_earlier_ramps_are_completed() -> None:
    clock = FakeClock()
    leader = Leader(clock, 0.0, record(0), marked(1, 0.0))
    leader.scores.left = {url(1)}
    async with leader.leading() as task:
        await clock.advance(3)
        assert not task.done()
        leader.scores.left = set()
        await clock.advance(2)
        assert task.done()
        assert {tuple(urls) for _, urls in leader.scores.calls} == {(url(1),)}


async def test_ramping_scores_advance_in_steps_until_redis_reports_the_end() -> None:
    clock = FakeClock()
    leader = Leader(clock, 20.0, record(0))
    async with leader.leading():
        await clock.advance(5)
        assert leader.scores.calls == [(20.0, [])]
        leader.scores.left = {url(1)}
        news = marked(1, clock.monotonic())
        leader.view.apply([news])
        leader.work.notice([Event("2-0", EventKind.REPLICA_HEALTHY, 0.0, "1-0", "r", 1, changed=(news,))])
        await clock.advance(5.5)
        assert len(leader.scores.calls) == 7
        leader.scores.left = set()
        await clock.advance(20)
        assert len(leader.scores.calls) == 8


async def test_a_refused_or_lost_step_is_repeated() -> None:
    clock = FakeClock()
    leader = Leader(clock, 20.0, marked(1, 0.0))
    leader.scores.error = StoreUnavailable("away")
    async with leader.leading() as task:
        await clock.advance(5)
        leader.scores.error = None
        await clock.advance(5)
        before = len(leader.scores.calls)
        await clock.advance(5)
        assert len(leader.scores.calls) == before
        assert not task.done()
        leader.scores.error = Fenced("over")
        leader.view.apply([marked(1, 5.0, revision=3)])
        leader.work.notice(())
        await clock.advance(1)
        assert isinstance(task.exception(), Fenced)


async def test_many_scores_are_advanced_in_bounded_calls() -> None:
    leader = Leader(FakeClock(), 20.0, *(marked(number, 0.0) for number in range(2 * URLS_AT_ONCE + 1)))
    async with leader.leading():
        assert [len(urls) for _, urls in leader.scores.calls] == [URLS_AT_ONCE, URLS_AT_ONCE, 1]
