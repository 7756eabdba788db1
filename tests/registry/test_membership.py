"""A router beats, reaps those that stopped, and keeps trying without flooding log or store."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import cast

import pytest

from shared_registry.config import RouterConfig
from shared_registry.errors import KeyConflict, StoreError, StoreRefused, StoreUnavailable
from shared_registry.leases.settling import Settler
from shared_registry.model import Event, EventKind, ReplicaEndpoint, ReplicaRecord, RouterInfo, Source
from shared_registry.probing.prober_list import ProberList
from shared_registry.registry.membership import HeartbeatHooks, Membership
from shared_registry.store.commands import Store
from shared_registry.store.replies import Departure, Heartbeat
from tests.support.fake_clock import START, FakeClock

INFO = RouterInfo("router~1", "host", 1, "0.1", 1_700_000_000.0)
MEASURED = replace(INFO, machine="m", probing="leader", view_age_seconds=0.5)
HEARTBEAT, EXPIRY, AFFINITY = 1.0, 5.0, 60.0
SETTINGS = RouterConfig(
    heartbeat_seconds=HEARTBEAT, router_expiry_seconds=EXPIRY, affinity_seconds=AFFINITY, panic_percent=30.0
)


class ScriptedStore:
    """Lists routers, and fails as the test says."""

    def __init__(self, clock: FakeClock) -> None:
        self.heartbeats: list[float] = []
        self.reaped: list[str] = []
        self.expired: list[str] = []
        self.back: set[str] = set()
        self.damaged: set[str] = set()
        self.pieces: dict[str, int] = {}
        self.seconds_a_piece = 0.0
        self.checked: list[Heartbeat] = []
        self.draining: list[str] = []
        self.drained: list[list[str]] = []
        self.failed: list[StoreError] = []
        self.is_listed = False
        self.error: StoreError | None = None
        self.reap_error: StoreError | None = None
        self.latency = 0.0
        self.unserved = 0
        self.known_history = self.word = ""
        self.replies: list[Heartbeat | None] = []
        self._clock = clock

    async def heartbeat(
        self,
        info: RouterInfo,
        *,
        expiry_seconds: float,
        panic_percent: float,
        probers_version: str,
        drains: list[str],
        **loss: object,
    ) -> Heartbeat:
        assert loss == {"known_history": "", "settled": "", "peers": ()}
        self.drained.append(drains)
        assert (info, expiry_seconds, probers_version) == (MEASURED, EXPIRY, "")
        self.heartbeats.append(self._clock.monotonic() - START)
        await self._clock.sleep(self.latency)
        if self.error:
            raise self.error
        joined, self.is_listed = not self.is_listed, True
        self.unserved -= 1
        return Heartbeat(
            "history_id",
            "1-1",
            joined,
            list(self.expired),
            is_partial=self.unserved >= 0,
        )

    async def reap(
        self, router: str, *, affinity_seconds: float, moves: bool = False, on_ended: Callable[[int], object]
    ) -> Departure:
        assert affinity_seconds == AFFINITY
        if self.seconds_a_piece:
            await self._clock.sleep(self.seconds_a_piece)
        if self.reap_error:
            raise self.reap_error
        if router in self.damaged:
            raise KeyConflict("key inbox is a string, not a stream")
        if router in self.back:
            return Departure.REFUSED
        if self._has_more(router):
            return Departure.PARTIAL
        self.expired.remove(router)
        self.reaped.append(router)
        return Departure.DONE

    def begin_heartbeat(self) -> Callable[[Heartbeat | StoreError], None]:
        return self.check

    @property
    def holder(self) -> ScriptedStore:
        return self

    def drains(self) -> list[str]:
        return self.draining

    def check(self, heartbeat: Heartbeat | StoreError) -> None:
        (self.failed if isinstance(heartbeat, StoreError) else self.checked).append(heartbeat)  # type: ignore[arg-type]

    async def leave(self, *, affinity_seconds: float, moves: bool = False) -> Departure:
        assert affinity_seconds == AFFINITY
        if self._has_more(INFO.key):
            return Departure.PARTIAL
        self.is_listed = False
        return Departure.DONE

    def _has_more(self, router: str) -> bool:
        self.pieces[router] = self.pieces.get(router, 0) - 1
        return self.pieces[router] > 0


@pytest.fixture
def store(clock: FakeClock) -> ScriptedStore:
    return ScriptedStore(clock)


def member(store: ScriptedStore, clock: FakeClock) -> Membership:
    return Membership(
        cast("Store", store),
        INFO,
        SETTINGS,
        settler=cast("Settler", store),
        probers=ProberList(router=INFO.key, machine="m"),
        hooks=HeartbeatHooks(lambda info: replace(info, view_age_seconds=0.5), store.replies.append),
        clock=clock,
        rng=random.Random(1),
    )


@pytest.fixture
async def running(store: ScriptedStore, clock: FakeClock) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.ensure_future(member(store, clock).run())
    yield task
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_replies_and_failures_of_heartbeats_reach_the_hook(store: ScriptedStore, clock: FakeClock) -> None:
    one = member(store, clock)
    first = await one.heartbeat()
    store.error = StoreUnavailable("away")
    with pytest.raises(StoreUnavailable):
        await one.heartbeat()
    assert store.replies == [first, None]


async def test_one_heartbeat_joins_and_returns_the_stores_answer(store: ScriptedStore, clock: FakeClock) -> None:
    assert await member(store, clock).heartbeat() == Heartbeat("history_id", "1-1", joined=True, expired=[])


async def test_a_failed_heartbeat_raises_its_error(store: ScriptedStore, clock: FakeClock) -> None:
    store.error = StoreUnavailable("away")
    with pytest.raises(StoreUnavailable):
        await member(store, clock).heartbeat()


async def test_heartbeats_are_sent_at_their_interval(
    running: asyncio.Task[None], store: ScriptedStore, clock: FakeClock
) -> None:
    await clock.advance(10)
    assert store.heartbeats == pytest.approx(list(range(11)))


async def test_sessions_left_beside_room_are_served_at_once(
    running: asyncio.Task[None], store: ScriptedStore, clock: FakeClock
) -> None:
    await clock.advance(HEARTBEAT / 2)
    store.unserved, store.latency = 20, 0.01
    await clock.advance(0.8 * HEARTBEAT)
    assert len(store.heartbeats) == 1 + 20 + 1
    await clock.advance(HEARTBEAT)
    assert len(store.heartbeats) == 1 + 20 + 2


@pytest.mark.parametrize("is_one_of_several", [False, True])
async def test_the_first_announced_replica_hastens_the_heartbeat(
    store: ScriptedStore, clock: FakeClock, is_one_of_several: bool
) -> None:
    router = member(store, clock)
    task = asyncio.ensure_future(router.run())
    await clock.advance(0.1)
    assert len(store.heartbeats) == 1
    endpoint = ReplicaEndpoint("http://127.0.0.1:8000")
    for source in (Source.SEED, Source.ANNOUNCED):
        record = ReplicaRecord(endpoint.url, endpoint, source=source)
        event = Event("1-1", EventKind.REPLICA_HEALTHY, 0.0, "0-0", "router", 1)
        several = replace(event, changed=(record,))
        router.notice([several if is_one_of_several else replace(event, record=record)])
        await clock.advance(0.1)
        assert len(store.heartbeats) == 1 + (source == Source.ANNOUNCED)
    task.cancel()
    await asyncio.wait([task])


async def test_expired_routers_are_reaped_unless_they_are_back(
    running: asyncio.Task[None], store: ScriptedStore, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    store.expired = ["b~1", "c~1", "d~1"]
    store.back = {"c~1"}
    await clock.advance(HEARTBEAT)
    assert store.reaped == ["b~1", "d~1"]
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == ["router: b~1 has expired and was reaped", "router: d~1 has expired and was reaped"]


async def test_a_damaged_router_delays_no_other_and_is_logged_once(
    running: asyncio.Task[None], store: ScriptedStore, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    store.expired = ["b~1", "c~1", "d~1"]
    store.damaged = {"b~1"}
    await clock.advance(10 * HEARTBEAT)
    assert store.reaped == ["c~1", "d~1"]
    assert store.heartbeats == pytest.approx(list(range(11)))
    assert sum("cannot be reaped" in message for message in caplog.messages) == 1


async def test_while_the_store_fails_heartbeats_retry_faster(
    running: asyncio.Task[None], store: ScriptedStore, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged once."""
    caplog.set_level(logging.INFO)
    await clock.advance(3.5)
    caplog.clear()
    store.error = StoreUnavailable("away")
    heartbeats = len(store.heartbeats)
    await clock.advance(60)
    assert 60 <= len(store.heartbeats) - heartbeats <= 130
    assert caplog.messages == ["router: cannot send a heartbeat: away"]
    store.error = None
    await clock.advance(5)
    assert caplog.messages[1:] == ["router: router~1 is among the live routers"]
    late = store.heartbeats[-3:]
    assert [late[1] - late[0], late[2] - late[1]] == pytest.approx([HEARTBEAT, HEARTBEAT])


async def test_a_second_outage_is_logged_and_retried_soon(
    running: asyncio.Task[None], store: ScriptedStore, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        store.error = StoreRefused("no")
        await clock.advance(20)
        store.error = None
        await clock.advance(2.5)
    assert caplog.messages == ["router: cannot send a heartbeat: no"] * 2
    store.error = StoreUnavailable("away")
    heartbeats = len(store.heartbeats)
    await clock.advance(1.5)
    first, second = store.heartbeats[heartbeats : heartbeats + 2]
    assert second - first <= 0.1


async def test_a_router_with_many_leases_is_reaped_in_pieces(
    running: asyncio.Task[None], store: ScriptedStore, clock: FakeClock
) -> None:
    store.expired, store.pieces = ["b~1"], {"b~1": 100}
    await clock.advance(HEARTBEAT)
    assert (store.reaped, store.pieces["b~1"]) == (["b~1"], 0)


async def test_reaping_does_not_delay_heartbeats(
    running: asyncio.Task[None], store: ScriptedStore, clock: FakeClock
) -> None:
    store.expired, store.pieces = ["b~1"], {"b~1": 50}
    store.seconds_a_piece = 0.1
    await clock.advance(10)
    assert store.reaped == ["b~1"]
    assert max(late - early for early, late in itertools.pairwise(store.heartbeats)) < EXPIRY / 2


async def test_leaving_continues_until_no_lease_is_left(store: ScriptedStore, clock: FakeClock) -> None:
    store.pieces = {INFO.key: 3}
    store.is_listed = True
    await member(store, clock).leave()
    assert not store.is_listed


async def test_every_heartbeats_answer_is_checked(
    running: asyncio.Task[None], store: ScriptedStore, clock: FakeClock
) -> None:
    await clock.advance(3)
    assert len(store.checked) == len(store.heartbeats)


async def test_a_failed_reaping_is_repeated_without_stopping_heartbeats(
    running: asyncio.Task[None], store: ScriptedStore, clock: FakeClock
) -> None:
    store.expired = ["b~1"]
    store.reap_error = StoreUnavailable("away")
    await clock.advance(5)
    assert len(store.heartbeats) >= 5
    assert store.reaped == []
    store.reap_error = None
    await clock.advance(1)
    assert store.reaped == ["b~1"]


async def test_a_reaped_router_that_rejoins_logs_it(
    running: asyncio.Task[None], store: ScriptedStore, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await clock.advance(3)
    assert caplog.messages == []
    store.is_listed = False
    await clock.advance(3)
    assert caplog.messages == ["router: router~1 is among the live routers"]


async def test_a_cancel_during_a_heartbeat_is_passed_on(store: ScriptedStore, clock: FakeClock) -> None:
    store.latency = 10.0
    task = asyncio.ensure_future(member(store, clock).run())
    await clock.advance(1)
    task.cancel()
    await clock.settle()
    assert task.cancelled()
    assert clock.next_wake is None
