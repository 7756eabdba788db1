"""The mirror over the real reader, store and scripts, on fakeredis: what routers write, the others see."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import pytest

from shared_registry.aio.clock import SystemClock
from shared_registry.happenings import Emitter
from shared_registry.leases.ledger import new_lease_id
from shared_registry.mirror.mirror import Mirror
from shared_registry.mirror.rest import Rest
from shared_registry.model import AdminState, ReplicaEndpoint, ReplicaStatus, Source, Term
from shared_registry.selection.view import View
from shared_registry.store.answers import new_token
from shared_registry.store.replies import Grant
from shared_registry.urls import canonical_url
from tests.support.space import THRESHOLDS, A, B, Space, info, on_fake
from tests.support.until import until

REFRESH = 0.02


class Router:
    """One router's mirror and its writes, without the other tasks."""

    def __init__(self, space: Space, name: str) -> None:
        self.space = space
        self.lost: list[str | None] = []
        self.view = View()
        self.mirror = Mirror(
            space.reader,
            self.view,
            rest=Rest(refresh_seconds=REFRESH, clock=SystemClock()),
            max_staleness_seconds=None,
            clock=SystemClock(),
            rng=random.Random(1),
            on_lost_history=self._lose_history,
            emitter=Emitter(),
        )
        self.store = space.store_of(f"{name}~1", begin_write=self.mirror.begin_write)

    async def register(self, url: str, **spec: object) -> None:
        endpoint = ReplicaEndpoint(url, **spec)  # type: ignore[arg-type]
        key = canonical_url(url)
        await self.store.register(key, endpoint, mode=Source.EXPLICIT, request=new_token())

    async def heal(self, url: str) -> None:
        await self.store.record_outcome(self.space.success(url), THRESHOLDS)

    def shown(self) -> list[str]:
        return [replica.key for replica in self.view.all()]

    @contextlib.asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        await self.mirror.load()
        task = asyncio.ensure_future(self.mirror.run())
        try:
            yield
        finally:
            while not task.done():  # fakeredis waits by asyncio.wait_for, which in Python 3.11 may lose a cancel
                task.cancel()
                await asyncio.wait([task], timeout=0.1)
            assert task.cancelled(), task.exception()

    async def _lose_history(self) -> None:
        self.lost.append(self.mirror.history_id)


def age(router: Router) -> float:
    return router.mirror.age_seconds or 0.0


@pytest.fixture
async def space() -> AsyncIterator[Space]:
    async with on_fake() as space:
        await space.store.heartbeat(info(), expiry_seconds=60)  # with which a history begins
        yield space


@pytest.fixture
async def routers(space: Space) -> AsyncIterator[tuple[Router, Router]]:
    a, b = Router(space, "a"), Router(space, "b")
    async with a.following(), b.following():
        yield a, b


async def test_a_router_shows_own_writes_at_once_others_soon(space: Space, routers: tuple[Router, Router]) -> None:
    a, b = routers
    await a.register(A, primary=True)
    assert a.shown() == [A]
    await a.heal(A)
    assert a.view.first is a.view.get(A)
    await until(lambda: b.view.first is not None)
    await b.store.set_admin(A, AdminState.DRAINING, by="me", reason="maintenance")
    assert b.view.first is None
    await until(lambda: a.view.first is None)
    await b.store.deregister(A, space.incarnation(A), by="me", reason="gone")
    assert b.shown() == []
    await until(lambda: a.shown() == [])
    await until(lambda: a.mirror.revision == b.mirror.revision == space.raw.hget(space.keys.meta, "revision"))
    assert (a.mirror.generation, b.mirror.generation) == (1, 1)


async def test_loading_finds_what_was_there_before(space: Space) -> None:
    for url in (A, B):
        await space.add(url)
    await space.make("healthy", B)
    epoch = await space.elect()
    router = Router(space, "late")
    async with router.following():
        assert router.shown() == [A, B]
        assert router.view.first is router.view.get(B)
        assert router.mirror.epoch == epoch
        assert router.mirror.leader is not None
        assert router.mirror.history_id == space.raw.hget(space.keys.meta, "history_id")


async def test_a_trimmed_event_stream_is_a_gap(space: Space, routers: tuple[Router, Router]) -> None:
    a, _ = routers
    await a.register(A)
    pipeline = space.raw.pipeline(transaction=True)  # at once, so that no mirror reads in between
    pipeline.hset(space.keys.meta, "revision", "9999999999999-0")
    pipeline.hset(space.keys.replica(A), mapping={"status": "unhealthy", "revision": "9999999999999-0"})
    pipeline.execute()
    await until(lambda: a.mirror.revision == "9999999999999-0")
    replica = a.view.get(A)
    assert replica is not None
    assert replica.health.status is ReplicaStatus.UNHEALTHY


async def test_a_flushed_server_keeps_the_view_until_another_history(
    space: Space, routers: tuple[Router, Router]
) -> None:
    a, b = routers
    await a.register(A)
    await until(lambda: b.shown() == [A])
    history_id = b.mirror.history_id
    space.raw.flushall()
    await until(lambda: age(a) > 5 * REFRESH and age(b) > 5 * REFRESH)
    assert (a.shown(), b.shown()) == ([A], [A])
    assert b.lost == []
    await space.add(B)
    await until(lambda: b.shown() == [B])
    assert b.lost == [history_id]


async def test_a_key_of_another_type_keeps_the_view(
    space: Space, routers: tuple[Router, Router], caplog: pytest.LogCaptureFixture
) -> None:
    """The router reports it once."""
    a, b = routers
    await a.register(A)
    await until(lambda: b.shown() == [A])
    space.raw.rename(space.keys.meta, "elsewhere")
    space.raw.set(space.keys.meta, "not ours")
    await until(lambda: len(caplog.messages) >= 2)
    await until(lambda: age(a) > 10 * REFRESH and age(b) > 10 * REFRESH)
    assert (a.shown(), b.shown()) == ([A], [A])
    assert len(caplog.messages) == 2, "one line for each router"
    assert all("WRONGTYPE" in message for message in caplog.messages)
    space.raw.delete(space.keys.meta)
    space.raw.rename("elsewhere", space.keys.meta)
    await space.add(B)
    await until(lambda: a.shown() == b.shown() == [A, B])


async def test_a_malformed_replica_is_left_out_and_named_once(
    space: Space, routers: tuple[Router, Router], caplog: pytest.LogCaptureFixture
) -> None:
    a, _ = routers
    await a.register(A)
    await a.register(B)
    space.raw.hset(space.keys.replica(A), "weight", "heavy")
    for _ in range(2):
        await a.mirror.refresh(at_once=True)
        await a.mirror.load()
    assert a.shown() == [B]
    assert sum("weight holds 'heavy'" in text for text in caplog.messages) == 1
    space.raw.hset(space.keys.replica(A), "weight", "1.0")
    await a.mirror.load()
    assert a.shown() == [A, B]


async def test_an_event_with_a_damaged_replica_leaves_it_out(space: Space, routers: tuple[Router, Router]) -> None:
    """The event stream goes on, and a mirror that reads everything does so too."""
    a, b = routers
    await a.register(A)
    space.raw.hdel(space.keys.replica(A), "weight")
    await space.store.set_admin(A, AdminState.DRAINING)
    await a.register(B)
    await until(lambda: a.shown() == b.shown() == [B])
    space.raw.hset(space.keys.replica(A), "weight", "1.0")
    await space.store.set_admin(A, AdminState.ACTIVE)
    await until(lambda: a.shown() == b.shown() == [A, B])


async def test_an_entry_that_is_no_event_is_passed_over(space: Space, routers: tuple[Router, Router]) -> None:
    a, b = routers
    await a.register(A)
    space.raw.xadd(space.keys.events, {"a": "b"})
    await a.register(B)
    await until(lambda: a.shown() == b.shown() == [A, B])
    await a.mirror.load()
    assert a.shown() == [A, B]


async def test_a_refresh_brings_counters_and_load(space: Space, routers: tuple[Router, Router]) -> None:
    a, _ = routers
    await a.register(A)
    space.raw.hset(space.keys.replica(A), mapping={"in_flight": "3", "last_latency_ms": "12.5"})
    await a.mirror.refresh(at_once=True)
    replica = a.view.get(A)
    assert replica is not None
    assert (replica.in_flight, replica.health.last_latency_ms) == (3, 12.5)


async def test_many_writers_and_mirrors_agree_in_the_end(space: Space, routers: tuple[Router, Router]) -> None:
    a, b = routers
    rng = random.Random(1)
    urls = [f"http://10.0.1.{number}:8000" for number in range(8)]

    async def write(router: Router) -> None:
        for _ in range(40):
            url = rng.choice(urls)
            record = router.mirror.record(url)
            if record is None:
                await router.register(url, order=rng.randrange(9))
            elif rng.random() < 0.2:
                await router.store.deregister(url, record.incarnation, reason=new_token())
            elif rng.random() < 0.5:
                await router.store.set_admin(url, rng.choice(list(AdminState)[:3]), reason=new_token())
            else:
                await router.register(url, order=rng.randrange(9))
            await asyncio.sleep(0)

    await asyncio.gather(write(a), write(b), write(a), write(b))
    late = Router(space, "late")
    await late.mirror.load()
    await until(lambda: a.mirror.revision == b.mirror.revision == late.mirror.revision)
    shown = [[replica.record for replica in router.view.all()] for router in (a, b, late)]
    assert shown[0] == shown[1] == shown[2]


async def test_every_command_shows_its_own_events_before_it_returns(space: Space) -> None:
    """Nothing follows the events here: what is shown comes from the replies."""
    router = Router(space, "a")
    await space.add(B)  # or there would be no history to read
    await router.mirror.load()
    await router.register(A, primary=True, capacity=1)
    assert router.shown() == [B, A]
    await router.heal(A)
    assert router.mirror.probed()[1].health.status is ReplicaStatus.HEALTHY
    term = Term(await space.elect(), "token")
    await router.store.report(term, 1, [space.failure(A)] * 3, THRESHOLDS)
    assert router.mirror.probed()[1].health.status is ReplicaStatus.UNHEALTHY
    await router.store.report(term, 2, [space.success(A)] * 2, THRESHOLDS)
    await router.store.heartbeat(info("a~1"), expiry_seconds=60.0)
    assert isinstance(await router.store.acquire(new_lease_id(None)), Grant)
    await router.store.set_admin(A, AdminState.DISABLED)
    assert router.mirror.probed()[1].admin is AdminState.DISABLED
    await router.store.deregister(B, space.incarnation(B))
    assert router.shown() == [A]


async def test_the_release_that_removes_a_drained_replica_is_shown(space: Space) -> None:
    router = Router(space, "a")
    await space.add(A, capacity=1)
    await space.make("healthy", A)
    await router.mirror.load()
    await router.store.heartbeat(info("a~1"), expiry_seconds=60.0)
    lease_id = new_lease_id(None)
    assert isinstance(await router.store.acquire(lease_id), Grant)
    await router.store.deregister(A, space.incarnation(A), when_drained=True)
    assert router.shown() == [A]
    await router.store.release(lease_id)
    assert router.shown() == []


async def test_a_reply_from_before_a_full_read_is_not_shown(space: Space) -> None:
    """The command is answered while all is read again, perhaps from a history that lacks it."""
    router = Router(space, "a")
    await space.add(A)
    await router.mirror.load()
    take = router.mirror.begin_write()
    events = await space.store.set_admin(A, AdminState.DRAINING)
    await space.store.set_admin(A, AdminState.ACTIVE)
    await router.mirror.load()
    with router.mirror.subscribed(lambda _: pytest.fail("a reply of before was taken")):
        take(events or ())
