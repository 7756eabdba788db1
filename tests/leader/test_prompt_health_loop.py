"""The health loop with the default probe: what is settled is done together. Replicas are real; the time is scripted."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from shared_registry.leader import health_loop, sampling
from shared_registry.model import Event, EventKind, Plan, ReplicaRecord
from shared_registry.model.plan import bucket_of
from shared_registry.probing import HttpProber
from shared_registry.probing.origins import EXCHANGES_PER_CONNECTION
from shared_registry.probing.own_trouble import OwnTrouble
from tests.support.fake_clock import START, FakeClock
from tests.support.leading_router import INTERVAL, Cluster, Leader, url_of
from tests.support.scripted_server import LONG, OK, Peer, Script, ScriptedServer, answer_all, scripted, stay_silent
from tests.support.until import until

KEY = url_of(0)


class Fleet:
    """A leader that probes real replicas."""

    def __init__(self, leader: Leader, servers: list[ScriptedServer]) -> None:
        self.leader = leader
        self.cluster = leader.cluster
        self.servers = servers

    @property
    def counts(self) -> list[int]:
        return [len(server.requests) for server in self.servers]

    @property
    def told(self) -> list[str]:
        return [result.key for sent in self.cluster.sent for result in sent.results]

    async def probed(self, times: int) -> None:
        """Wait until each replica was probed so often, and what was found out was reported."""
        await until(lambda: min(self.counts) >= times, f"{times} probes each")
        # The loop has the results when it may wait again; their reports wait a moment for others.
        await until(lambda: not any(self.is_under_way(at) for at in range(len(self.servers))), "the end of the probes")
        await self.leader.clock.advance(0.3)

    async def interval(self) -> None:
        """Let an interval pass, in which each replica is probed once more."""
        times = min(self.counts) + 1
        while min(self.counts) < times:
            await self.leader.clock.advance(INTERVAL / 50)
            await asyncio.sleep(0.001)
        await self.probed(times)

    def is_under_way(self, number: int) -> bool:
        probing = self.leader.loop._probing.get(url_of(number))
        return probing is not None and probing.prompt is not None and probing.prompt.is_under_way

    def change(self, number: int, change: Callable[[ReplicaRecord], ReplicaRecord]) -> None:
        """Change what is known of a replica, and inform the loop."""
        key = url_of(number)
        self.cluster.records[key] = change(self.cluster.records[key])
        self.emit(EventKind.REPLICA_UPDATED, self.cluster.records[key])

    def emit(self, kind: EventKind, record: ReplicaRecord | None = None) -> None:
        self.leader.loop.notice([Event("1-1", kind, 0.0, "0-0", "router", 1, record=record)])


@contextlib.asynccontextmanager
async def probing(clock: FakeClock, count: int, script: Script = answer_all) -> AsyncIterator[Fleet]:
    cluster = Cluster(clock, count)
    async with contextlib.AsyncExitStack() as stack:
        prober = await stack.enter_async_context(HttpProber())
        servers = [await stack.enter_async_context(scripted(script)) for _ in range(count)]
        urls = {url_of(at): f"{server.url}/health" for at, server in enumerate(servers)}
        leader = Leader(clock, cluster, timeout=LONG, prober=prober, url_of=lambda record: urls[record.key])
        await leader.lead()
        stack.push_async_callback(leader.stop)
        yield Fleet(leader, servers)


@pytest.fixture
def is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis is told of hardly any success of a settled replica."""
    monkeypatch.setattr(sampling, "REPORTS_A_SECOND", 0.001)
    monkeypatch.setattr(sampling, "LONGEST_SILENCE_SECONDS", 1e6)


async def test_settled_replicas_are_probed_once_an_interval(clock: FakeClock) -> None:
    async with probing(clock, 4) as fleet:
        await fleet.probed(1)
        intervals = 2 * EXCHANGES_PER_CONNECTION
        for _ in range(intervals):
            await fleet.interval()
        assert clock.monotonic() - START == pytest.approx((intervals + 0.5) * INTERVAL, abs=INTERVAL)
        assert max(fleet.counts) <= min(fleet.counts) + 1
        assert [server.accepted for server in fleet.servers] == [
            1 + (count - 1) // EXCHANGES_PER_CONNECTION for count in fleet.counts
        ]
        assert Counter(fleet.told) == {url_of(at): count for at, count in enumerate(fleet.counts)}
        del fleet.leader.reached[:]
        fleet.leader.loop._local_health.note(KEY, OwnTrouble("too many open files", "raise the limit"), is_healthy=True)
        assert fleet.leader.loop.local_health == 0.75
        await fleet.interval()
        assert set(fleet.leader.reached) == {(url_of(at), True) for at in range(4)}
        assert fleet.leader.loop.local_health == 1.0
        assert sum(fleet.leader.counts.seconds["ok"].counts) == sum(fleet.counts)
        assert sum(fleet.leader.counts.lags.counts) == sum(fleet.counts)


@pytest.mark.usefixtures("is_quiet")
async def test_a_settled_success_is_told_when_it_may_matter(clock: FakeClock) -> None:
    async with probing(clock, 2) as fleet:
        await fleet.probed(1)
        for _ in range(2):  # the first one as healthy is reported, too
            await fleet.interval()
        del fleet.cluster.sent[:]
        await fleet.interval()
        assert fleet.told == []
        before = fleet.counts[0]
        fleet.leader.loop.distrust(KEY)
        await fleet.interval()
        assert fleet.told == [KEY] * (fleet.counts[0] - before)
        assert [server.accepted for server in fleet.servers] == [2, 1], "over a new connection"


@pytest.mark.usefixtures("is_quiet")
async def test_a_success_is_told_if_its_replica_changed_meanwhile(clock: FakeClock) -> None:
    may_answer = asyncio.Event()
    may_answer.set()

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await may_answer.wait()
            await peer.send(OK)

    async with probing(clock, 1, script) as fleet:
        await fleet.probed(1)
        for _ in range(2):
            await fleet.interval()
        may_answer.clear()
        count = fleet.counts[0]
        while fleet.counts[0] == count:
            await clock.advance(INTERVAL / 50)
            await asyncio.sleep(0.001)
        del fleet.cluster.sent[:]
        fleet.change(0, lambda known: replace(known, health=replace(known.health, consecutive_failures=1)))
        may_answer.set()
        await fleet.probed(count + 1)
        assert fleet.told == [KEY]


async def test_what_has_succeeded_is_reported_though_the_loop_ends(clock: FakeClock) -> None:
    async with probing(clock, 3) as fleet:
        async with asyncio.timeout(LONG):
            while not fleet.leader.loop._probing or any(fleet.is_under_way(at) for at in range(3)):  # noqa: ASYNC110
                await asyncio.sleep(0)
        assert fleet.told == []
        await fleet.leader.stop()
        assert sorted(fleet.told) == [url_of(at) for at in range(3)]


async def test_probes_under_way_end_with_the_loop(clock: FakeClock) -> None:
    async with probing(clock, 3, stay_silent) as fleet:
        await until(lambda: all(server.open for server in fleet.servers))
        await fleet.leader.stop()
        await until(lambda: not any(server.open for server in fleet.servers), "the end of all connections")
        assert fleet.told == []


async def test_an_error_at_the_end_of_probes_ends_the_loop(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    async with probing(clock, 1) as fleet:
        await fleet.probed(1)
        await fleet.interval()

        def fail(*_: object, **__: object) -> list[str]:
            raise RuntimeError("broken on purpose")

        monkeypatch.setattr(sampling.Sampling, "successes_to_tell", fail)
        task = fleet.leader.task
        assert task is not None
        async with asyncio.timeout(LONG):
            while not task.done():
                await clock.advance(INTERVAL / 50)
                await asyncio.sleep(0.001)
        with pytest.raises(ExceptionGroup) as failures:
            await task
        assert failures.group_contains(RuntimeError, match="broken on purpose")


@pytest.mark.usefixtures("is_quiet")
async def test_results_count_under_the_present_mandate(clock: FakeClock) -> None:
    async with probing(clock, 1) as fleet:
        await fleet.probed(1)
        for _ in range(3):
            await fleet.interval()
        assert fleet.cluster.sent[-1].token == "token 1"
        fleet.cluster.plan = Plan(7, 1, {bucket_of(KEY): "r~1"})
        fleet.emit(EventKind.PLAN_CHANGED)
        fleet.leader.loop._sampling.watch(KEY, now=clock.monotonic())
        await fleet.interval()
        assert (fleet.cluster.sent[-1].token, fleet.cluster.sent[-1].epoch) == ("r~1", 7)


async def test_what_there_is_no_room_for_is_probed_soon(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_loop, "EFFORT_AT_ONCE", 3)
    async with probing(clock, 7) as fleet:
        while min(fleet.counts) < 2:
            await clock.advance(0.05)
            await asyncio.sleep(0.005)
        assert max(fleet.counts) <= 3
