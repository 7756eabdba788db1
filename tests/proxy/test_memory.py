"""A slow side slows the other down, and the router's memory does not grow. Measured on the process, from outside."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect

from tests.proxy.conftest import SECONDS, RouterProcess, StartProcess
from tests.support.backend import CHUNK, MEGABYTE, Backend

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

MUCH = 100 * MEGABYTE
BIG_FRAME = 16 * 1024 * 1024
PAUSE_SECONDS = 0.4
"""Long enough for a router that buffers to take in all of it: on loopback that is a tenth of a second."""
ALLOWED = 12 * MEGABYTE
FEW, MANY = 20, 220
ALLOWED_IDLE = 10_000
"""A session under way costs about 6 kB; with all that only its beginning needs, it would be 17 kB."""


@pytest_asyncio.fixture(loop_scope="module")
async def backend() -> AsyncIterator[Backend]:
    async with Backend() as backend:
        yield backend


async def test_a_hundred_megabytes_pass_each_way_in_bounded_memory(
    start_process: StartProcess, backend: Backend
) -> None:
    router = await start_process(backend.url)
    async with httpx.AsyncClient(base_url=router.url, trust_env=False, timeout=SECONDS) as http:
        assert (await http.get("/answer?status=200")).status_code == 200
        await _session(router, "echo", 10)
        before = router.memory()
        for exchange in (_download, _upload):
            await exchange(http)
            assert router.memory() - before < ALLOWED, exchange
    await _pour(router)
    assert router.memory() - before < ALLOWED, "WebSocket, downwards"
    await _stall(router, backend)
    assert router.memory() - before < ALLOWED, "WebSocket, upwards"


async def test_only_a_few_large_frames_are_held(start_process: StartProcess, backend: Backend) -> None:
    router = await start_process(backend.url)
    before = router.memory()
    async with connect(f"{router.ws}/?do=pour&messages=20&bytes={BIG_FRAME}", proxy=None, max_size=None) as client:
        await asyncio.sleep(PAUSE_SECONDS)
        for _ in range(20):
            assert len(await client.recv()) == BIG_FRAME
    assert router.memory() - before < 9 * BIG_FRAME


async def test_an_idle_session_keeps_nothing_of_its_beginning(start_process: StartProcess, backend: Backend) -> None:
    router = await start_process(backend.url)
    async with contextlib.AsyncExitStack() as stack:

        async def hold(count: int) -> int:
            for _ in range(count):
                await stack.enter_async_context(connect(f"{router.ws}/?do=echo", proxy=None))
            return router.memory()

        before = await hold(FEW)
        assert (await hold(MANY) - before) / MANY < ALLOWED_IDLE


async def _download(http: httpx.AsyncClient) -> None:
    async with http.stream("GET", f"/download?bytes={MUCH}") as response:
        await asyncio.sleep(PAUSE_SECONDS)
        assert sum([len(chunk) async for chunk in response.aiter_raw()]) == MUCH


async def _upload(http: httpx.AsyncClient) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield bytes(MEGABYTE)

    assert (await http.post("/upload", content=chunks())).json() == {"bytes": MUCH}


async def _session(router: RouterProcess, do: str, messages: int) -> None:
    async with connect(f"{router.ws}/?do={do}", proxy=None) as client:
        for _ in range(messages):
            await client.send(CHUNK)
            await client.recv()


async def _pour(router: RouterProcess) -> None:
    count = MUCH // len(CHUNK)
    async with connect(f"{router.ws}/?do=pour&messages={count}", proxy=None, max_queue=1) as client:
        await asyncio.sleep(PAUSE_SECONDS)
        for _ in range(count):
            assert len(await client.recv()) == len(CHUNK)


async def _stall(router: RouterProcess, backend: Backend) -> None:
    count = MUCH // len(CHUNK)

    async def send_all() -> None:
        for _ in range(count):
            await client.send(CHUNK)

    async with connect(f"{router.ws}/?do=stall", proxy=None) as client, asyncio.TaskGroup() as tasks:
        sending = tasks.create_task(send_all())
        await asyncio.sleep(PAUSE_SECONDS)
        assert not sending.done()
        backend.go_on.set()
        for _ in range(count):
            assert await client.recv() == str(len(CHUNK))
