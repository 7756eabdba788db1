"""Sessions that wait while things fail: they end with a lease or with their timeout, and leave nothing behind."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from shared_registry import Lease, Saturated, SharedReplicaRegistry, StoreUnavailable
from shared_registry.embedded import EmbeddedServer
from shared_registry.store.channel import scripts
from tests.support.faulty_proxy import FaultyProxy
from tests.support.leasing_registry import cancel_at, held, leases, registry_on, settle
from tests.support.space import A, Space, on_server
from tests.support.until import until

LONG = 30.0
CHANGES: dict[str, Any] = {"redis_timeout_seconds": 10.0, "degraded_placement": "off", "affinity_seconds": 60.0}


@pytest.fixture
async def space(server: EmbeddedServer, namespace: str) -> AsyncIterator[Space]:
    """A namespace with one healthy replica that takes one session."""
    async with on_server(server.url, namespace) as space:
        await serve_one(space)
        yield space


async def serve_one(space: Space) -> None:
    await space.add(A, capacity=1)
    await space.make("healthy", A)


@pytest.fixture
async def registry(space: Space, proxy: FaultyProxy) -> AsyncIterator[SharedReplicaRegistry]:
    """One for which nothing happens by itself, but that it looks after its waiters."""
    async with registry_on(proxy.url, space.keys.namespace, **CHANGES) as registry:
        yield registry


def depth(space: Space) -> int:
    return int(space.raw.zcard(space.keys.queue))


def waiters(space: Space) -> set[str]:
    return set(space.raw.zrange(space.keys.queue, 0, -1))


async def wait_in_line(space: Space, registry: SharedReplicaRegistry, **how: Any) -> asyncio.Task[Lease]:
    """Return what waits, once it does; others may leave meanwhile."""
    before = waiters(space)
    task = asyncio.create_task(registry.acquire(**({"timeout": LONG} | how)))
    await until(lambda: waiters(space) - before or task.done())  # whose time may be over before anybody looks
    return task


async def settle_empty(space: Space, *registries: SharedReplicaRegistry) -> None:
    """Wait until nobody waits, and Redis and the routers agree."""
    await until(lambda: depth(space) == 0)
    await settle(space, *registries)


# --- cancelled ---


async def test_a_wait_cancelled_at_any_point_leaves_nothing(registry: SharedReplicaRegistry, space: Space) -> None:
    for point in itertools.count(1):
        blocker = await registry.acquire("blocker")
        taken: list[Lease] = []

        async def acquire(taken: list[Lease] = taken) -> None:
            taken.append(await registry.acquire("session", timeout=LONG))

        async def make_room(blocker: Lease = blocker) -> None:
            await until(lambda: depth(space) == 1)
            await blocker.release()

        room = asyncio.create_task(make_room())
        was_cancelled = await cancel_at(acquire, point)
        room.cancel()
        await asyncio.wait([room])
        await blocker.release()
        for lease in taken:
            await lease.release()
        await settle_empty(space, registry)
        assert held(registry) == {}
        if not was_cancelled:
            break
    assert taken
    assert point > 2, "asking, and waiting"


@pytest.mark.parametrize("session", [None, "ann"])
async def test_waiters_that_leave_at_once_free_the_queue_for_others(
    registry: SharedReplicaRegistry, space: Space, session: str | None
) -> None:
    blocker = await registry.acquire()
    waiting = [await wait_in_line(space, registry, session=session) for _ in range(40)]
    for task in waiting[:-1]:
        task.cancel()
    await until(lambda: depth(space) == 1)
    await blocker.release()
    await (await waiting[-1]).release()
    await settle_empty(space, registry)


async def test_a_slot_granted_to_a_leaving_session_goes_on(registry: SharedReplicaRegistry, space: Space) -> None:
    """It goes to the next waiter, at all sorts of moments around the timeout, or the cancellation, of the first."""
    for number in range(24):
        blocker = await registry.acquire()
        rng = random.Random(number)
        first = await wait_in_line(space, registry, timeout=0.08)
        second = await wait_in_line(space, registry)
        await asyncio.sleep(0.06 + rng.random() * 0.03)
        if number % 2:
            first.cancel()
        await blocker.release()
        [got] = await asyncio.gather(first, return_exceptions=True)
        assert isinstance(got, Lease | Saturated | asyncio.CancelledError)
        if isinstance(got, Lease):
            await got.release()
        await (await asyncio.wait_for(second, LONG)).release()
        await settle_empty(space, registry)


# --- what is lost ---


async def test_a_lost_reply_to_joining_the_queue_leaves_nothing(
    registry: SharedReplicaRegistry, space: Space, proxy: FaultyProxy
) -> None:
    blocker = await registry.acquire()
    proxy.cuts_at_reply = True
    waiting = await wait_in_line(space, registry)
    await blocker.release()
    await (await waiting).release()
    await settle_empty(space, registry)


async def test_a_lost_wake_up_delays_a_waiter_only_briefly(registry: SharedReplicaRegistry, space: Space) -> None:
    blocker = await registry.acquire()
    waiting = await wait_in_line(space, registry)
    pipeline = space.raw.pipeline()  # so that no reader comes in between
    pipeline.multi()
    pipeline.eval(scripts()["release_lease"].text, 1, space.keys.meta, registry.router_key, blocker.id, "0")
    pipeline.delete(space.keys.inbox(registry.router_key))
    pipeline.execute()
    lease = await asyncio.wait_for(waiting, LONG / 2)
    await lease.release()
    await blocker.release()
    await settle_empty(space, registry)


async def test_a_waiter_survives_a_cut_connection_and_an_outage(
    registry: SharedReplicaRegistry, space: Space, proxy: FaultyProxy
) -> None:
    blocker = await registry.acquire()
    waiting = await wait_in_line(space, registry)
    proxy.cut()
    proxy.refuses = True
    await asyncio.sleep(1.5)
    assert not waiting.done()
    proxy.heal()
    await blocker.release()
    await (await asyncio.wait_for(waiting, LONG)).release()
    await settle_empty(space, registry)


@pytest.mark.parametrize("mode", ["off", "share"])
async def test_sessions_that_come_during_an_outage_wait_too(space: Space, proxy: FaultyProxy, mode: str) -> None:
    """The only slot is in use, so no router has a share that it could use without Redis."""
    changes = CHANGES | {"degraded_placement": mode, "refresh_seconds": 0.2}
    async with registry_on(proxy.url, space.keys.namespace, **changes) as registry:
        blocker = await registry.acquire()
        await asyncio.sleep(1)  # until the loads are read, by which no slot is free
        proxy.cut()
        proxy.refuses = True
        waiting = [asyncio.create_task(registry.acquire(timeout=LONG)) for _ in range(3)]
        with pytest.raises(StoreUnavailable):
            await registry.acquire()
        await asyncio.sleep(1.5)
        assert not any(task.done() for task in waiting)
        proxy.heal()
        await until(lambda: depth(space) == 3)
        lease = blocker
        for _ in waiting:
            await lease.release()
            done, pending = await asyncio.wait(waiting, timeout=LONG, return_when=asyncio.FIRST_COMPLETED)
            [task], waiting = done, list(pending)
            lease = task.result()
            assert not lease.is_degraded
        await lease.release()
        await settle_empty(space, registry)


async def test_a_newcomer_learns_that_the_outage_outlasted_its_patience(
    registry: SharedReplicaRegistry, space: Space, proxy: FaultyProxy
) -> None:
    proxy.cut()
    proxy.refuses = True
    started = time.monotonic()
    with pytest.raises(StoreUnavailable, match="Redis is unavailable"):
        await registry.acquire(timeout=1.5)
    assert time.monotonic() - started >= 1.5
    proxy.heal()
    await settle_empty(space, registry)


async def test_a_wait_that_times_out_during_an_outage_reports_it(
    registry: SharedReplicaRegistry, space: Space, proxy: FaultyProxy
) -> None:
    blocker = await registry.acquire()
    waiting = await wait_in_line(space, registry, timeout=3.0)
    proxy.cut()
    proxy.refuses = True
    with pytest.raises(StoreUnavailable):
        await waiting
    proxy.heal()
    await settle_empty(space, registry)
    await blocker.release()
    await settle(space, registry)


async def test_a_session_placed_without_redis_stops_waiting(space: Space, proxy: FaultyProxy) -> None:
    changes = CHANGES | {"degraded_placement": "unlimited", "refresh_seconds": 0.2}
    async with registry_on(proxy.url, space.keys.namespace, **changes) as registry:
        blocker = await registry.acquire()
        waiting = await wait_in_line(space, registry)
        proxy.cut()
        proxy.refuses = True
        lease = await asyncio.wait_for(waiting, LONG)
        assert lease.is_degraded
        proxy.heal()
        await settle_empty(space, registry)
        assert leases(space) == {blocker.id: A, lease.id: A}


async def test_a_queue_lost_in_a_failover_is_rebuilt_in_order(registry: SharedReplicaRegistry, space: Space) -> None:
    blocker = await registry.acquire()
    waiting = [await wait_in_line(space, registry) for _ in range(5)]
    order = space.raw.zrange(space.keys.queue, 0, -1)
    space.raw.delete(space.keys.queue, space.keys.inbox(registry.router_key))
    await until(lambda: space.raw.zrange(space.keys.queue, 0, -1) == order)
    lease = blocker
    for task in waiting:
        await lease.release()
        lease = await asyncio.wait_for(task, LONG)
    await lease.release()
    await settle_empty(space, registry)


async def test_the_queue_survives_the_loss_of_all_data(
    own_server: Callable[..., EmbeddedServer], tmp_path: Path
) -> None:
    """Flushed, and restarted empty; two routers put back what they know, leases before waiters."""
    server = own_server()
    changes = CHANGES | {"refresh_seconds": 0.2, "heartbeat_seconds": 0.2, "router_expiry_seconds": 2.0}
    async with (
        on_server(server.url, "lost") as space,
        registry_on(server.url, "lost", **changes) as one,
        registry_on(server.url, "lost", **changes) as two,
    ):
        await serve_one(space)
        await until(lambda: one.select() is not None)
        blocker = await one.acquire()
        waiting = [await wait_in_line(space, each) for each in (two, one, two, one)]
        order = space.raw.zrange(space.keys.queue, 0, -1)
        for is_flushed in (True, False):
            if is_flushed:
                space.raw.flushall()
            else:
                server.kill()
                server.start()
            await until(lambda: back(space) == (order, {blocker.id: A}))
        lease = blocker
        for task in waiting:
            await lease.release()
            lease = await asyncio.wait_for(task, LONG)
        await lease.release()
        await settle_empty(space, one, two)


def back(space: Space) -> tuple[list[str], dict[str, str]]:
    try:
        return space.raw.zrange(space.keys.queue, 0, -1), leases(space)
    except OSError:
        return [], {}
