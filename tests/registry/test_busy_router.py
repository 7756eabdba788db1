"""A router that has much to do: it stays alive, every call ends, and only a Redis that is away passes for away."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from redis.asyncio import ConnectionPool, Redis

from shared_registry import Lease, RouterConfig, Saturated, SharedReplicaRegistry, StoreUnavailable
from shared_registry.embedded import EmbeddedServer
from shared_registry.store.commands import CALLS_AT_ONCE
from tests.support.faulty_proxy import FaultyProxy
from tests.support.leasing_registry import leases, registry_on, settle
from tests.support.space import A, B, Space, on_server
from tests.support.until import until

OwnServer = Callable[..., EmbeddedServer]
TASKS = 1500
DISTANCE_SECONDS = 0.01
PATIENCE_SECONDS = 45.0
"""For what takes some seconds on a quiet machine."""


@pytest.fixture
async def space(server: EmbeddedServer, namespace: str) -> AsyncIterator[Space]:
    async with on_server(server.url, namespace) as space:
        await make_room(space)
        yield space


async def make_room(space: Space) -> None:
    for url in (A, B):
        await space.add(url, capacity=10_000)
        await space.make("healthy", url)


async def kind_of(call: Awaitable[Lease]) -> str:
    """Return in one word how `acquire` ended."""
    try:
        lease = await call
    except Exception as error:  # noqa: BLE001  it is counted
        return type(error).__name__
    return "degraded" if lease.is_degraded else "placed"


async def use(registry: SharedReplicaRegistry) -> Lease:
    lease = await registry.acquire()
    await lease.release()
    return lease


async def answers(url: str, *, timeout: float) -> tuple[float, str | None]:
    """Probe a replica that is well."""
    return 1.0, None


async def all_kinds(calls: list[Awaitable[Lease]]) -> Counter[str]:
    async with asyncio.timeout(PATIENCE_SECONDS):
        return Counter(await asyncio.gather(*(kind_of(call) for call in calls)))


async def test_overload_is_no_outage(space: Space, proxy: FaultyProxy) -> None:
    """The router sends its heartbeats meanwhile on a connection that its sessions do not use."""
    async with registry_on(
        proxy.url, space.keys.namespace, router_expiry_seconds=61.0, redis_timeout_seconds=1.0
    ) as registry:
        proxy.delay_seconds = DISTANCE_SECONDS
        heartbeats = 0

        async def heartbeat() -> None:
            nonlocal heartbeats
            while True:
                await registry._parts.membership.heartbeat()
                heartbeats += 1

        beating = asyncio.create_task(heartbeat())
        assert await all_kinds([use(registry) for _ in range(TASKS)]) == {"placed": TASKS}
        assert not beating.done()
        beating.cancel()
        assert heartbeats >= 10  # behind the sessions it would be two or three
        await settle(space, registry)
        assert leases(space) == {}


async def test_a_busy_router_has_four_connections_at_most(space: Space, server: EmbeddedServer) -> None:
    def connections() -> int:
        names = [one["name"] for one in space.raw.client_list()]
        return sum(name == "shared-registry:busy" for name in names)

    config = RouterConfig(
        redis_url=server.url,
        namespace=space.keys.namespace,
        router_id="busy",
        heartbeat_seconds=0.2,
        refresh_seconds=0.2,
    )
    async with SharedReplicaRegistry(config, http_get=answers) as registry:
        calls = asyncio.gather(*(use(registry) for _ in range(1500)))
        most = 0
        while not calls.done():
            most = max(most, connections())
            await asyncio.sleep(0.02)
        assert 2 <= most <= 4
        await calls
        await settle(space, registry)


async def test_a_callers_small_connection_pool_is_no_outage(space: Space, server: EmbeddedServer) -> None:
    """redis-py refuses a connection beyond a pool's limit, so that calls must wait before."""
    pool = ConnectionPool.from_url(server.url, decode_responses=True, max_connections=10)
    config = RouterConfig(namespace=space.keys.namespace)
    async with (
        Redis.from_pool(pool) as client,
        SharedReplicaRegistry(config, redis=client, health_checks=False) as registry,
    ):
        assert await all_kinds([use(registry) for _ in range(500)]) == {"placed": 500}


async def test_the_timeout_includes_the_wait_for_a_turn(space: Space, proxy: FaultyProxy) -> None:
    async with registry_on(proxy.url, space.keys.namespace) as registry:
        proxy.delay_seconds = 0.5
        others = [asyncio.create_task(kind_of(registry.acquire())) for _ in range(20 * CALLS_AT_ONCE)]
        await asyncio.sleep(0)
        begun = time.monotonic()
        with pytest.raises(Saturated, match="too busy"):
            await registry.acquire(timeout=0.5)
        assert 0.4 < time.monotonic() - begun < 5.0, "not in its turn, which comes after 10 s"
        assert registry._parts.placement.ledger.mark().moving <= CALLS_AT_ONCE, "nothing was asked"
        proxy.heal()
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert set(await asyncio.gather(*others)) == {"placed"}
        await settle(space, registry)


async def test_a_blocked_event_loop_is_no_outage(space: Space, proxy: FaultyProxy) -> None:
    async with registry_on(proxy.url, space.keys.namespace, redis_timeout_seconds=0.8) as registry:
        for is_connecting in (False, True):
            if is_connecting:
                await registry._clients.commands.connection_pool.disconnect()
            calls = [asyncio.create_task(kind_of(registry.acquire())) for _ in range(4 * CALLS_AT_ONCE)]
            for _ in range(3):
                await asyncio.sleep(0.01)
                time.sleep(1.0)  # noqa: ASYNC251  what blocks the loop
            async with asyncio.timeout(PATIENCE_SECONDS):
                assert set(await asyncio.gather(*calls)) == {"placed"}
        await settle(space, registry)


async def test_a_burst_of_cancellations_leaks_no_lease(space: Space, proxy: FaultyProxy) -> None:
    rng = random.Random(1)
    async with registry_on(proxy.url, space.keys.namespace) as registry:
        proxy.delay_seconds = DISTANCE_SECONDS
        calls = [asyncio.create_task(registry.acquire()) for _ in range(TASKS)]
        for task in rng.sample(calls, TASKS // 2):
            task.cancel()
            if rng.random() < 0.1:
                await asyncio.sleep(0.005)
        async with asyncio.timeout(PATIENCE_SECONDS):
            results = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(result) for result in results} == {Lease, asyncio.CancelledError}
        assert all(not result.is_degraded for result in results if isinstance(result, Lease))
        await settle(space, registry)
        releases = [asyncio.create_task(lease.release()) for lease in results if isinstance(lease, Lease)]
        await asyncio.sleep(0)  # each has begun
        for release in rng.sample(releases, len(releases) // 2):
            release.cancel()
        await asyncio.wait(releases, timeout=PATIENCE_SECONDS)
        await settle(space, registry, seconds=PATIENCE_SECONDS)
        assert leases(space) == {}


@pytest.mark.parametrize("how", ["killed", "silent"])
async def test_all_callers_fail_when_redis_dies_in_a_burst(own_server: OwnServer, how: str) -> None:
    server = own_server()
    async with (
        on_server(server.url, "own") as space,
        FaultyProxy(server.port) as proxy,
        registry_on(proxy.url, "own", redis_timeout_seconds=0.5, degraded_placement="off") as registry,
    ):
        await make_room(space)
        await until(lambda: registry.select() is not None)
        proxy.delay_seconds = DISTANCE_SECONDS
        calls = [asyncio.create_task(kind_of(registry.acquire())) for _ in range(TASKS)]
        await until(lambda: sum(call.done() for call in calls) > 2 * CALLS_AT_ONCE)
        if how == "killed":
            server.kill()
            proxy.cut()
        else:
            os.kill(server.pid, signal.SIGSTOP)
        begun = time.monotonic()
        async with asyncio.timeout(PATIENCE_SECONDS):
            kinds = Counter(await asyncio.gather(*calls))
        took = time.monotonic() - begun
        assert set(kinds) == {"placed", StoreUnavailable.__name__}
        assert took < 15.0  # and not once for each 32 that wait
        assert registry._parts.placement.ledger.mark().moving <= 3 * CALLS_AT_ONCE, "only what was sent is in doubt"
        if how == "silent":
            os.kill(server.pid, signal.SIGCONT)
            await until(lambda: registry._parts.placement.ledger.mark().moving == 0, seconds=PATIENCE_SECONDS)
            await settle(space, registry)
            assert len(leases(space)) == kinds["placed"]


async def test_thousands_of_calls_of_a_reaped_router_share_one_rejoin(space: Space, proxy: FaultyProxy) -> None:
    async with registry_on(proxy.url, space.keys.namespace) as registry:
        kept = [await registry.acquire() for _ in range(20)]
        proxy.delay_seconds = DISTANCE_SECONDS
        heartbeats = count_heartbeats(registry)
        space.expire_router(registry.router_key)
        await space.store.reap(registry.router_key)
        begun = time.monotonic()
        assert await all_kinds([registry.acquire() for _ in range(10 * CALLS_AT_ONCE)]) == {
            "placed": 10 * CALLS_AT_ONCE
        }
        assert time.monotonic() - begun < 10.0
        assert len(heartbeats) <= 3
        assert {lease.id for lease in kept} <= leases(space).keys()
        await settle(space, registry)


def count_heartbeats(registry: SharedReplicaRegistry) -> list[None]:
    heartbeats: list[None] = []
    holder = registry._parts.placement.holder
    begin_heartbeat = holder.begin_heartbeat

    def counted() -> Callable[..., None]:
        heartbeats.append(None)
        return begin_heartbeat()

    holder.begin_heartbeat = counted  # type: ignore[method-assign]
    return heartbeats


async def test_slots_without_a_session_become_free_soon_however_many(space: Space, proxy: FaultyProxy) -> None:
    """They do not wait behind the sessions of now, nor one behind the other."""
    async with registry_on(proxy.url, space.keys.namespace) as registry:
        async with asyncio.timeout(PATIENCE_SECONDS):
            held = await asyncio.gather(*(registry.acquire() for _ in range(1000)))
        proxy.refuses = True
        proxy.cut()
        await asyncio.gather(*(lease.release() for lease in held))
        assert len(leases(space)) == 1000
        proxy.heal()
        proxy.delay_seconds = DISTANCE_SECONDS
        gone = {lease.id for lease in held}
        is_over = False

        async def be_busy() -> None:
            while not is_over:
                await use(registry)

        busy = [asyncio.create_task(be_busy()) for _ in range(TASKS)]
        calls = 0  # what could have been released meanwhile, one after the other
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while gone & leases(space).keys():
                    with contextlib.suppress(StoreUnavailable):
                        await registry._reader.head()
                    calls += 1
                is_over = True
                await asyncio.gather(*busy)
        finally:
            for task in busy:
                task.cancel()
            await asyncio.wait(busy)
        assert calls < len(held) / 2
        await settle(space, registry)
