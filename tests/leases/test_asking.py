"""Who waits asks again when it is worthwhile, hears where it stands, and looks once more when its time is up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from typing import cast

import pytest

from shared_registry.config import RouterConfig
from shared_registry.errors import SlotMigrating, StoreError, StoreUnavailable, UsageError
from shared_registry.leases.asking import TRIES_TO_JOIN, Asker
from shared_registry.leases.ledger import Ledger, SlotRequest
from shared_registry.leases.outage import Outage
from shared_registry.leases.queue import LAST_CALL_SECONDS, POLL_SECONDS, OnPosition, RouterQueue
from shared_registry.leases.recovery import Recovery
from shared_registry.store.lane import Busy
from shared_registry.store.replies import Denial, Denied, Grant, Queued
from tests.support.fake_clock import START, FakeClock
from tests.support.leasing_router import A, B
from tests.support.waiting_router import Answer, ScriptedAsking, ScriptedQueue

TIMEOUT = 10.0
GRANT = Grant(A, "1-0")
FULL = Denied(Denial.SATURATED, 9)
EXCLUDED = Denied(Denial.EXCLUDED)
NOT_JOINED = Denied(Denial.NOT_REGISTERED)
THIRD = Queued("77", 3, 9)
AWAY = StoreUnavailable("away")
MIGRATING = SlotMigrating("the hash slot moves")


class Router:
    """An asker and what it asks, with a line that is followed.

    Attributes:
        heard: What `on_position` was told when.
        rejoins: How often it joined the live routers.
        can_place_alone: Whether it has a slot to give without Redis.
        catches_up: How often it let Redis have what was placed without it.
        behind: Why it cannot.
        others: What `left_to_others` returns, where anything was refused.
    """

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.store = ScriptedAsking(clock)
        self.redis = ScriptedQueue(clock)
        self.queue: RouterQueue = self.redis.queue(is_known=lambda _: True, on_orphaned_lease=lambda: None)
        self.heard: list[tuple[float, int, int]] = []
        self.rejoins = 0
        self.can_place_alone = False
        self.catches_up = 0
        self.behind: StoreUnavailable | None = None
        self.others: set[str] = set()
        self.ledger = Ledger()
        self.request = SlotRequest("a", [A], [B], 0, self.ledger)
        self.asker = Asker(
            self.store.as_store(),
            self.ledger,
            cast("Outage", self),
            cast("Recovery", self),
            settings=RouterConfig(redis_url="redis://127.0.0.1", max_queue=self.store.max_queue, panic_percent=50.0),
            clock=clock,
        )

    @property
    def was_refused(self) -> bool:
        return bool(self.others)

    def left_to_others(self) -> set[str]:
        return self.others

    def choose(self, *, avoided: Collection[str], excluded: Collection[str], takes_spare: bool) -> object:
        assert (avoided, excluded, takes_spare) == ([A], [B], True)
        return GRANT if self.can_place_alone else None

    def on_position(self, position: int, depth: int) -> None:
        self.heard.append((self.clock.monotonic() - START, position, depth))

    def wait(self, *, on_position: OnPosition | None = None) -> asyncio.Task[Grant | Denied]:
        deadline = self.clock.monotonic() + TIMEOUT
        return asyncio.ensure_future(
            self.queue.wait(self.asker, self.request, deadline, on_position or self.on_position)
        )

    async def close(self) -> None:
        self.asker.close()
        self.queue.call_all()
        await self.clock.settle()

    async def rejoin(self) -> None:
        self.rejoins += 1

    async def catch_up(self) -> None:
        self.catches_up += 1
        if self.behind is not None:
            raise self.behind


@pytest.fixture
async def router(clock: FakeClock) -> AsyncIterator[Router]:
    router = Router(clock)
    running = asyncio.ensure_future(router.queue.run())
    yield router
    running.cancel()
    await asyncio.wait([running])
    assert len(router.queue._waiters) == 0, "somebody was left in the queue"


def calling_during(router: Router, call: str, what: Callable[[], None]) -> None:
    async def during(under_way: str) -> None:
        if under_way == call:
            what()

    router.store.during = during  # type: ignore[method-assign,assignment]


async def test_a_session_with_a_free_slot_does_not_wait(router: Router, clock: FakeClock) -> None:
    router.store.answers = [GRANT]
    task = router.wait()
    await clock.settle()
    assert task.result() == GRANT
    assert router.store.called == ["wait"]
    assert (router.store.avoided, router.store.excluded) == ([[A]], [[B]])
    assert (router.heard, router.redis.asked, router.request.is_in_doubt) == ([], [], False)


async def test_placements_are_recorded_in_redis_before_a_slot_is_requested(router: Router, clock: FakeClock) -> None:
    router.behind = AWAY
    router.ledger.unrecorded.add("placed without Redis")
    with pytest.raises(StoreUnavailable):
        await router.asker.ask(router.request)
    assert (router.store.called, router.request.is_in_doubt) == ([], False)
    router.behind = None
    router.store.last_answers = [NOT_JOINED, GRANT]
    assert await router.asker.ask(router.request) == GRANT
    assert (router.catches_up, router.rejoins) == (3, 1)
    router.ledger.unrecorded.clear()
    assert await router.asker.ask(router.request) == GRANT
    assert router.catches_up == 3, "Redis has it all"


async def test_replicas_left_to_other_routers_are_excluded_meanwhile(router: Router, clock: FakeClock) -> None:
    router.others = {A}
    router.store.answers = [EXCLUDED, GRANT]
    task = router.wait()
    await clock.settle()
    router.others = set()
    await clock.run_until(task.done, within=2 * POLL_SECONDS)
    assert task.result() == GRANT
    assert router.store.excluded == [{A, B}, [B]]


async def test_a_session_refused_by_a_long_queue_fails_at_once(router: Router, clock: FakeClock) -> None:
    router.store.answers = [FULL]
    task = router.wait()
    await clock.settle()
    assert (task.result(), router.store.called, router.heard) == (FULL, ["wait"], [])


@pytest.mark.parametrize("last", [GRANT, FULL], ids=["granted", "in vain"])
async def test_at_the_deadline_one_last_request_is_made_without_waiting(
    router: Router, clock: FakeClock, last: Grant | Denied
) -> None:
    router.store.answers, router.store.last_answers = [THIRD], [last]
    router.redis.position_of["a"] = 3
    task = router.wait()
    await clock.advance(TIMEOUT - 0.01)
    assert not task.done()
    await clock.advance(0.01)
    assert task.result() == last
    assert router.store.calls == [(START, "wait"), (START + TIMEOUT, "acquire")]
    assert router.store.excluded[-1] == [B]


async def test_a_deadline_already_passed_leaves_one_request(router: Router, clock: FakeClock) -> None:
    router.store.last_answers = [FULL]
    task = asyncio.ensure_future(router.queue.wait(router.asker, router.request, clock.monotonic(), None))
    await clock.settle()
    assert (task.result(), router.store.called) == (FULL, ["acquire"])


async def test_the_inbox_brings_a_waiter_its_slot_at_once(router: Router, clock: FakeClock) -> None:
    router.store.answers = [THIRD]
    router.redis.position_of["a"] = 3
    task = router.wait()
    await clock.advance(0.3)
    router.redis.wake("a")
    await clock.advance()
    assert task.result() == GRANT
    assert router.store.calls == [(START, "wait")]


async def test_a_waiter_called_during_a_request_requests_again(router: Router, clock: FakeClock) -> None:
    router.store.answers = [THIRD, GRANT]
    calling_during(router, "wait", router.queue.call_all)
    task = router.wait()
    await clock.settle()
    assert (task.result(), clock.monotonic()) == (GRANT, START)


async def test_a_waiter_missing_from_the_queue_rejoins_at_its_position(router: Router, clock: FakeClock) -> None:
    router.store.answers = [THIRD, Queued("77", 1, 1), GRANT]
    router.redis.position_of["a"] = 3
    task = router.wait()
    await clock.advance(2)
    del router.redis.position_of["a"]
    await clock.advance(1.2)
    router.redis.position_of["a"] = 1
    assert router.store.called == ["wait", "wait 77"]
    assert router.heard[-1][1:] == (1, 1)
    assert not task.done()
    router.redis.wake("a")
    await clock.advance()
    assert task.result() == GRANT


async def test_a_waiter_receives_its_position_at_once_and_every_change(router: Router, clock: FakeClock) -> None:
    router.store.answers, router.store.last_answers = [THIRD], [FULL]
    router.redis.position_of["a"] = 3
    task = router.wait()
    await clock.settle()
    assert router.heard == [(0.0, 3, 9)]
    await clock.advance(3)
    assert len(router.heard) == 1
    router.redis.position_of["a"] = 2
    await clock.advance(1.2)
    router.redis.depth = 5
    await clock.advance(1.2)
    assert [told[1:] for told in router.heard] == [(3, 9), (2, 9), (2, 5)]
    await clock.advance(TIMEOUT)
    assert task.result() == FULL
    assert len(router.heard) == 3


async def test_a_waiter_that_has_not_moved_receives_no_news(router: Router, clock: FakeClock) -> None:
    router.store.answers, router.store.last_answers = [THIRD], [FULL]
    router.redis.position_of["a"] = 3
    task = router.wait()
    await clock.settle()
    for _ in range(3):
        router.queue.call_all()
        await clock.advance(0.1)
    assert router.store.called == ["wait"] + ["wait 77"] * 3
    assert len(router.heard) == 1
    await clock.advance(TIMEOUT)
    assert task.done()


@pytest.mark.parametrize("at", [3, 2], ids=["at once", "later"])
async def test_an_error_in_on_position_ends_the_wait(router: Router, clock: FakeClock, at: int) -> None:
    def leave(position: int, depth: int) -> None:
        if position == at:
            raise ConnectionResetError("the client has left")

    router.store.answers = [THIRD]
    router.redis.position_of["a"] = 2
    task = router.wait(on_position=leave)
    await clock.advance(1.2)
    with pytest.raises(ConnectionResetError):
        task.result()
    assert len(router.queue._waiters) == 0
    assert not router.request.is_in_doubt


async def test_a_newcomer_waits_while_redis_is_away(router: Router, clock: FakeClock) -> None:
    router.store.answers = [AWAY, AWAY, THIRD, GRANT]
    task = router.wait()
    await clock.settle()
    assert router.request.is_in_doubt
    await clock.advance(POLL_SECONDS + 0.1)
    assert (router.store.called, router.heard) == (["wait"] * 2, [])
    await clock.advance(POLL_SECONDS)
    assert router.heard[-1][1:] == (3, 9)
    router.queue.call_all()
    await clock.settle()
    assert task.result() == GRANT


async def test_a_newcomer_is_placed_without_redis_at_once(router: Router, clock: FakeClock) -> None:
    router.store.answers = [AWAY]
    router.can_place_alone = True
    task = router.wait()
    await clock.settle()
    with pytest.raises(StoreUnavailable):
        task.result()
    assert router.request.is_in_doubt


async def test_nobody_is_placed_alone_while_a_slot_migrates(router: Router, clock: FakeClock) -> None:
    router.store.answers = [MIGRATING, THIRD, MIGRATING, GRANT]
    router.can_place_alone = True
    task = router.wait()
    await clock.advance(POLL_SECONDS + 0.1)
    router.queue.call_all()
    await clock.advance(2 * POLL_SECONDS)
    assert task.result() == GRANT
    assert router.store.called == ["wait", "wait", "wait 77", "wait 77"]


@pytest.mark.parametrize("error", ["away", "migrating"])
async def test_an_outage_until_the_deadline_is_told(router: Router, clock: FakeClock, error: str) -> None:
    failure = {"away": AWAY, "migrating": MIGRATING}[error]
    router.store.answers, router.store.last_answers = [failure], [failure]
    task = router.wait()
    await clock.advance(TIMEOUT - 0.1)
    assert not task.done()
    await clock.advance(0.2)
    with pytest.raises(type(failure)):
        task.result()


async def test_a_waiter_keeps_waiting_while_redis_is_away(router: Router, clock: FakeClock) -> None:
    router.store.answers = [THIRD, AWAY, AWAY, AWAY, GRANT]
    task = router.wait()
    await clock.settle()
    router.queue.call_all()
    await clock.advance(2 * POLL_SECONDS + 0.1)
    assert router.store.called == ["wait", "wait 77", "wait 77", "wait 77"]
    assert not task.done()
    assert router.request.is_in_doubt
    await clock.advance(POLL_SECONDS)
    assert task.result() == GRANT
    assert not router.request.is_in_doubt


async def test_an_outage_that_lasts_is_an_error_at_the_deadline(router: Router, clock: FakeClock) -> None:
    router.store.answers, router.store.last_answers = [THIRD, AWAY], [AWAY]
    task = router.wait()
    await clock.settle()
    router.queue.call_all()
    await clock.advance(TIMEOUT - 0.01)
    assert not task.done()
    await clock.advance(0.01)
    with pytest.raises(StoreUnavailable):
        task.result()
    assert router.store.calls[-1] == (START + TIMEOUT, "acquire")


async def test_a_session_placed_without_redis_stops_waiting(router: Router, clock: FakeClock) -> None:
    router.store.answers = [THIRD, AWAY]
    task = router.wait()
    await clock.settle()
    router.queue.call_all()
    await clock.settle()
    assert not task.done()
    router.can_place_alone = True
    await clock.advance(POLL_SECONDS)
    with pytest.raises(StoreUnavailable):
        task.result()


async def test_a_session_excluding_the_free_replicas_joins_no_queue(router: Router, clock: FakeClock) -> None:
    router.store.answers = [EXCLUDED, EXCLUDED, THIRD, GRANT]
    task = router.wait()
    await clock.advance(2 * POLL_SECONDS - 0.01)
    assert (router.store.called, router.heard, router.redis.asked) == (["wait", "wait"], [], [])
    await clock.advance(0.01)
    assert router.heard == [(2 * POLL_SECONDS, 3, 9)]
    router.queue.call_all()
    await clock.settle()
    assert (task.result(), router.store.called[2:]) == (GRANT, ["wait", "wait 77"])


async def test_a_session_excluding_the_free_replicas_keeps_its_deadline(router: Router, clock: FakeClock) -> None:
    router.store.answers, router.store.last_answers = [EXCLUDED], [Denied(Denial.NO_HEALTHY)]
    await clock.advance(0.5)
    task = asyncio.ensure_future(router.queue.wait(router.asker, router.request, START + 2.2, None))
    await clock.advance(1.8)
    assert task.result() == Denied(Denial.NO_HEALTHY)
    assert router.store.called[-1] == "acquire"
    assert router.store.calls[-1][0] == pytest.approx(START + 2.2)


@pytest.mark.parametrize("where", ["at first", "later", "at the deadline"])
async def test_a_router_that_was_reaped_rejoins_and_requests_again(
    router: Router, clock: FakeClock, where: str
) -> None:
    answers: dict[str, list[Answer]] = {
        "at first": [NOT_JOINED, NOT_JOINED, THIRD, GRANT],
        "later": [THIRD, NOT_JOINED, GRANT],
        "at the deadline": [THIRD],
    }
    router.store.answers = answers[where]
    router.store.last_answers = [NOT_JOINED, GRANT]
    router.redis.position_of["a"] = 3
    task = router.wait()
    await clock.settle()
    if where != "at the deadline":
        router.queue.call_all()
    await clock.advance(TIMEOUT)
    assert task.result() == GRANT
    assert router.rejoins == (2 if where == "at first" else 1)
    assert not router.request.is_in_doubt


async def test_a_router_that_cannot_rejoin_raises_an_error(router: Router, clock: FakeClock) -> None:
    router.store.answers = [NOT_JOINED]
    router.can_place_alone = True
    task = router.wait()
    await clock.settle()
    with pytest.raises(StoreUnavailable, match="not among the live ones"):
        task.result()
    assert (router.rejoins, router.store.called) == (TRIES_TO_JOIN, ["wait"] * TRIES_TO_JOIN)


async def test_closing_ends_the_wait_of_a_queued_session(router: Router, clock: FakeClock) -> None:
    router.store.answers = [THIRD]
    router.redis.position_of["a"] = 3
    task = router.wait()
    await clock.advance(1)
    await router.close()
    with pytest.raises(UsageError):
        task.result()
    assert router.store.called == ["wait"]


@pytest.mark.parametrize("answers", [[THIRD, AWAY], [EXCLUDED]], ids=["while redis is away", "while excluding"])
async def test_closing_ends_the_wait_of_a_session_outside_the_queue(
    router: Router, clock: FakeClock, answers: list[Queued | Denied | StoreUnavailable]
) -> None:
    router.store.answers = list(answers)
    task = router.wait()
    await clock.settle()
    router.queue.call_all()
    await clock.settle()
    await router.close()
    await clock.advance(POLL_SECONDS)
    assert task.done()
    with pytest.raises(UsageError):
        task.result()


async def test_a_router_that_has_left_does_not_rejoin(router: Router, clock: FakeClock) -> None:
    router.store.answers = [THIRD, NOT_JOINED]

    calling_during(router, "wait 77", router.asker.close)
    task = router.wait()
    await clock.settle()
    router.queue.call_all()
    await clock.settle()
    with pytest.raises(UsageError):
        task.result()
    assert router.rejoins == 0


async def test_a_cancelled_waiter_leaves_the_queue_at_once(router: Router, clock: FakeClock) -> None:
    router.store.answers = [THIRD]
    task = router.wait()
    await clock.settle()
    task.cancel()
    await clock.settle()
    assert task.cancelled()
    assert (len(router.queue._waiters), router.request.is_in_doubt) == (0, False)


async def test_a_session_cancelled_before_its_turn_sends_no_request(router: Router, clock: FakeClock) -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    router.store.until_its_turn = never  # type: ignore[method-assign]
    task = router.wait()
    await clock.settle()
    task.cancel()
    await clock.settle()
    assert task.cancelled()
    assert not router.ledger.knows("a")
    assert (router.store.called, router.request.is_in_doubt) == ([], False)


@pytest.mark.parametrize(("answer", "is_in_doubt"), [(THIRD, False), (GRANT, False), (AWAY, True)])
async def test_a_cancelled_request_awaits_its_answer_first(
    router: Router, clock: FakeClock, answer: Grant | Queued | StoreError, is_in_doubt: bool
) -> None:
    gate = asyncio.Event()

    async def wait(call: str) -> None:
        await gate.wait()

    router.store.during = wait  # type: ignore[method-assign]
    router.store.answers = [answer]
    task = router.wait()
    await clock.settle()
    for _ in range(2):
        task.cancel()
        await clock.settle()
        assert not task.done()
    gate.set()
    await clock.settle()
    assert task.cancelled()
    assert (len(router.queue._waiters), router.request.is_in_doubt) == (0, is_in_doubt)


@pytest.mark.parametrize(
    ("answer", "is_at_the_end", "is_served"),
    [(GRANT, False, True), (FULL, False, False), (GRANT, True, True), (FULL, True, False)],
)
async def test_only_served_waiters_measure_the_speed_of_the_queue(
    router: Router, clock: FakeClock, answer: Grant | Denied, is_at_the_end: bool, is_served: bool
) -> None:
    router.store.answers = [THIRD] if is_at_the_end else [THIRD, answer]
    router.store.last_answers = [answer]
    router.redis.position_of["a"] = 3
    task = router.wait()
    await clock.advance(TIMEOUT / 2)
    if not is_at_the_end:
        router.queue.call_all()
    await clock.advance(TIMEOUT / 2 if is_at_the_end else 0.0)
    assert task.done()
    await clock.advance(2)
    assert (router.queue.speed.seconds_to_pass(clock.monotonic(), 1) is not None) is is_served


async def test_a_request_without_waiting_is_sent_once(router: Router, clock: FakeClock) -> None:
    router.store.last_answers = [FULL]
    assert await router.asker.ask(router.request) == FULL
    assert (router.store.called, len(router.queue._waiters)) == (["acquire"], 0)


async def test_a_session_without_a_turn_in_time_fails_as_busy(router: Router, clock: FakeClock) -> None:
    router.store.answers = [Busy("busy")]
    task = router.wait()
    await clock.settle()
    with pytest.raises(Busy):
        task.result()
    assert (router.store.called, router.store.patience) == (["wait"], [TIMEOUT])


async def test_each_turn_may_take_the_time_that_is_left(router: Router, clock: FakeClock) -> None:
    router.store.answers, router.store.last_answers = [EXCLUDED], [FULL]
    task = router.wait()
    await clock.advance(TIMEOUT + 0.1)
    assert task.result() == FULL
    waits = int(TIMEOUT / POLL_SECONDS)
    assert router.store.patience == [*(TIMEOUT - n * POLL_SECONDS for n in range(waits)), LAST_CALL_SECONDS]


async def test_a_waiter_without_a_turn_keeps_its_position(router: Router, clock: FakeClock) -> None:
    router.store.answers, router.store.last_answers = [THIRD, Busy("busy"), GRANT], [FULL]
    task = router.wait()
    await clock.advance(2 * POLL_SECONDS)
    assert task.result() == GRANT
    assert router.store.called == ["wait", "wait 77", "wait 77"]


async def test_a_slot_granted_without_a_last_turn_counts(router: Router, clock: FakeClock) -> None:
    router.store.answers, router.store.last_answers = [THIRD], [Busy("busy")]
    router.redis.position_of["a"] = 3

    async def during(call: str) -> None:
        if call == "acquire":
            router.redis.wake("a")
            await clock.sleep(LAST_CALL_SECONDS / 2)

    router.store.during = during  # type: ignore[method-assign]
    task = router.wait()
    await clock.advance(TIMEOUT + LAST_CALL_SECONDS)
    assert task.result() == GRANT


async def test_a_request_after_closing_is_refused_and_not_sent(router: Router, clock: FakeClock) -> None:
    router.asker.close()
    with pytest.raises(UsageError):
        await router.asker.ask(router.request)
    assert not router.ledger.knows("a")
    assert not router.request.is_in_doubt


async def test_rejoining_the_live_routers_is_bounded_by_the_deadline(router: Router, clock: FakeClock) -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    router.rejoin = never  # type: ignore[method-assign]
    router.store.last_answers = [NOT_JOINED]
    with pytest.raises(Busy):
        await router.asker.ask(router.request, patience_seconds=0.01)
