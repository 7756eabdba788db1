"""A leader that an operator deposes: it stops at once, sits out, and stands again only after that."""

from __future__ import annotations

import logging

import pytest

from shared_registry.errors import StoreUnavailable
from shared_registry.leader.election import JITTER_SECONDS, RunningTerm
from shared_registry.model import Event
from tests.support.electing_router import RENEW, SIT_OUT, Lock, Router, deposed
from tests.support.fake_clock import START, FakeClock


def depose(lock: Lock, *routers: Router) -> None:
    """End the lease, and tell these routers."""
    lock.expires_at = 0.0
    for router in routers:
        router.election.notice([deposed(lock.router)])


async def test_the_deposed_stops_at_once_and_another_leads_at_once_and_stays(
    clock: FakeClock, lock: Lock, router: Router
) -> None:
    await router.start()
    other = Router(lock, "b")
    await other.start()
    await clock.advance(2.5)
    depose(lock, router, other)
    assert router.election.term is None, "before anybody else had a turn"
    await clock.settle()
    assert router.ended_at == 2.5
    assert other.is_leader()
    await clock.advance(2 * SIT_OUT)
    assert lock.elections == [("a", 1), ("b", 2)]
    assert router.store.times("campaign")[1] == 2.5 + SIT_OUT
    await other.stop()


async def test_a_router_that_is_alone_leads_again_after_the_time(clock: FakeClock, lock: Lock, router: Router) -> None:
    await router.start()
    await clock.advance(2.5)
    depose(lock, router)
    await clock.advance(SIT_OUT - 0.01)
    assert lock.holder == ""
    assert router.store.times("campaign") == [0]
    await clock.advance(0.01)
    assert router.is_leader()
    await clock.advance(20)
    assert lock.elections == [("a", 1), ("a", 2)]


@pytest.mark.parametrize("event", [deposed("b"), deposed("a", None)], ids=["another is deposed", "it resigned itself"])
async def test_nothing_else_makes_a_leader_stop_or_sit_out(
    clock: FakeClock, lock: Lock, router: Router, event: Event
) -> None:
    await router.start()
    await clock.advance(2.5)
    router.election.notice([event])
    await clock.advance(1)
    assert router.is_leader()
    lock.seize()
    lock.expires_at = clock.monotonic()
    await clock.advance(RENEW + 2 * JITTER_SECONDS)
    assert [term.epoch for term in router.terms] == [1, 3], "at once"


@pytest.mark.parametrize("reply_takes", [0.0, 0.5], ids=["no renewal is under way", "one is that arrived before"])
async def test_lead_may_finish_and_is_no_leader_meanwhile(
    clock: FakeClock, lock: Lock, router: Router, reply_takes: float
) -> None:
    believed: list[bool] = []

    async def finishes_slowly(term: RunningTerm) -> None:
        try:
            await clock.sleep(1e6)
        finally:
            await clock.sleep(2.0)
            believed.append(term.is_current or router.election.term is not None)

    router.work = finishes_slowly
    await router.start()
    router.store.delay_after = reply_takes
    await clock.advance(1.2)
    assert router.store.times("renew") == [1.0]
    depose(lock, router)
    await clock.advance(2.0)
    assert believed == [False]
    assert router.ended_at == pytest.approx(3.2)
    await clock.advance(SIT_OUT + 1)
    assert [term.epoch for term in router.terms] == [1, 2]


async def test_news_that_overtake_the_reply_to_the_campaign_count(clock: FakeClock, lock: Lock, router: Router) -> None:
    router.store.delay_after = 0.5
    await router.start()
    await clock.advance(0.2)
    assert lock.elections == [("a", 1)]
    depose(lock, router)
    await clock.advance(SIT_OUT - 0.1)
    assert router.terms == []
    assert lock.elections == [("a", 1)]
    await clock.advance(1)
    assert [term.epoch for term in router.terms] == [2]


async def test_a_renewal_that_is_refused_before_the_news_come_waits_for_them(
    clock: FakeClock, lock: Lock, router: Router
) -> None:
    await router.start()
    await clock.advance(0.99)
    lock.expires_at = 0.0
    await clock.advance(0.01 + JITTER_SECONDS / 2)
    assert not router.is_leader()
    assert router.store.times("campaign") == [0]
    router.election.notice([deposed()])
    await clock.advance(SIT_OUT - 0.1)
    assert router.store.times("campaign") == [0]


async def test_news_that_come_after_it_was_elected_again_make_it_give_way(
    clock: FakeClock, lock: Lock, router: Router
) -> None:
    """As for one that was paused, and learns only then what it missed."""
    await router.start()
    await clock.advance(0.5)
    lock.expires_at = 0.0
    await clock.run_until(lambda: len(router.terms) == 2)
    assert router.is_leader()
    at = clock.monotonic() - START
    router.election.notice([deposed()])
    await clock.settle()
    assert not router.is_leader()
    assert lock.holder == "", "it resigns, or the others would wait for the lease to end"
    await clock.run_until(lambda: len(router.terms) == 3)
    assert router.store.times("campaign")[2] == pytest.approx(at + SIT_OUT)


@pytest.mark.parametrize("is_alone", [True, False])
async def test_stopping_while_it_sits_out(clock: FakeClock, lock: Lock, router: Router, is_alone: bool) -> None:
    await router.start()
    await clock.advance(0.5)
    depose(lock, router)
    if not is_alone:
        lock.seize()
    await clock.advance(1)
    router.cancel()
    await clock.settle()
    assert router.task is not None
    assert router.task.cancelled()
    assert clock.next_wake is None
    assert lock.holder == ("" if is_alone else "other's")


async def test_a_deposition_while_redis_is_away_ends_the_term_all_the_same(
    clock: FakeClock, lock: Lock, router: Router
) -> None:
    await router.start()
    router.store.error = StoreUnavailable("gone")
    await clock.advance(1.5)
    assert router.is_leader()
    depose(lock, router)
    await clock.settle()
    assert not router.is_leader()


async def test_it_is_logged_as_what_it_is(
    clock: FakeClock, lock: Lock, router: Router, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await router.start()
    await clock.advance(1.5)
    depose(lock, router)
    await clock.advance(SIT_OUT)
    await router.stop()
    assert caplog.messages == [
        "leader: leading in epoch 1",
        "leader: stepping down for ann, sitting out 12 s",
        "leader: leading in epoch 2",
    ]
