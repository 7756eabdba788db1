"""Redis that keeps nothing and crashes again and again, while routers are still putting back what they knew."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable

import pytest
from redis import Redis

from shared_registry import ReplicaEndpoint, RouterConfig, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer
from tests.support.faulty_proxy import FaultyProxy
from tests.support.until import until

NAMESPACE = "twice"
ADDED = [f"http://10.0.1.{number}:8000" for number in range(1, 31)]
DRAINED, REMOVED, SEEDED = ADDED[3], ADDED[4], ADDED[:8]
"""`SEEDED` is what config files name: also what an operator drained and removed."""
SECONDS = 30.0
Own = Callable[..., EmbeddedServer]


async def well(url: str, *, timeout: float) -> tuple[float, str | None]:
    """Find every replica well."""
    return 1.0, None


def registry(url: str, name: str, *, seeds: tuple[str, ...] = ()) -> SharedReplicaRegistry:
    config = RouterConfig(
        replicas=[ReplicaEndpoint(seed) for seed in seeds],
        redis_url=url,
        namespace=NAMESPACE,
        router_id=name,
        refresh_seconds=0.2,
        heartbeat_seconds=0.2,
        router_expiry_seconds=SECONDS,
        redis_timeout_seconds=1.0,
    )
    return SharedReplicaRegistry(config, http_get=well)


def shown(one: SharedReplicaRegistry) -> dict[str, str]:
    return {replica.url: replica.admin.value for replica in one.all()}


@contextlib.asynccontextmanager
async def started(*registries: SharedReplicaRegistry) -> AsyncIterator[dict[str, str]]:
    """Run them with what an operator did; yield what all of them show then."""
    async with contextlib.AsyncExitStack() as stack:
        for one in registries:
            await stack.enter_async_context(one)
        for url in ADDED:
            await registries[0].register(url)
        await registries[0].drain(DRAINED, reason="hot")
        await registries[0].deregister(REMOVED)
        wanted = {url: "draining" if url == DRAINED else "active" for url in ADDED if url != REMOVED}
        await until(lambda: all(shown(one) == wanted for one in registries), seconds=SECONDS)
        yield wanted


def in_redis(raw: Redis) -> set[str]:
    return set(map(str, raw.zrange(f"sr:{{{NAMESPACE}}}:replicas", 0, -1)))


async def lose(server: EmbeddedServer, raw: Redis, how: str) -> None:
    """Lose everything, once."""
    if how == "flush":
        raw.flushall()
    else:
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)


@pytest.mark.parametrize("how", ["flush", "crash"])
@pytest.mark.parametrize("routers", [1, 3])
async def test_losses_at_any_moment_lose_no_change(own_server: Own, how: str, routers: int) -> None:
    server = own_server()
    rng = random.Random(f"{how} {routers}")
    async with contextlib.AsyncExitStack() as stack:
        raw = stack.enter_context(Redis.from_url(server.url, decode_responses=True))
        lines = [await stack.enter_async_context(FaultyProxy(server.port)) for _ in range(routers)]
        registries = [registry(line.url, f"r{number}") for number, line in enumerate(lines)]
        wanted = await stack.enter_async_context(started(*registries))
        for line in lines:
            line.delay_seconds = 0.015
        for _ in range(4):
            for _ in range(rng.randrange(1, 5)):
                await lose(server, raw, how)
                await asyncio.sleep(rng.uniform(0, 0.4))
            await until(lambda: all(shown(one) == wanted for one in registries), seconds=SECONDS)
            await until(lambda: in_redis(raw) == wanted.keys(), seconds=SECONDS)


async def test_a_router_starting_during_losses_contributes_its_config(own_server: Own) -> None:
    server = own_server()
    rng = random.Random(3)
    async with contextlib.AsyncExitStack() as stack:
        raw = stack.enter_context(Redis.from_url(server.url, decode_responses=True))
        for number in range(12):
            line = await stack.enter_async_context(FaultyProxy(server.port))
            line.delay_seconds = 0.005
            one = registry(line.url, f"r{number}", seeds=tuple(SEEDED))
            starting = asyncio.create_task(one.start(timeout_seconds=SECONDS))
            for _ in range(3):
                await asyncio.sleep(rng.uniform(0, 0.08))
                raw.flushall()
            await starting
            try:
                assert shown(one).keys() == set(SEEDED), "on return the view is current"
            finally:
                await one.stop()
            raw.flushall()


async def is_cut_off(line: FaultyProxy) -> None:
    line.refuses = True
    line.cut()


@pytest.mark.parametrize("other", ["seeded from a file", "knew what was before"])
@pytest.mark.parametrize("is_first", [True, False])
async def test_an_operators_change_survives_two_losses(own_server: Own, other: str, is_first: bool) -> None:
    """The only router that knows of the change is away from before the first loss until after the second."""
    server = own_server()
    async with contextlib.AsyncExitStack() as stack:
        raw = stack.enter_context(Redis.from_url(server.url, decode_responses=True))
        knowing_line = await stack.enter_async_context(FaultyProxy(server.port))
        other_line = await stack.enter_async_context(FaultyProxy(server.port))
        knowing = registry(knowing_line.url, "knowing")
        another = registry(other_line.url, "another", seeds=tuple(SEEDED))
        if other == "knew what was before":
            await stack.enter_async_context(another)
            await is_cut_off(other_line)  # it does not hear of what the operator does
        async with started(knowing) as wanted:
            await is_cut_off(knowing_line)
            raw.flushall()
            other_line.refuses = False
            if not another.is_started:
                await stack.enter_async_context(another)
            await until(lambda: in_redis(raw) >= set(SEEDED), seconds=SECONDS)
            if not is_first:
                await is_cut_off(other_line)
            raw.flushall()
            if is_first:
                await until(lambda: in_redis(raw) >= set(SEEDED), seconds=SECONDS)
            knowing_line.refuses = False
            if not is_first:
                await until(lambda: in_redis(raw) == wanted.keys(), seconds=SECONDS)
                other_line.refuses = False
            await until(lambda: shown(knowing) == wanted == shown(another), seconds=SECONDS)
            assert in_redis(raw) == wanted.keys()
