"""A router's first moments: sessions are held until it has something to go by."""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import time
from collections.abc import AsyncIterator, Callable

import httpx
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from shared_registry.aio.garbage import YOUNG_OBJECTS
from shared_registry.embedded import EmbeddedServer
from shared_registry.proxy import opening
from tests.proxy.conftest import SECONDS, StartProcess, StartRouter
from tests.support.backend import Backend
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def backend() -> AsyncIterator[Backend]:
    async with Backend() as backend:
        yield backend


@pytest.fixture
def _long_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions are held for as long as Redis and the first probes take on a busy machine."""
    monkeypatch.setattr(opening, "HOLD_SECONDS", SECONDS)


long_hold = pytest.mark.usefixtures("_long_hold")


@pytest.fixture
def redis(own_server: Callable[..., EmbeddedServer]) -> EmbeddedServer:
    """A server that is not there yet."""
    server = own_server()
    server.stop()
    return server


@long_hold
async def test_first_clients_of_a_new_registry_are_served(start_router: StartRouter, backend: Backend) -> None:
    router = await start_router(backend.url, is_awaited=False)
    requests = [asyncio.create_task(router.http.get(f"/{number}")) for number in range(20)]
    async with connect(f"{router.ws}/v1/stream", proxy=None, open_timeout=SECONDS) as client:
        await client.send("served")
        assert await client.recv() == "served"
    assert {response.status_code for response in await asyncio.gather(*requests)} == {200}


@long_hold
async def test_own_pages_answer_while_sessions_are_held(
    redis: EmbeddedServer, start_router: StartRouter, backend: Backend
) -> None:
    router = await start_router(backend.url, is_awaited=False, redis_url=redis.url)
    held = asyncio.create_task(router.http.get("/held"))
    assert (await router.http.get("/healthz")).status_code == 200
    assert (await router.http.get("/readyz")).status_code == 503

    async def is_held() -> bool:
        return bool((await router.status())["sessions"] == 1)

    await until(is_held, "the session is held")
    assert not held.done()
    await asyncio.to_thread(redis.start)
    assert (await held).status_code == 200
    assert (await router.http.get("/readyz")).status_code == 200


async def test_no_client_is_held_longer_than_the_bound(
    redis: EmbeddedServer,
    start_router: StartRouter,
    backend: Backend,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(opening, "HOLD_SECONDS", 0.5)
    begun = time.monotonic()
    router = await start_router(backend.url, is_awaited=False, redis_url=redis.url)
    refused = await router.http.get("/held")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert time.monotonic() - begun >= 0.5
    took = []
    for _ in range(5):
        begun = time.monotonic()
        assert (await router.http.get("/too-late-to-be-held")).status_code == 503
        took.append(time.monotonic() - begun)
    assert min(took) < 0.5


async def test_a_client_that_may_wait_also_waits_for_redis(
    redis: EmbeddedServer,
    start_router: StartRouter,
    backend: Backend,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(opening, "HOLD_SECONDS", 0.1)
    router = await start_router(backend.url, is_awaited=False, redis_url=redis.url, queue_timeout_seconds=SECONDS)
    held = asyncio.create_task(router.http.get("/held"))
    await asyncio.sleep(0.5)
    assert not held.done()
    await asyncio.to_thread(redis.start)
    assert (await held).status_code == 200


@long_hold
async def test_judged_replicas_that_are_down_hold_no_client(start_router: StartRouter) -> None:
    router = await start_router("http://127.0.0.1:1", is_awaited=False, failure_threshold=1)
    begun = time.monotonic()
    assert (await router.http.get("/refused")).status_code == 503
    assert time.monotonic() - begun < opening.HOLD_SECONDS


@long_hold
async def test_a_client_that_leaves_while_held_reaches_no_replica(
    redis: EmbeddedServer, start_router: StartRouter, backend: Backend
) -> None:
    router = await start_router(backend.url, is_awaited=False, redis_url=redis.url)
    for fields in (
        "",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n",
    ):
        _, writer = await asyncio.open_connection(*router.address)
        writer.write(f"GET /left HTTP/1.1\r\nHost: a\r\n{fields}\r\n".encode())

        async def holds(count: int) -> bool:
            return bool((await router.status())["sessions"] == count)

        await until(lambda: holds(1), "it is held")
        writer.transport.abort()
        await until(lambda: holds(0), "it is let go")
    await asyncio.to_thread(redis.start)
    assert (await router.http.get("/stayed")).status_code == 200
    assert [scope["path"] for scope in backend.scopes] == ["/stayed"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_stopping_turns_held_clients_away(
    start_process: StartProcess, redis: EmbeddedServer, backend: Backend, number: signal.Signals
) -> None:
    router = await start_process(backend.url, redis_url=redis.url, wanted="waiting for", grace_seconds=30)
    async with httpx.AsyncClient(base_url=router.url, trust_env=False, timeout=SECONDS) as http:
        held = asyncio.create_task(http.get("/held"))
        session = asyncio.create_task(connect(f"{router.ws}/held", proxy=None).__aenter__())

        async def are_held() -> bool:
            return bool((await http.get("/status")).json()["sessions"] == 2)

        await until(are_held, "both are held")
        begun = time.monotonic()
        router.command.process.send_signal(number)
        assert (await held).status_code == 503
        client = await session
        assert json.loads(await client.recv())["code"] == "gpu_unavailable"
        with pytest.raises(ConnectionClosed) as caught:
            await client.recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1012
    assert await asyncio.to_thread(router.command.process.wait, SECONDS) == 0
    assert time.monotonic() - begun < SECONDS
    assert "Traceback" not in router.command.err


async def test_a_router_that_serves_collects_garbage_rarely(start_router: StartRouter, backend: Backend) -> None:
    await start_router(backend.url, is_awaited=False)
    assert gc.get_threshold()[0] == YOUNG_OBJECTS
