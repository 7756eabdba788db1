"""What the leader probes and when. The store, the probe and the time are scripted."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from shared_registry.errors import StoreUnavailable
from shared_registry.model import AdminState, Event, EventKind, ReplicaStatus
from shared_registry.probing import guard as guard_module
from tests.support.fake_clock import FakeClock
from tests.support.leading_router import FAST, INTERVAL, Cluster, Leader, ignore, leading, url_of


async def test_at_the_start_all_unknown_replicas_are_probed_at_once(clock: FakeClock) -> None:
    async with leading(clock, Cluster(clock, 20)) as leader:
        assert sorted(leader.probe.starts) == sorted((0.0, url_of(number)) for number in range(20))
        await clock.advance(0.2)
        assert all(leader.cluster.status(number) is ReplicaStatus.HEALTHY for number in range(20))


async def test_probes_in_progress_never_exceed_the_limit(clock: FakeClock) -> None:
    async with leading(clock, Cluster(clock, 20), concurrency=3) as leader:
        leader.probe.latency = {url_of(number): 0.5 for number in range(20)}
        await clock.advance(10)
        assert leader.probe.most_under_way == 3
        assert {key for _, key in leader.probe.starts} == set(leader.cluster.records)


async def test_a_term_probes_overdue_replicas_first_others_within_an_interval(clock: FakeClock) -> None:
    cluster = Cluster(clock, 20, probed_ago=1.0)
    cluster.add(20, probed_ago=5.0)
    async with leading(clock, cluster) as leader:
        assert leader.probe.starts == [(0.0, url_of(20))]
        await clock.advance(INTERVAL)
        others = [at for at, key in leader.probe.starts if key != url_of(20)]
        assert len(others) == 20
        assert len({round(at, 2) for at in others}) > 15, "spread"


async def test_without_known_probe_times_all_replicas_are_probed_at_once(clock: FakeClock) -> None:
    cluster = Cluster(clock, 20, probed_ago=1.0)
    cluster.read_error = StoreUnavailable("away")
    async with leading(clock, cluster) as leader:
        assert len(leader.probe.starts) == 20


async def test_each_interval_has_one_probe_for_each_replica(clock: FakeClock) -> None:
    async with leading(clock, Cluster(clock, 100, probed_ago=1.0)) as leader:
        await clock.advance(20 * INTERVAL)
        counts = Counter(key for _, key in leader.probe.starts)
        assert len(counts) == 100
        assert all(19 <= count <= 21 for count in counts.values())
        seconds = Counter(int(at) for at, _ in leader.probe.starts)
        assert max(seconds.values()) < 3 * 100 / INTERVAL, "no bursts"


async def test_a_replica_with_a_pending_change_is_probed_fast(clock: FakeClock) -> None:
    async with leading(clock, Cluster(clock, 1, probed_ago=1.0)) as leader:
        await clock.run_until(lambda: len(leader.probe.starts) == 3)
        leader.probe.error[url_of(0)] = "HTTP 503"
        await clock.run_until(lambda: leader.cluster.status(0) is ReplicaStatus.UNHEALTHY)
        failed = leader.probe.starts_of(0)[-3:]
        assert [round(later - failed[0], 2) for later in failed] == [0, FAST + 0.01, 2 * FAST + 0.02]
        probes = len(leader.probe.starts)
        await clock.advance(20 * INTERVAL)
        assert 18 <= len(leader.probe.starts) - probes <= 22, "settled: at the ordinary pace again"
        leader.probe.error.clear()
        await clock.run_until(lambda: leader.cluster.status(0) is ReplicaStatus.HEALTHY)
        recovered = leader.probe.starts_of(0)[-2:]
        assert recovered[1] - recovered[0] == pytest.approx(FAST + 0.01)


async def test_a_slow_replica_delays_no_other_and_is_probed_once(clock: FakeClock) -> None:
    async with leading(clock, Cluster(clock, 10, probed_ago=1.0)) as leader:
        leader.probe.latency[url_of(3)] = 4 * INTERVAL
        await clock.advance(20 * INTERVAL)
        counts = Counter(key for _, key in leader.probe.starts)
        slow = counts.pop(url_of(3))
        assert 3 <= slow <= 5
        assert all(19 <= count <= 21 for count in counts.values())


@pytest.mark.parametrize("comes_back_as", ["enabled", "registered"])
async def test_a_replica_returning_during_its_probe_is_probed_after_it(clock: FakeClock, comes_back_as: str) -> None:
    cluster = Cluster(clock, 2)
    async with leading(clock, cluster) as leader:
        leader.probe.latency[url_of(0)] = 2.0
        await clock.run_until(lambda: len(leader.probe.starts_of(0)) == 2)
        await clock.advance(0.5)
        probes = len(leader.probe.starts_of(0))
        if comes_back_as == "enabled":
            cluster.set_admin(0, AdminState.DISABLED)
            await clock.settle()
            cluster.set_admin(0, AdminState.ACTIVE)
        else:
            cluster.remove(0)
            await clock.settle()
            cluster.add(0, incarnation="2")
        await clock.advance(1.4)
        assert len(leader.probe.starts_of(0)) == probes
        await clock.advance(0.2)
        if comes_back_as == "registered":
            assert len(leader.probe.starts_of(0)) == probes + 1, "what the old one was found to be tells nothing"
        await clock.advance(2 * INTERVAL)
        assert len(leader.probe.starts_of(0)) > probes
        assert not any(result.incarnation == "2" and sent.at < 3 for sent in cluster.sent for result in sent.results)


@pytest.mark.parametrize("becomes", ["removed", "disabled"])
async def test_a_replica_removed_while_its_probe_waits_is_not_probed(clock: FakeClock, becomes: str) -> None:
    cluster = Cluster(clock, 2)
    leader = Leader(clock, cluster, concurrency=1)
    leader.probe.latency = {url_of(0): 2.0, url_of(1): 2.0}
    await leader.lead()
    ((_, running),) = leader.probe.starts
    waiting = int(running == url_of(0))
    await clock.advance(1)
    if becomes == "removed":
        cluster.remove(waiting)
    else:
        cluster.set_admin(waiting, AdminState.DISABLED)
    await clock.advance(3 * INTERVAL)
    assert leader.probe.starts_of(waiting) == []
    if becomes == "removed":
        cluster.add(waiting, incarnation="2")
    else:
        cluster.set_admin(waiting, AdminState.ACTIVE)
    await clock.advance(INTERVAL)
    assert leader.probe.starts_of(waiting) != []
    await leader.stop()


async def test_a_new_replica_is_probed_at_once(clock: FakeClock) -> None:
    async with leading(clock, Cluster(clock, 3, probed_ago=1.0)) as leader:
        await clock.advance(0.77)
        leader.cluster.add(7)
        await clock.settle()
        assert leader.probe.starts_of(7) == pytest.approx([0.77])


async def test_after_a_full_read_the_replicas_are_read_again(clock: FakeClock) -> None:
    async with leading(clock, Cluster(clock, 1)) as leader:
        leader.cluster.listener = ignore
        leader.cluster.add(7)
        leader.cluster.remove(0)
        await clock.advance(3)
        assert leader.probe.starts_of(7) == [], "nobody said anything"
        leader.loop.notice(())
        await clock.settle()
        assert leader.probe.starts_of(7) == [3.0]
        probes = len(leader.probe.starts_of(0))
        await clock.advance(3 * INTERVAL)
        assert len(leader.probe.starts_of(0)) == probes


async def test_draining_replicas_are_probed_but_disabled_and_removed_ones_not(clock: FakeClock) -> None:
    async with leading(clock, Cluster(clock, 4, probed_ago=1.0)) as leader:
        leader.probe.starts.clear()  # the one that a new leader begins with
        leader.cluster.set_admin(0, AdminState.DISABLED)
        leader.cluster.set_admin(1, AdminState.DRAINING)
        leader.cluster.remove(2)
        await clock.advance(3 * INTERVAL)
        assert {key for _, key in leader.probe.starts} == {url_of(1), url_of(3)}
        leader.cluster.set_admin(0, AdminState.ACTIVE)
        await clock.settle()
        assert len(leader.probe.starts_of(0)) == 1, "at once"


async def test_connections_are_kept_for_exactly_the_probed_replicas(clock: FakeClock) -> None:
    async with leading(clock, Cluster(clock, 3, probed_ago=1.0)) as leader:
        await clock.advance(INTERVAL)
        leader.connected = {f"{url_of(number)}/health" for number in range(3)}
        leader.cluster.remove(0)
        leader.cluster.set_admin(1, AdminState.DISABLED)
        leader.cluster.add(5)
        await clock.settle()
        assert leader.connected == {f"{url_of(2)}/health"}
        calls = leader.retentions
        leader.loop.notice([Event("1-1", EventKind.ROUTER_JOINED, 0.0, "0-0", "b", 1)])
        await clock.advance(0.05)
        assert leader.retentions == calls
        leader.connected.add("http://elsewhere/health")
        leader.loop.notice([])
        await clock.advance(0.05)
        assert leader.connected == {f"{url_of(2)}/health"}


@pytest.mark.parametrize(
    ("misbehaviour", "error"),
    [
        ("raises", "LookupError: a bug"),
        ("returns rubbish", "TypeError"),
        ("hangs", "timeout"),
        ("cancels itself", "CancelledError"),
    ],
)
async def test_a_misbehaving_probe_is_a_failure_and_others_continue(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch, misbehaviour: str, error: str
) -> None:
    monkeypatch.setattr(guard_module, "GRACE_SECONDS", 0.0)
    cluster = Cluster(clock, 2)
    leader = Leader(clock, cluster, timeout=0.01)
    ended = asyncio.Event()

    async def misbehaving(url: str, *, timeout: float) -> tuple[float, str | None]:
        if url.startswith(url_of(1)):
            return await leader.probe(url, timeout=timeout)
        try:
            match misbehaviour:
                case "raises":
                    raise LookupError("a bug")
                case "hangs":
                    await asyncio.Event().wait()
                case "cancels itself":
                    raise asyncio.CancelledError
            return None  # type: ignore[return-value]
        finally:
            ended.set()

    monkeypatch.setattr(leader, "_probe", misbehaving)
    leader.loop._probe = misbehaving
    await leader.lead()
    await ended.wait()
    await clock.advance(4 * INTERVAL)
    results = [result for sent in cluster.sent for result in sent.results if result.key == url_of(0)]
    assert results
    assert all(result.error is not None and error in result.error for result in results)
    assert cluster.status(1) is ReplicaStatus.HEALTHY
    assert leader.is_running
    await leader.stop()
