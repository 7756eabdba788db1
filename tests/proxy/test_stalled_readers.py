"""Clients that ask for much and read nothing cost a router little memory. Measured on the process, from outside."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from tests.proxy.conftest import SECONDS, StartProcess
from tests.support.backend import MEGABYTE, Backend

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

MUCH, LITTLE = 300 * MEGABYTE, 60_000
STALLED_SECONDS = 1.0
"""Long enough for a router that buffers to take in all of it: on loopback that is a third of a second."""
ALLOWED = 35 * MEGABYTE


@pytest_asyncio.fixture(loop_scope="module")
async def backend() -> AsyncIterator[Backend]:
    async with Backend() as backend:
        yield backend


def download(count: int) -> bytes:
    return b"GET /download?bytes=%d HTTP/1.1\r\nHost: a\r\n\r\n" % count


@pytest.mark.parametrize(
    "requests",
    [download(MUCH), download(LITTLE) * 200 + download(MUCH)],
    ids=["a large response", "a large one behind small ones"],
)
async def test_a_client_that_reads_nothing_costs_little(
    start_process: StartProcess, backend: Backend, requests: bytes
) -> None:
    router = await start_process(backend.url)
    async with httpx.AsyncClient(base_url=router.url, trust_env=False, timeout=SECONDS) as http:
        assert (await http.get("/status")).status_code == 200
        before = router.memory()
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, ("127.0.0.1", httpx.URL(router.url).port))
            sending = asyncio.create_task(loop.sock_sendall(client, requests))
            await asyncio.wait([sending], timeout=STALLED_SECONDS)
            await asyncio.sleep(STALLED_SECONDS)
            assert (await http.get("/healthz")).status_code == 200
            assert router.memory() - before < ALLOWED
            sending.cancel()
            await asyncio.wait([sending])
    assert "Traceback" not in router.command.err
