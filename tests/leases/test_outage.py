"""What a router knows of an outage: when it reads loads, what it places without Redis, what it leaves to others."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Collection, Mapping
from typing import Any, Literal, cast

import pytest
from redis.exceptions import ReadOnlyError, ResponseError

from shared_registry.errors import SlotMigrating, StoreError, StoreUnavailable
from shared_registry.happenings import Emitter
from shared_registry.leases import outage as module
from shared_registry.leases.lease_news import LeaseNews
from shared_registry.leases.ledger import Ledger
from shared_registry.leases.outage import IDLE_SECONDS, SETTLING_SECONDS, Outage
from shared_registry.mirror.mirror import Mirror
from shared_registry.model import Replica, ReplicaEndpoint, ReplicaHealth, ReplicaRecord, ReplicaStatus
from shared_registry.selection.view import View
from shared_registry.store.reader import Reader
from tests.support.fake_clock import FakeClock
from tests.support.leasing_router import A, B, C, hold

ROUTER, OTHER = "r~1", "s~1"
REFRESH = 5.0
CAPACITY = 4
AWAY = StoreUnavailable("away")
Endpoints = Mapping[str, ReplicaEndpoint]


def refusal() -> StoreUnavailable:
    """Return what a call raises that the server itself refused."""
    error = StoreUnavailable("refused")
    error.__cause__ = ReadOnlyError("READONLY You can't write against a read only replica.")
    return error


def record(url: str, capacity: int) -> ReplicaRecord:
    return ReplicaRecord(url, ReplicaEndpoint(url, capacity=capacity), ReplicaHealth(ReplicaStatus.HEALTHY))


class Router:
    """An outage under test, with the loads that Redis counts.

    Attributes:
        in_flight: What Redis counts.
        routers: Who is live.
        reads: When loads were read.
        error: What reading raises.
        gate: Reading waits for it, where it is set.
    """

    def __init__(self, clock: FakeClock, mode: Literal["share", "off", "unlimited"] = "share") -> None:
        self.clock = clock
        self.in_flight: dict[str, int] = {}
        self.routers = [ROUTER]
        self.reads: list[float] = []
        self.error: StoreError | None = None
        self.gate: asyncio.Event | None = None
        self.ledger = Ledger()
        self.view = View()
        self.show({A: CAPACITY, B: CAPACITY})
        self.outage = Outage(
            mode,
            cast("Reader", self),
            cast("Mirror", self),
            self.ledger,
            LeaseNews(Emitter(), clock),
            router=ROUTER,
            refresh_seconds=REFRESH,
            clock=clock,
        )

    def show(self, capacities: Mapping[str, int]) -> None:
        self.view.replace_all({url: record(url, capacity) for url, capacity in capacities.items()})

    async def loads(
        self, endpoints: Endpoints, *, ramping: Collection[str], spares: Endpoints
    ) -> tuple[dict[str, int], list[str]]:
        self.reads.append(self.clock.monotonic())
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        return {url: self.in_flight.get(url, 0) for url in (*endpoints, *spares)}, self.routers

    def is_unsettled(self) -> bool:
        return self.outage.is_unsettled

    def was_refused(self) -> bool:
        return self.outage.was_refused

    def acquire(self, lease_id: str, url: str) -> None:
        """Do what placing a session through Redis does."""
        hold(self.ledger, lease_id, url)
        self.outage.degraded.take(lease_id, url)

    def chosen(self, *, avoided: Collection[str] = (), excluded: Collection[str] = ()) -> str | None:
        replica = self.outage.choose(avoided=avoided, excluded=excluded, takes_spare=True)
        return None if replica is None else replica.key

    async def place(self, error: StoreUnavailable) -> Replica:
        return await self.outage.place(error, avoided=(), excluded=(), takes_spare=True)

    @contextlib.asynccontextmanager
    async def looking(self) -> AsyncIterator[None]:
        task = asyncio.ensure_future(self.outage.poll_loads())
        await self.clock.settle()
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def see_loads(self) -> None:
        """Let it read the loads, as it does while sessions come."""
        async with self.looking():
            self.ledger.acquires += 1
            self.ledger.is_used.set()
            await self.clock.advance(REFRESH)
        assert self.reads


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def router(clock: FakeClock) -> Router:
    return Router(clock)


async def test_no_loads_are_read_before_the_first_acquire(router: Router, clock: FakeClock) -> None:
    async with router.looking():
        await clock.advance(4 * REFRESH)
    assert router.reads == []


async def test_loads_are_read_until_some_time_after_the_last_acquire(router: Router, clock: FakeClock) -> None:
    async with router.looking():
        router.acquire("a", A)
        await clock.advance(10 * REFRESH)
        assert len(router.reads) == 10
        router.acquire("b", B)
        await clock.advance(10 * IDLE_SECONDS)
        last_noticed = router.reads[10]
        assert IDLE_SECONDS - REFRESH <= router.reads[-1] - last_noticed <= IDLE_SECONDS
        router.acquire("c", B)
        before = len(router.reads)
        await clock.advance(REFRESH)
    assert len(router.reads) == before + 1


@pytest.mark.parametrize("mode", ["off", "unlimited"])
async def test_loads_are_read_only_for_shared_placement(clock: FakeClock, mode: Literal["off", "unlimited"]) -> None:
    router = Router(clock, mode)
    async with router.looking():
        router.acquire("a", A)
        await clock.advance(4 * REFRESH)
    assert router.reads == []


async def test_loads_are_read_only_where_capacity_is_limited(router: Router, clock: FakeClock) -> None:
    router.show({A: 0})
    async with router.looking():
        router.acquire("a", A)
        await clock.advance(REFRESH)
        assert router.reads == []
        router.show({A: 0, B: 1})
        await clock.advance(REFRESH)
    assert len(router.reads) == 1


async def test_no_shares_are_computed_while_writes_fail(router: Router, clock: FakeClock) -> None:
    async with router.looking():
        router.acquire("a", A)
        await clock.advance(REFRESH - 0.1)
        router.outage.note_failure(AWAY)
        await clock.advance(0.2)
        assert router.reads == []
        await clock.advance(REFRESH)
    assert len(router.reads) == 1


async def test_loads_that_cannot_be_read_keep_the_last_ones(router: Router, clock: FakeClock) -> None:
    router.in_flight = {A: 1}
    await router.see_loads()
    seen = router.outage.degraded.loads
    assert seen is not None
    assert seen.in_flight == {A: 1, B: 0}
    router.error = AWAY
    await router.see_loads()
    assert len(router.reads) == 2
    assert router.outage.degraded.loads is seen


@pytest.mark.parametrize("what", ["a write fails", "a lease is out", "a slot is kept"])
async def test_loads_read_while_a_call_is_pending_do_not_count(router: Router, clock: FakeClock, what: str) -> None:
    router.gate = asyncio.Event()
    async with router.looking():
        router.acquire("a", A)
        await clock.advance(REFRESH)
        assert len(router.reads) == 1
        if what == "a write fails":
            router.outage.note_failure(AWAY)
        elif what == "a lease is out":
            router.ledger.unrecorded.add("b")
        else:
            router.ledger.kept["b"] = A
        router.gate.set()
        await clock.settle()
    assert router.outage.degraded.loads is None


async def test_a_router_counts_as_apart_for_some_time_after_failures(router: Router, clock: FakeClock) -> None:
    assert not router.is_unsettled()
    router.outage.note_failure(AWAY)
    assert router.is_unsettled()
    await clock.advance(SETTLING_SECONDS - 0.1)
    assert router.is_unsettled()
    await clock.advance(0.1)
    assert not router.is_unsettled()


async def test_a_router_counts_as_apart_while_redis_lacks_leases(router: Router) -> None:
    hold(router.ledger, "a", is_degraded=True)
    assert router.is_unsettled()
    router.ledger.confirm(["a"], not_there=())
    assert not router.is_unsettled()
    router.ledger.begin_end("a")
    router.ledger.keep("a", A)
    assert router.is_unsettled()
    router.ledger.end("a")
    assert not router.is_unsettled()


async def test_after_a_refusal_used_up_replicas_are_left_to_others(router: Router, clock: FakeClock) -> None:
    router.routers = [ROUTER, OTHER]
    await router.see_loads()
    router.acquire("a", A)
    router.acquire("b", A)
    assert not router.outage.left_to_others(), "nothing was refused"
    router.outage.note_failure(AWAY)
    assert not router.was_refused(), "nobody answered"
    assert not router.outage.left_to_others()
    router.outage.note_failure(refusal())
    assert router.was_refused()
    assert router.outage.left_to_others() == {A}
    await clock.advance(SETTLING_SECONDS - 0.1)
    assert router.outage.left_to_others() == {A}
    await clock.advance(0.1)
    assert not router.outage.left_to_others()
    assert not router.was_refused()


async def test_no_replica_is_left_to_others_where_too_many_would(
    router: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    router.in_flight = {A: CAPACITY, B: CAPACITY}
    await router.see_loads()
    router.outage.note_failure(refusal())
    assert router.outage.left_to_others() == {A, B}
    monkeypatch.setattr(module, "MOST_LEFT_TO_OTHERS", 1)
    assert not router.outage.left_to_others()


async def test_the_share_is_placed_before_the_error_is_raised(router: Router) -> None:
    router.routers = [ROUTER, OTHER]
    await router.see_loads()
    for number in range(CAPACITY):  # half of two replicas
        replica = await router.place(AWAY)
        router.outage.degraded.take(f"{number}", replica.key)
    with pytest.raises(StoreUnavailable) as caught:
        await router.place(AWAY)
    assert caught.value is AWAY
    assert router.is_unsettled()


async def test_avoided_and_excluded_replicas_are_respected(router: Router) -> None:
    await router.see_loads()
    assert router.chosen(avoided=[A]) == B
    assert router.chosen(excluded=[B]) == A
    assert router.chosen(excluded=[A, B]) is None
    assert router.chosen(avoided=[A], excluded=[B]) == A


async def test_loads_never_read_before_are_read_once(router: Router) -> None:
    """Writes fail, reads work: the first session that comes in the outage has the loads read."""
    router.in_flight = {A: CAPACITY}
    for _ in range(3):
        assert (await router.place(AWAY)).key == B
    assert len(router.reads) == 1


async def test_loads_read_shortly_before_an_outage_are_not_read_again(router: Router, clock: FakeClock) -> None:
    await router.see_loads()
    await clock.advance(2 * REFRESH)
    router.in_flight = {A: CAPACITY, B: CAPACITY}
    await router.place(AWAY)
    assert len(router.reads) == 1


async def test_loads_read_before_a_long_outage_are_not_read_again(router: Router, clock: FakeClock) -> None:
    await router.see_loads()
    for _ in range(20):
        router.outage.note_failure(AWAY)
        await clock.advance(SETTLING_SECONDS - 0.5)
    router.in_flight = {A: CAPACITY, B: CAPACITY}
    await router.place(AWAY)
    assert len(router.reads) == 1


async def test_late_loads_are_not_read_while_a_call_is_pending(router: Router) -> None:
    router.outage.note_failure(AWAY)
    router.ledger.unrecorded.add("a")
    with pytest.raises(StoreUnavailable):
        await router.place(AWAY)
    assert router.reads == []


async def test_late_loads_that_cannot_be_read_are_tried_once(router: Router) -> None:
    router.error = AWAY
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await router.place(AWAY)
    assert len(router.reads) == 1


async def test_the_share_shrinks_by_what_redis_counts_by_now(router: Router) -> None:
    """Another router was given a slot of this share, having received no refusal."""
    await router.see_loads()
    assert router.chosen() == A
    router.in_flight = {A: CAPACITY}
    assert (await router.place(refusal())).key == B
    router.in_flight = {A: CAPACITY, B: CAPACITY}
    with pytest.raises(StoreUnavailable):
        await router.place(refusal())


async def test_leases_missing_in_redis_count_on_top_of_its_loads(router: Router) -> None:
    router.show({A: CAPACITY})
    await router.see_loads()
    router.in_flight = {A: CAPACITY - 1}
    assert (await router.place(refusal())).key == A
    hold(router.ledger, "a", A, is_degraded=True)
    assert router.chosen() is None
    router.ledger.kept["b"] = A  # ended here, which Redis does not know
    assert router.chosen() == A


async def test_redis_loads_are_forgotten_once_redis_stops_answering(router: Router) -> None:
    await router.see_loads()
    router.in_flight = {A: CAPACITY, B: CAPACITY}
    with pytest.raises(StoreUnavailable):
        await router.place(refusal())
    reads = len(router.reads)
    assert (await router.place(AWAY)).key == A
    assert len(router.reads) == reads, "there is nobody to read from"


async def test_sessions_refused_together_share_one_reading(router: Router, clock: FakeClock) -> None:
    await router.see_loads()
    router.gate = asyncio.Event()
    tasks: list[asyncio.Task[Any]] = [asyncio.ensure_future(router.place(refusal()))]
    await clock.settle()
    tasks += [asyncio.ensure_future(router.place(refusal())) for _ in range(20)]
    await clock.settle()
    assert len(router.reads) == 2, "one before, and the first one's"
    router.gate.set()
    await asyncio.wait_for(asyncio.gather(*tasks), 10)
    assert len(router.reads) == 3, "who came while the first was read needs a later one"


async def test_a_failed_reading_keeps_the_share(router: Router) -> None:
    await router.see_loads()
    router.in_flight = {A: CAPACITY}
    assert (await router.place(refusal())).key == B
    router.error = AWAY
    assert (await router.place(refusal())).key == A


@pytest.mark.parametrize("mode", ["off", "unlimited"])
async def test_without_shares_no_loads_are_read(clock: FakeClock, mode: Literal["off", "unlimited"]) -> None:
    router = Router(clock, mode)
    router.show({A: 1, B: 1, C: 1})
    places = [router.place(refusal()) for _ in range(9)]
    found = await asyncio.gather(*places, return_exceptions=True)
    assert router.reads == []
    assert {type(one) for one in found} == ({StoreUnavailable} if mode == "off" else {Replica})
    assert not router.outage.left_to_others()


async def test_placing_without_redis_is_logged_at_start_and_end(
    router: Router, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="shared_registry"):
        router.outage.end()
        for _ in range(3):
            router.outage.begin(AWAY)
        for _ in range(3):
            router.outage.end()
        router.outage.begin(AWAY)
        router.outage.end()
    told = [one.getMessage().partition(" (")[0] for one in caplog.records]
    assert told == [
        "placement: placing without Redis",
        "placement: placing through Redis again; sessions placed without it: 3",
        "placement: placing without Redis",
        "placement: placing through Redis again; sessions placed without it: 1",
    ]


async def test_a_migrating_slot_leaves_no_replica_to_others(router: Router) -> None:
    """Nobody places anything without Redis meanwhile, so what it grants afterwards can be used at once."""
    router.show({A: 1, B: 1, C: 1})
    error = SlotMigrating("the hash slot moves")
    error.__cause__ = ResponseError("Attempted to access a non local key in a cluster node script")
    router.outage.note_failure(error)
    assert (router.outage.was_refused, router.outage.is_unsettled) == (False, False)
    router.outage.note_failure(refusal())
    assert (router.outage.was_refused, router.outage.is_unsettled) == (True, True)
