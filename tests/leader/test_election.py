"""Campaign, renew, resign; and that a leader never believes longer than its lease lasts."""

from __future__ import annotations

import itertools
import logging
import math
import random

import pytest

from shared_registry.errors import Fenced, StoreRefused, StoreUnavailable
from shared_registry.leader.election import JITTER_SECONDS, RunningTerm
from shared_registry.model import Event, EventKind
from tests.support.electing_router import BELIEF, LEASE, RENEW, Lock, Router, resigned
from tests.support.fake_clock import START, FakeClock


async def begin_a_lost_campaign(lock: Lock, router: Router) -> None:
    """Let it campaign while another router leads; the reply takes half a second."""
    lock.seize()
    router.store.delay_after = 0.5
    await router.start()


async def test_a_candidate_wins_a_free_lock_and_keeps_renewing_it(clock: FakeClock, lock: Lock, router: Router) -> None:
    await router.start()
    assert router.election.term is router.terms[0]
    assert (router.terms[0].epoch, router.terms[0].token) == (1, lock.token)
    await clock.advance(20)
    assert router.is_leader()
    assert len(router.terms) == 1
    assert lock.elections == [("a", 1)]
    assert router.store.times("campaign") == [0]
    assert router.store.times("renew") == pytest.approx([RENEW * turn for turn in range(1, 21)])


async def test_the_deadline_counts_from_sending_the_last_successful_renewal(clock: FakeClock, router: Router) -> None:
    router.store.delay_after = 0.5
    await router.start()
    await clock.advance(0.5)
    term = router.terms[0]
    assert term.deadline == START + BELIEF, "the campaign was sent at 0"
    await clock.advance(1.5)
    assert router.store.times("renew") == [1.5]
    assert term.deadline == START + 1.5 + BELIEF
    router.store.error = StoreUnavailable("gone")
    await clock.advance(1.5)
    assert len(router.store.times("renew")) > 1
    assert term.deadline == START + 1.5 + BELIEF, "failed renewals do not move it"


@pytest.mark.parametrize("fault", ["hanging", "failing", "refusing", "losing replies", "slow"])
async def test_leadership_without_renewals_ends_at_the_deadline_at_the_latest(
    clock: FakeClock, lock: Lock, router: Router, fault: str
) -> None:
    await router.start()
    await clock.advance(RENEW)
    last_renewal = router.store.times("renew")[-1]
    router.store.is_hanging = fault == "hanging"
    router.store.delay_before = 10.0 if fault == "slow" else 0.0
    router.store.loses_replies = fault == "losing replies"
    if fault in ("failing", "refusing"):
        router.store.error = StoreUnavailable("gone") if fault == "failing" else StoreRefused("no")
    await clock.advance(BELIEF - 0.01)
    assert router.is_leader()
    await clock.advance(0.01)
    assert not router.is_leader()
    assert router.election.term is None
    assert router.ended_at == pytest.approx(last_renewal + BELIEF)


async def test_renewals_at_a_failing_store_have_a_bounded_rate(clock: FakeClock, router: Router) -> None:
    """A few times a second, not more."""
    await router.start()
    router.store.error = StoreUnavailable("gone")
    await clock.advance(BELIEF)
    assert 3 <= len(router.store.times("renew")) <= 12


async def test_a_renewal_that_succeeds_after_failures_keeps_the_term(clock: FakeClock, router: Router) -> None:
    await router.start()
    router.store.error = StoreUnavailable("gone")
    await clock.advance(2.5)
    router.store.error = None
    await clock.advance(20)
    assert router.is_leader()
    assert len(router.terms) == 1
    assert len(router.store.times("renew")) <= 30


async def test_a_refused_renewal_ends_leadership_at_once(clock: FakeClock, lock: Lock, router: Router) -> None:
    await router.start()
    await clock.advance(0.5)
    lock.seize()
    await clock.advance(0.4)
    assert router.is_leader(), "nobody told it yet"
    await clock.advance(0.1)
    assert not router.is_leader()
    assert router.ended_at == 1.0
    assert lock.holder == "other's", "its resigning must not end another's lease"
    await clock.advance(LEASE + 2 * JITTER_SECONDS)
    assert [term.epoch for term in router.terms] == [1, 3]


async def test_each_candidacy_has_its_own_token(clock: FakeClock, lock: Lock, router: Router) -> None:
    await router.start()
    lock.seize()
    await clock.run_until(lambda: len(router.terms) == 2)
    assert router.terms[0].token != router.terms[1].token


@pytest.mark.parametrize("error", [None, Fenced("over")])
async def test_a_leader_whose_term_ends_resigns_and_campaigns_again(
    clock: FakeClock, lock: Lock, router: Router, error: Exception | None
) -> None:
    """Its `lead` returned, or the term was fenced."""

    async def first_ends_early(term: RunningTerm) -> None:
        await clock.sleep(1.5 if len(router.terms) == 1 else 1e6)
        if error is not None:
            raise error

    router.work = first_ends_early
    await router.start()
    await clock.advance(1.5)
    assert router.store.tokens("resign") == [router.terms[0].token]
    await clock.advance(3)
    assert [term.epoch for term in router.terms] == [1, 2]
    assert router.is_leader()


async def test_a_leader_resigns_only_after_a_renewal_in_progress(clock: FakeClock, router: Router) -> None:
    """Cut short it would cost the connection, and a leader without descriptors could open no other to resign."""

    async def ends_during_a_renewal(term: RunningTerm) -> None:
        await clock.sleep(RENEW + 0.1)

    router.work = ends_during_a_renewal
    router.store.delay_after = 0.3
    await router.start()
    await clock.advance(0.3 + RENEW + 0.1)
    assert router.store.times("renew") == pytest.approx([0.3 + RENEW])
    assert router.store.times("resign") == []
    await clock.advance(0.2)
    assert router.store.times("resign") == pytest.approx([0.3 + RENEW + 0.3])


async def test_an_error_of_lead_reaches_the_caller_after_resigning(
    clock: FakeClock, lock: Lock, router: Router
) -> None:
    async def fails(term: RunningTerm) -> None:
        await clock.sleep(1)
        raise LookupError("a bug")

    router.work = fails
    await router.start()
    await clock.advance(1)
    assert router.task is not None
    with pytest.raises(LookupError):
        router.task.result()
    assert lock.holder == ""
    assert clock.next_wake is None, "nothing is left running"


async def test_an_unexpected_error_of_renewing_reaches_the_caller(
    clock: FakeClock, router: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any error but one of the store."""

    async def broken(token: str, *, lease_seconds: float) -> bool:
        raise LookupError("a bug")

    await router.start()
    monkeypatch.setattr(router.store, "renew", broken)
    await clock.advance(RENEW)
    assert router.task is not None
    with pytest.raises(LookupError):
        router.task.result()
    assert not router.is_leader()


async def test_stopping_lets_lead_finish_while_renewing_and_then_resigns(
    clock: FakeClock, lock: Lock, router: Router
) -> None:
    reported_under: list[str] = []

    async def reports_at_the_end(term: RunningTerm) -> None:
        try:
            await clock.sleep(1e6)
        finally:
            await clock.sleep(2.5)
            reported_under.append(lock.holder)

    router.work = reports_at_the_end
    await router.start()
    router.cancel()
    await clock.advance(2.4)
    assert router.store.times("resign") == []
    assert router.store.times("renew") == [1, 2]
    await clock.advance(0.1)
    assert reported_under == [router.terms[0].token]
    assert router.store.times("resign") == [2.5]
    assert lock.holder == ""
    assert router.task is not None
    assert router.task.cancelled()
    assert clock.next_wake is None


async def test_stopping_twice_leaves_no_renewals_behind(clock: FakeClock, router: Router) -> None:
    async def slow_to_end(term: RunningTerm) -> None:
        try:
            await clock.sleep(1e6)
        finally:
            await clock.sleep(2.5)

    router.work = slow_to_end
    await router.start()
    router.cancel()
    await clock.advance(1)
    router.cancel()
    await clock.advance(20)
    assert router.task is not None
    assert router.task.cancelled()
    assert router.store.times("renew") == [1]
    assert clock.next_wake is None


async def test_stopping_during_a_campaign_awaits_its_outcome_and_resigns(
    clock: FakeClock, lock: Lock, router: Router
) -> None:
    router.store.delay_before = 0.5
    await router.start()
    router.cancel()
    await clock.advance(0.4)
    assert router.task is not None
    assert not router.task.done()
    await clock.advance(1)
    assert lock.elections == [("a", 1)]
    assert router.store.tokens("resign") == router.store.tokens("campaign")
    assert lock.holder == ""
    assert router.task.cancelled()
    assert router.terms == []


async def test_stopping_during_a_lost_campaign_resigns_nothing(clock: FakeClock, lock: Lock, router: Router) -> None:
    await begin_a_lost_campaign(lock, router)
    router.cancel()
    await clock.advance(1)
    assert router.store.times("resign") == []
    assert router.task is not None
    assert router.task.cancelled()


async def test_stopping_during_a_campaign_of_unknown_outcome_resigns(
    clock: FakeClock, lock: Lock, router: Router
) -> None:
    router.store.loses_replies = True
    router.store.delay_after = 0.5
    await router.start()
    router.cancel()
    await clock.advance(2)
    assert lock.elections == [("a", 1)]
    assert lock.holder == "", "the others need not wait for the lease to end"


async def test_stopping_after_a_campaign_of_unknown_outcome_resigns(
    clock: FakeClock, lock: Lock, router: Router
) -> None:
    router.store.loses_replies = True
    await router.start()
    await clock.advance(0.01)
    assert lock.holder != ""
    router.cancel()
    await clock.advance(1)
    assert lock.holder == ""


async def test_stopping_a_router_that_never_won_resigns_nothing(clock: FakeClock, lock: Lock, router: Router) -> None:
    lock.seize()
    await router.start()
    await clock.advance(1)
    router.cancel()
    await clock.advance(1)
    assert router.store.times("resign") == []


async def test_a_campaign_of_unknown_outcome_keeps_its_token_when_repeated(
    clock: FakeClock, lock: Lock, router: Router
) -> None:
    router.store.loses_replies = True
    await router.start()
    await clock.advance(1)
    assert len(lock.elections) == 1, "the lost reply had elected it"
    router.store.loses_replies = False
    waited = await clock.run_until(router.is_leader)
    assert waited < 1.1
    assert len(set(router.store.tokens("campaign"))) == 1
    assert lock.elections == [("a", 1)]
    sent_at = router.store.times("campaign")[-1]
    assert router.terms[0].deadline == pytest.approx(START + sent_at + BELIEF), "the lease began anew"


async def test_campaigns_at_a_failing_store_slow_to_one_a_second(
    clock: FakeClock, router: Router, caplog: pytest.LogCaptureFixture
) -> None:
    router.store.error = StoreUnavailable("Redis is away")
    await router.start()
    await clock.advance(60)
    assert 60 <= len(router.store.times("campaign")) <= 130
    assert caplog.messages == ["leader: Redis is away"]
    router.store.error = None
    await clock.run_until(router.is_leader, within=1)


async def test_a_follower_campaigns_when_the_lease_may_have_ended(clock: FakeClock, lock: Lock) -> None:
    """Plus a random delay, so that not all followers campaign at once."""
    leader = Router(lock, "leader")
    await leader.start()
    await clock.advance(2.5)
    followers = [Router(lock, f"follower {number}", seed=number) for number in range(20)]
    for follower in followers:
        await follower.start()
    leader.store.is_hanging = True
    ends_at = lock.expires_at - START
    await clock.advance(ends_at - 2.5 + JITTER_SECONDS)
    comings = [at for follower in followers for at in follower.store.times("campaign")[1:]]
    assert len(comings) == len(followers)
    assert all(ends_at <= at <= ends_at + JITTER_SECONDS for at in comings)
    assert len(set(comings)) == len(comings), "not all at once"
    assert sum(follower.is_leader() for follower in followers) == 1
    for router in (leader, *followers):
        await router.stop()


async def test_followers_of_a_live_leader_campaign_about_once_a_lease(
    clock: FakeClock, lock: Lock, router: Router
) -> None:
    leader = Router(lock, "leader")
    await leader.start()
    await router.start()
    await clock.advance(60)
    assert 60 / LEASE <= len(router.store.times("campaign")) <= 60 / (LEASE - RENEW) + 1
    assert len(lock.elections) == 1
    await leader.stop()


async def test_a_follower_that_hears_of_renewals_does_not_campaign(
    clock: FakeClock, lock: Lock, router: Router
) -> None:
    leader = Router(lock, "leader")
    await leader.start()
    await router.start()
    for _ in range(60):
        await clock.advance(1.0)
        router.election.hear_of_lease(lock.expires_at - clock.monotonic())
    assert router.store.times("campaign") == [0.0]
    leader.store.is_hanging = True
    ends_at = lock.expires_at - START
    while clock.monotonic() + 1.0 < lock.expires_at:
        await clock.advance(1.0)
        router.election.hear_of_lease(lock.expires_at - clock.monotonic())
    await clock.advance(1.0 + JITTER_SECONDS)
    (_, campaigned_at) = router.store.times("campaign")
    assert ends_at <= campaigned_at <= ends_at + JITTER_SECONDS
    assert router.is_leader()
    await leader.stop()


async def test_a_lease_longer_than_ones_own_delays_no_campaign(clock: FakeClock, lock: Lock, router: Router) -> None:
    """Its end may lie in the future because the server's clock was set back. A campaign mends that."""
    leader = Router(lock, "leader")
    await leader.start()
    await router.start()
    for _ in range(3 * int(LEASE)):
        await clock.advance(1.0)
        router.election.hear_of_lease(1000.0)
    assert len(router.store.times("campaign")) >= 3
    await leader.stop()


async def test_campaigns_near_the_end_of_a_lease_have_pauses(clock: FakeClock, lock: Lock, router: Router) -> None:
    lock.seize()
    await clock.advance(LEASE - 0.000_001)
    await router.start()
    lock.expires_at = math.inf
    await clock.advance(0)
    assert len(router.store.times("campaign")) == 1
    await clock.advance(JITTER_SECONDS)
    assert len(router.store.times("campaign")) == 2


async def test_a_resignation_wakes_a_follower_at_once(clock: FakeClock, lock: Lock, router: Router) -> None:
    lock.seize()
    await router.start()
    await clock.advance(1)
    lock.resign("other's")
    await clock.advance(0.5)
    assert not router.is_leader()
    router.election.notice([resigned()])
    await clock.settle()
    assert router.is_leader()
    assert router.store.times("campaign") == [0, 1.5]


async def test_a_resignation_wakes_a_follower_once(clock: FakeClock, lock: Lock, router: Router) -> None:
    lock.seize()
    await router.start()
    router.election.notice([resigned()])
    await clock.advance(1)
    assert router.store.times("campaign") == [0, 0], "somebody else was faster"


@pytest.mark.parametrize("kind", [kind for kind in EventKind if kind is not EventKind.LEADER_RESIGNED])
async def test_no_other_event_wakes_a_follower(clock: FakeClock, lock: Lock, router: Router, kind: EventKind) -> None:
    lock.seize()
    await router.start()
    router.election.notice([Event("1-1", kind, 0.0, "0-0", "b", 1)])
    router.election.notice([])
    await clock.advance(1)
    assert router.store.times("campaign") == [0]


async def test_a_resignation_during_a_refused_campaign_is_not_missed(
    clock: FakeClock, lock: Lock, router: Router
) -> None:
    await begin_a_lost_campaign(lock, router)
    lock.resign("other's")
    router.election.notice([resigned()])
    await clock.advance(1)
    assert router.is_leader()


async def test_campaigns_carry_the_highest_epoch_that_was_seen(clock: FakeClock, lock: Lock) -> None:
    router = Router(lock, seen_epoch=41)
    await router.start()
    assert router.terms[0].epoch == 42
    lock.epoch, lock.expires_at = 7, 0.0  # a failover lost what came since
    await clock.run_until(lambda: len(router.terms) == 2)
    assert router.terms[1].epoch == 43
    await router.stop()


async def test_a_pause_past_the_deadline_ends_the_term_first(clock: FakeClock, router: Router) -> None:
    """Before any other task runs."""
    await router.start()
    await clock.advance(2.5)
    believes = []
    for seconds in (BELIEF - 0.5 - 0.001, 0.001):
        clock.jump(seconds)
        believes.append((router.terms[0].is_current, router.election.term is not None))
    assert believes == [(True, True), (False, False)]


async def test_after_a_pause_past_the_deadline_no_renewal_is_sent(clock: FakeClock, lock: Lock, router: Router) -> None:
    await router.start()
    await clock.advance(2.5)
    clock.jump(60)
    lock.seize()
    await clock.advance(0.5)
    assert router.store.times("renew") == [1, 2]
    assert not router.is_leader()
    assert router.ended_at == 62.5
    assert lock.holder == "other's"


async def test_loss_of_leadership_is_logged_once_and_resigning_is_not(
    clock: FakeClock, lock: Lock, router: Router, caplog: pytest.LogCaptureFixture
) -> None:
    """Resigning on purpose is not a loss."""
    caplog.set_level(logging.INFO)
    await router.start()
    await clock.advance(1.5)
    lock.seize()
    await clock.run_until(lambda: len(router.terms) == 2)
    await router.stop()
    assert caplog.messages == [
        "leader: leading in epoch 1",
        "leader: lost epoch 1",
        "leader: leading in epoch 3",
    ]


async def test_twenty_candidates_with_faulty_connections_have_one_leader_at_once(clock: FakeClock, lock: Lock) -> None:
    rng = random.Random(7)
    routers = [Router(lock, f"r{number}", seed=number) for number in range(20)]
    for router in routers:
        await router.start()
    for _ in range(300):
        router = rng.choice(routers)
        fault = rng.choice(["error", "hang", "lose", "slow", "none", "none"])
        router.store.error = StoreUnavailable("away") if fault == "error" else None
        router.store.is_hanging, router.store.hang_seconds = fault == "hang", 1.0
        router.store.loses_replies = fault == "lose"
        router.store.delay_after = 0.7 if fault == "slow" else 0.0
        await clock.advance(rng.random())
        believers = [one.election.term for one in routers if one.election.term is not None]
        assert len(believers) <= 1
        assert all(lock.holder == term.token for term in believers)
        assert sum(one.is_leader() for one in routers) <= 1
    epochs = [epoch for _, epoch in lock.elections]
    assert len(epochs) > 5
    assert all(earlier < later for earlier, later in itertools.pairwise(epochs))
    led = [(router.store.router, term.epoch) for router in routers for term in router.terms]
    assert len(led) == len(set(led))
    assert set(led) <= set(lock.elections)
    for router in routers:
        await router.stop()


async def test_a_term_that_a_pause_has_ended_never_goes_on(clock: FakeClock, router: Router) -> None:
    """A renewal was sent before the pause, and its reply is read after it: by then a duty may have stopped."""
    await router.start()
    (first,) = router.terms
    router.store.error = StoreUnavailable("away")
    await clock.advance(BELIEF - 1.0)
    router.store.error, router.store.delay_after = None, 0.5
    renewals = len(router.store.times("renew"))
    await clock.run_until(lambda: len(router.store.times("renew")) > renewals)
    clock.jump(first.deadline - clock.monotonic() + 0.1)
    assert not first.is_current
    router.store.delay_after = 0.0
    await clock.advance(2 * LEASE)
    assert not first.is_current
    assert len(router.terms) == 2, "it was elected again, and begins anew"
    assert router.election.term is router.terms[-1]
