"""A router keeps its connections to Redis, whatever its clients do: none is cut short with the call on it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from redis import Redis
from websockets.asyncio.client import connect

from shared_registry import ReplicaEndpoint, RouterConfig
from shared_registry.embedded import EmbeddedServer
from tests.proxy.conftest import FAST, SECONDS, RunningRouter, all_healthy, running_router
from tests.support.backend import Backend
from tests.support.faulty_proxy import FaultyProxy
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

AT_ONCE = 12
"""Clients that come at the same time: that many calls to Redis, and connections to it, before anything is counted."""
REQUESTS = 100
GET = b"GET /answer?status=200&body=ok HTTP/1.1\r\nHost: a\r\n\r\n"
WAIT = b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n"


class Watched:
    """A router, what it is in front of, and the way it takes to Redis."""

    def __init__(self, router: RunningRouter, backend: Backend, redis: FaultyProxy) -> None:
        self.router = router
        self.backend = backend
        self.redis = redis

    async def get(self, count: int) -> None:
        """Send requests on one connection, one after the other."""
        reader, writer = await asyncio.open_connection(*self.router.address)
        for _ in range(count):
            writer.write(GET)
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\nok"), SECONDS)
        writer.close()

    async def leave(self, request: bytes, after_seconds: float, *, is_reset: bool = True) -> None:
        """Send a request, and go before it is answered."""
        _, writer = await asyncio.open_connection(*self.router.address)
        writer.write(request)
        await asyncio.sleep(after_seconds)
        if is_reset:
            writer.transport.abort()
        else:
            writer.close()

    async def settle(self) -> None:
        async def is_idle() -> bool:
            status = await self.router.status()
            return status["sessions"] == 0 and all(one["in_flight"] == 0 for one in status["replicas"])

        await until(is_idle, "all sessions are over, and their slots free")

    @contextlib.asynccontextmanager
    async def keeps_its_connections(self) -> AsyncIterator[None]:
        await self.settle()
        before = self.redis.left
        yield
        await self.settle()
        assert self.redis.left - before == 0


@contextlib.asynccontextmanager
async def watched(server: EmbeddedServer, namespace: str, **settings: Any) -> AsyncIterator[Watched]:
    async with FaultyProxy(server.port) as redis, Backend() as backend:
        config = RouterConfig(
            redis_url=redis.url,
            namespace=namespace,
            replicas=[ReplicaEndpoint(backend.url, capacity=settings.pop("capacity", 0))],
            **{**FAST, "redis_timeout_seconds": 10.0, **settings},  # a busy machine costs connections, too
        )
        async with running_router(config) as router:
            await until(lambda: all_healthy(router, 1), "the replica is healthy")
            found = Watched(router, backend, redis)
            redis.delay_seconds = 0.02  # so that as many connections are made as calls can be under way
            await asyncio.gather(*(found.get(4) for _ in range(AT_ONCE)))
            redis.delay_seconds = 0.0
            yield found


@pytest_asyncio.fixture(loop_scope="module")
async def router(server: EmbeddedServer, namespace: str) -> AsyncIterator[Watched]:
    async with watched(server, namespace) as found:
        yield found


async def test_requests_in_sequence_open_no_redis_connection(router: Watched, server: EmbeddedServer) -> None:
    with Redis.from_url(server.url, decode_responses=True) as raw:
        raw.ping()
        before = raw.info("stats")["total_connections_received"]
        async with router.keeps_its_connections():
            await router.get(REQUESTS)
        # Other tests share the server, but not at the same time: what is new is the router's.
        assert raw.info("stats")["total_connections_received"] == before


@pytest.mark.parametrize("delay_seconds", [0.0, 0.005])
async def test_concurrent_requests_open_no_redis_connection(router: Watched, delay_seconds: float) -> None:
    router.redis.delay_seconds = delay_seconds
    async with router.keeps_its_connections():
        await asyncio.gather(*(router.get(20) for _ in range(AT_ONCE - 2)))


async def test_websocket_sessions_open_no_redis_connection(router: Watched) -> None:
    async def converse(at: int) -> None:
        async with connect(f"{router.router.ws}/v1/stream", proxy=None, compression=None) as session:
            await session.send("hello")
            assert await session.recv() == "hello"
            if at % 2:
                session.transport.abort()

    async with router.keeps_its_connections():
        for _ in range(5):
            await asyncio.gather(*(converse(at) for at in range(AT_ONCE - 2)))


@pytest.mark.parametrize("is_reset", [True, False])
async def test_a_client_leaving_at_any_moment_interrupts_no_call(router: Watched, is_reset: bool) -> None:
    """With Redis 20 ms away most of these leave while their slot is asked for or given back."""
    router.redis.delay_seconds = 0.01
    async with router.keeps_its_connections():
        for at in range(8):
            requests = (GET, WAIT, GET, WAIT)
            await asyncio.gather(*(router.leave(one, 0.004 * at, is_reset=is_reset) for one in requests))


@pytest.mark.parametrize("seconds", [0.005, 0.03])
async def test_clients_that_leave_the_queue_interrupt_no_call(
    server: EmbeddedServer, namespace: str, seconds: float
) -> None:
    async with watched(server, namespace, capacity=AT_ONCE, queue_timeout_seconds=20.0) as router:
        router.redis.delay_seconds = 0.01
        await wait_and_leave(router, seconds=0.2)  # following the line takes connections of its own
        async with router.keeps_its_connections():
            for _ in range(2):
                await wait_and_leave(router, seconds=seconds)


async def wait_and_leave(router: Watched, *, seconds: float) -> None:
    """Have all slots taken, and clients wait for one that long, who then leave."""
    pairs = [await asyncio.open_connection(*router.router.address) for _ in range(AT_ONCE)]
    for _, writer in pairs:
        writer.write(WAIT)

    async def are_taken() -> bool:
        return bool((await router.router.status())["replicas"][0]["in_flight"] == AT_ONCE)

    await until(are_taken, "all slots are taken")
    await asyncio.gather(*(router.leave(GET, seconds) for _ in range(4)))

    async def nobody_waits() -> bool:
        return bool((await router.router.status())["queue"] == {"depth": 0, "here": 0})

    await until(nobody_waits, "the line is empty")
    for _, writer in pairs:
        writer.transport.abort()
    await router.settle()


async def test_waiters_that_are_served_open_no_redis_connection(server: EmbeddedServer, namespace: str) -> None:
    async with watched(server, namespace, capacity=2, queue_timeout_seconds=20.0) as router:
        await asyncio.gather(*(router.get(5) for _ in range(8)))
        async with router.keeps_its_connections():
            await asyncio.gather(*(router.get(5) for _ in range(8)))


async def test_requests_that_fail_open_no_redis_connection(router: Watched) -> None:
    die = b"GET /answer?status=no HTTP/1.1\r\nHost: a\r\n\r\n"
    router.redis.delay_seconds = 0.005
    async with router.keeps_its_connections():
        for at in range(6):
            await asyncio.gather(*(router.leave(die, 0.005 * at) for _ in range(4)))
