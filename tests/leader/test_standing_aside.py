"""A leader that finds itself unfit: it resigns, others stand first, and where there is none it leads again."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import pytest

from shared_registry.errors import StoreUnavailable
from shared_registry.leader.election import HANDICAP_LEASES, JITTER_SECONDS, RunningTerm, StandAside
from tests.support.electing_router import LEASE, SIT_OUT, Lock, Router, deposed, resigned
from tests.support.fake_clock import FakeClock

HANDICAP = HANDICAP_LEASES * LEASE


@pytest.fixture
async def router(lock: Lock) -> AsyncIterator[Router]:
    router = unfit(lock)
    yield router
    await router.stop()


def unfit(lock: Lock, name: str = "a", *, after: float = 1.5) -> Router:
    """A router that stands aside in each of its terms, unless it is the last resort."""
    router = Router(lock, name)

    async def work(term: RunningTerm) -> None:
        await lock.clock.sleep(after)
        while term.is_last_resort:
            await lock.clock.sleep(0.5)
        raise StandAside("out of everything")

    router.work = work
    return router


async def test_a_troubled_leader_resigns_and_another_router_leads_at_once(
    clock: FakeClock, lock: Lock, router: Router
) -> None:
    """The resignation carries the reason."""
    await router.start()
    other = Router(lock, "b")
    await other.start()
    await clock.run_until(lambda: not router.is_leader())
    assert lock.holder == ""
    assert router.store.reasons == ["out of everything"]
    other.election.notice([resigned()])
    await clock.settle()
    assert other.is_leader()
    await clock.advance(3 * HANDICAP)
    assert lock.elections == [("a", 1), ("b", 2)]
    await other.stop()


async def test_a_leader_that_nobody_can_replace_goes_on(clock: FakeClock, lock: Lock, router: Router) -> None:
    """Redis refuses the resignation; the term and its lease go on, and the leader asks again after its handicap."""
    lock.is_last = True
    await router.start()
    await clock.advance(5 * LEASE)
    assert router.is_leader()
    assert lock.elections == [("a", 1)]
    assert router.store.reasons == ["out of everything"]
    assert len({id(term) for term in router.terms}) == 1, "the work begins anew in the same term"
    assert router.terms[-1].is_last_resort
    await clock.advance(HANDICAP)
    assert router.store.reasons == ["out of everything"] * 2
    lock.is_last = False
    await clock.advance(HANDICAP)
    assert lock.elections[0] == ("a", 1)
    assert len(lock.elections) == 2, "it resigned, and led again after a lease"


async def test_a_lone_troubled_router_leads_again_and_seldom_resigns(
    clock: FakeClock, lock: Lock, router: Router
) -> None:
    """It leads again after one lease."""
    await router.start()
    await clock.advance(1.5 + LEASE - 0.1)
    assert not router.is_leader()
    await clock.advance(0.2)
    assert router.is_leader()
    await clock.advance(HANDICAP - LEASE - 1)
    assert router.is_leader()
    assert router.terms[-1].is_last_resort
    await clock.advance(9 * HANDICAP)
    assert 8 <= len(lock.elections) <= 11


async def test_other_routers_campaign_first_at_later_vacancies_too(
    clock: FakeClock, lock: Lock, router: Router
) -> None:
    await router.start()
    await clock.advance(1.5)
    lock.seize()
    for _ in range(5):
        lock.expires_at = clock.monotonic() + LEASE
        await clock.advance(LEASE / 2)
    lock.expires_at = 0.0
    router.election.notice([resigned()])
    assert await clock.run_until(router.is_leader) == pytest.approx(LEASE)


async def test_after_its_handicap_a_router_campaigns_like_the_others(
    clock: FakeClock, lock: Lock, router: Router
) -> None:
    await router.start()
    await clock.advance(1.5)
    lock.seize()
    while clock.monotonic() < router.terms[0].deadline + HANDICAP:
        lock.expires_at = clock.monotonic() + LEASE
        await clock.advance(LEASE / 2)
    lock.expires_at = 0.0
    router.election.notice([resigned()])
    await clock.settle()
    assert router.is_leader()
    assert not router.terms[-1].is_last_resort


async def test_one_router_leads_even_if_all_are_unfit(clock: FakeClock, lock: Lock, router: Router) -> None:
    others = [unfit(lock, name) for name in "bcd"]
    for one in (router, *others):
        await one.start()
    led = resignations = 0
    for _ in range(1000):
        await clock.advance(0.1)
        led += lock.holder != ""
        if (count := sum(len(one.store.reasons) for one in (router, *others))) > resignations:
            resignations = count
            for one in (router, *others):
                one.election.notice([resigned()])
    assert led > 800
    assert len(lock.elections) <= 4 * (1 + 100 / HANDICAP) + 4
    for one in others:
        await one.stop()


async def test_without_redis_the_lease_ends_by_itself(clock: FakeClock, lock: Lock, router: Router) -> None:
    await router.start()
    await clock.advance(1.4)
    router.store.error = StoreUnavailable("no descriptor for a connection")
    await clock.advance(0.2)
    assert not router.is_leader()
    renewals = len(router.store.times("renew"))
    other = Router(lock, "b")
    await other.start()
    await clock.run_until(other.is_leader, within=LEASE + 2 * JITTER_SECONDS)
    assert len(router.store.times("renew")) == renewals
    await other.stop()


async def test_standing_aside_is_logged(lock: Lock, clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    router = unfit(lock)
    await router.start()
    await clock.advance(2)
    await router.stop()
    said = [record.getMessage() for record in caplog.records if record.name.startswith("shared_registry")]
    assert said == [
        "leader: leading in epoch 1",
        "leader: resigning, so that another router leads: out of everything",
    ]


async def test_a_troubled_leader_asked_to_step_down_sits_out(clock: FakeClock, lock: Lock, router: Router) -> None:
    await router.start()
    await clock.advance(1.5 + LEASE / 2)
    router.election.notice([deposed()])
    await clock.advance(SIT_OUT - 0.1)
    assert router.store.times("campaign") == [0]
    await clock.run_until(router.is_leader, within=LEASE)
