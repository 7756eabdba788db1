"""How results reach the store: in numbered batches, under the term that they were found in and none other."""

from __future__ import annotations

import pytest

from shared_registry.errors import Fenced, StoreUnavailable
from shared_registry.leader.unreported import BEHIND, RESULTS_AT_ONCE
from tests.support.fake_clock import FakeClock
from tests.support.leading_router import INTERVAL, Cluster, Leader, leading, url_of


async def test_results_are_reported_in_bounded_batches_one_at_a_time(clock: FakeClock) -> None:
    """The first one half a tenth of a second after the first result."""
    cluster = Cluster(clock, 1200)
    cluster.latency = 0.3
    async with leading(clock, cluster, concurrency=2000) as leader:
        await clock.advance(0.94)
        first, *later = [len(sent.results) for sent in cluster.sent]
        assert 1 < first <= RESULTS_AT_ONCE, "those of the probes that began together"
        assert later == [RESULTS_AT_ONCE] * 2
        assert [sent.at for sent in cluster.sent] == pytest.approx([0.05, 0.35, 0.65], abs=0.02)
        await clock.advance(10)
        assert [sent.batch for sent in cluster.sent] == list(range(1, len(cluster.sent) + 1))
        assert cluster.most_reports_under_way == 1
        assert {(sent.token, sent.epoch) for sent in cluster.sent} == {("token 1", 1)}
        assert leader.is_running


async def test_without_results_no_report_is_sent(clock: FakeClock) -> None:
    async with leading(clock, Cluster(clock, 0)) as leader:
        await clock.advance(60)
        assert leader.cluster.sent == []


async def test_a_leader_with_nothing_to_report_wakes_seldom(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    async with leading(clock, Cluster(clock, 0)):
        await clock.advance(1)
        waits, sleep = [], clock.sleep

        async def counted(seconds: float) -> None:
            waits.append(seconds)
            await sleep(seconds)

        monkeypatch.setattr(clock, "sleep", counted)
        await clock.advance(60)
        assert 60 < len(waits) < 400


async def test_a_batch_without_a_reply_is_sent_again_unchanged(clock: FakeClock) -> None:
    cluster = Cluster(clock, 3)
    cluster.loses_replies = True
    async with leading(clock, cluster) as leader:
        await clock.advance(0.5)
        cluster.add(3)  # its result must wait for the next batch
        await clock.advance(0.5)
        cluster.loses_replies = False
        await clock.run_until(lambda: len({sent.batch for sent in cluster.sent}) == 2)
        first = [sent for sent in cluster.sent if sent.batch == 1]
        assert len(first) >= 3
        assert all(sent.results == first[0].results for sent in first)
        assert sorted(first[0].keys) == [url_of(number) for number in range(3)]
        (second,) = [sent for sent in cluster.sent if sent.batch == 2]
        assert url_of(3) in second.keys
        assert leader.is_running


async def test_while_the_store_fails_reports_slow_down_and_probing_continues(
    clock: FakeClock,
) -> None:
    """Reports are tried about once a second."""
    cluster = Cluster(clock, 3, probed_ago=1.0)
    cluster.error = StoreUnavailable("away")
    async with leading(clock, cluster) as leader:
        await clock.advance(60)
        assert 45 <= len(cluster.sent) <= 130
        assert len(leader.probe.starts) >= 3 * 11
        cluster.error = None
        await clock.advance(1.2 + INTERVAL)
        assert {result.key for sent in cluster.sent[-4:] for result in sent.results} == {url_of(n) for n in range(3)}


async def test_a_fenced_loop_ends_without_further_probes_or_reports(clock: FakeClock) -> None:
    cluster = Cluster(clock, 3)
    leader = Leader(clock, cluster)
    leader.probe.latency[url_of(0)] = 60.0
    cluster.error = Fenced("over")
    await leader.lead()
    await clock.advance(3)
    assert leader.task is not None
    with pytest.raises(Fenced, match="epoch 1"):
        leader.task.result()
    assert leader.loop.refused_reports == 1
    assert leader.probe.under_way == set()
    await clock.advance(60)
    assert (len(cluster.sent), len(leader.probe.starts)) == (1, 3)


async def test_a_cancelled_loop_sends_results_but_no_unfinished_probes(clock: FakeClock) -> None:
    cluster = Cluster(clock, 3)
    leader = Leader(clock, cluster)
    leader.probe.latency[url_of(1)] = 60.0
    await leader.lead()
    await clock.advance(0.05)
    assert cluster.sent == []
    await leader.stop()
    assert [sorted(sent.keys) for sent in cluster.sent] == [[url_of(0), url_of(2)]]
    assert leader.task is not None
    assert leader.task.cancelled()
    assert leader.probe.under_way == set()


async def test_a_batch_in_progress_at_a_cancel_keeps_its_number(clock: FakeClock) -> None:
    cluster = Cluster(clock, 3)
    cluster.latency = 0.5
    async with leading(clock, cluster) as leader:
        await clock.advance(0.3)
        await leader.stop()
        assert [sent.batch for sent in cluster.sent] == [1, 1]
        assert cluster.sent[0].results == cluster.sent[1].results


async def test_after_the_term_a_cancelled_loop_sends_nothing(clock: FakeClock) -> None:
    cluster = Cluster(clock, 3)
    leader = Leader(clock, cluster)
    await leader.lead(seconds=2.0)
    await clock.advance(0.05)
    clock.jump(1.95)
    await leader.stop()
    assert cluster.sent == []


async def test_a_failing_store_does_not_delay_a_cancel(clock: FakeClock) -> None:
    cluster = Cluster(clock, 3)
    cluster.error = StoreUnavailable("away")
    async with leading(clock, cluster) as leader:
        await clock.advance(0.05)
        await leader.stop()
        assert len(cluster.sent) == 1
        assert leader.task is not None
        assert leader.task.cancelled()


async def test_after_a_pause_past_the_deadline_the_loop_does_nothing(clock: FakeClock) -> None:
    """It neither probes nor reports."""
    cluster = Cluster(clock, 8)
    leader = Leader(clock, cluster, concurrency=2)
    for number in range(8):  # two are under way, others due and waiting for their turn
        leader.probe.latency[url_of(number)] = 0.04
    await leader.lead(seconds=2.7)
    await clock.advance(0.06)
    assert len(leader.probe.starts) == 4
    assert cluster.sent == [], "results wait to be sent"
    clock.jump(60)
    await clock.advance(60)
    assert len(leader.probe.starts) == 4
    assert cluster.sent == []
    assert not leader.is_running


async def test_a_report_in_progress_at_the_deadline_is_the_last(clock: FakeClock) -> None:
    cluster = Cluster(clock, 1200)
    cluster.latency = 1.0
    leader = Leader(clock, cluster, concurrency=2000)
    await leader.lead(seconds=1.05)
    await clock.advance(60)
    assert len(cluster.sent) == 1


async def test_the_loop_ends_by_itself_when_its_term_does(clock: FakeClock) -> None:
    leader = Leader(clock, Cluster(clock, 20))
    await leader.lead(seconds=12.0)
    await clock.advance(60)
    assert leader.task is not None
    assert leader.task.done()
    assert leader.task.exception() is None
    assert max(at for at, _ in leader.probe.starts) < 12
    assert max(sent.at for sent in leader.cluster.sent) < 12


async def test_the_loop_continues_with_a_renewed_term(clock: FakeClock) -> None:
    leader = Leader(clock, Cluster(clock, 20))
    await leader.lead(seconds=3.0)
    for _ in range(20):
        await clock.advance(1.0)
        leader.term.deadline = clock.monotonic() + 3.0
    assert leader.is_running
    assert max(at for at, _ in leader.probe.starts) > 15
    await leader.stop()


async def test_results_of_one_term_are_never_reported_in_another(clock: FakeClock) -> None:
    cluster = Cluster(clock, 4, probed_ago=10.0)
    leader = Leader(clock, cluster)
    leader.probe.latency[url_of(3)] = 30.0
    leader.probe.error = {url_of(number): "from the first term" for number in range(4)}
    await leader.lead(1, seconds=2.0)
    await clock.advance(0.05)
    clock.jump(5.0)  # three results wait to be sent, one probe is under way
    await leader.stop()
    assert cluster.sent == []
    leader.probe.error.clear()
    leader.probe.latency.clear()
    await leader.lead(2)
    await clock.advance(3 * INTERVAL)
    assert {(sent.epoch, sent.token) for sent in cluster.sent} == {(2, "token 2")}
    assert cluster.sent[0].batch == 1
    assert all(result.error is None for sent in cluster.sent for result in sent.results)
    await leader.stop()


async def test_a_replica_whose_result_waits_is_not_probed_again(clock: FakeClock) -> None:
    """While reports are far behind, more probes would delay them further."""
    cluster = Cluster(clock, 1200, probed_ago=INTERVAL)
    cluster.latency = 0.3
    async with leading(clock, cluster, concurrency=2000) as leader:
        leader.probe.error = {url_of(number): "broken" for number in range(1200)}
        await clock.advance(2.5)
        waiting = {url_of(number) for number in range(1200)} - {key for sent in cluster.sent for key in sent.keys}
        assert len(waiting) > 500
        assert {len(leader.probe.starts_of(number)) for number in range(1200) if url_of(number) in waiting} == {1}


async def test_new_replicas_wait_until_reports_keep_up(clock: FakeClock) -> None:
    """Otherwise their results would be too old when their turn comes, and their probes wasted."""
    cluster = Cluster(clock, 3_000)
    cluster.latency = 0.1
    async with leading(clock, cluster, concurrency=64) as leader:
        told: set[str] = set()

        def unreported() -> int:
            told.update(key for sent in cluster.sent for key in sent.keys)
            return len({key for _, key in leader.probe.starts} - told)

        for _ in range(100):
            await clock.advance(0.1)
            assert unreported() <= BEHIND + 64
        await clock.run_until(lambda: all(cluster.status(number).value == "healthy" for number in range(3_000)))
        first = {key: at for at, key in reversed(leader.probe.starts)}
        again = [key for at, key in leader.probe.starts if 0 < at - first[key] < INTERVAL / 2 - 0.2]
        assert again == [], "no probe is wasted"


async def test_settled_replicas_are_probed_while_new_ones_wait(clock: FakeClock) -> None:
    cluster = Cluster(clock, 20, probed_ago=1.0)
    async with leading(clock, cluster) as leader:
        await clock.advance(INTERVAL)
        cluster.latency = 0.3
        for number in range(20, 3_000):
            cluster.add(number)
        await clock.advance(1)
        assert len({key for _, key in leader.probe.starts}) < 1_000, "new ones wait"
        before = [len(leader.probe.starts_of(number)) for number in range(20)]
        await clock.advance(INTERVAL)
        assert [len(leader.probe.starts_of(number)) - count for number, count in enumerate(before)] == [1] * 20


async def test_a_held_replica_that_is_removed_is_not_probed(clock: FakeClock) -> None:
    cluster = Cluster(clock, 1_000)
    cluster.latency = 0.3
    async with leading(clock, cluster, concurrency=64) as leader:
        await clock.advance(1)
        begun = {key for _, key in leader.probe.starts}
        held = [number for number in range(1_000) if url_of(number) not in begun]
        assert len(held) > 100
        for number in held:
            cluster.remove(number)
        await clock.advance(3 * INTERVAL)
        assert {key for _, key in leader.probe.starts} == begun


async def test_probes_begin_in_bursts_that_leave_room_for_reports(clock: FakeClock) -> None:
    async with leading(clock, Cluster(clock, 600), concurrency=2000) as leader:
        assert 20 < len(leader.probe.starts) < 100
        await clock.advance(0.5)
        assert len({key for _, key in leader.probe.starts}) == 600
