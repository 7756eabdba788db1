"""An edge that keeps connections to the router for all of its clients: none gets what is meant for another."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from shared_registry.embedded import EmbeddedServer
from tests.proxy.conftest import SECONDS, RunningRouter, router_of_its_own
from tests.support.backend import RawBackend
from tests.support.nginx import nginx_before
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter

STOLEN = b"GET /internal/admin HTTP/1.1\r\nHost: a\r\n\r\n"
OFFERS = [
    b"h2c",
    b"websocket",
    b"websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13",
    b"websocket, h2c",
    b"TLS/1.0",
    b"x",
]


async def tell(head: bytes, reader: Reader, writer: Writer) -> None:
    """Answer with the path and the body."""
    body = b""
    if length := re.search(rb"\r\ncontent-length: *(\d+)\r\n", head, re.IGNORECASE):
        body = await reader.readexactly(int(length[1]))
    elif b"chunked" in head:
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)
    text = head.split()[1] + b"|" + body
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def telling(server: EmbeddedServer) -> AsyncIterator[tuple[RawBackend, RunningRouter]]:
    async with RawBackend(tell) as replica, router_of_its_own(server, replica.url) as router:
        yield replica, router


async def exchange(address: tuple[str, int], *pieces: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*address)
    try:
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.02)
        return await asyncio.wait_for(reader.read(), SECONDS)
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("buffers", [True, False])
@pytest.mark.parametrize("offer", OFFERS)
async def test_one_client_behind_nginx_cannot_change_anothers_responses(
    telling: tuple[RawBackend, RunningRouter], tmp_path: Path, offer: bytes, buffers: bool
) -> None:
    replica, router = telling
    replica.heads.clear()
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(STOLEN), STOLEN)
    async with nginx_before(router.address, folder=tmp_path, buffers=buffers) as edge:

        async def steal(at: int) -> None:
            head = b"POST /thief HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, close\r\nUpgrade: " + offer + b"\r\n"
            how, body = (
                (b"Transfer-Encoding: chunked", chunked) if at % 2 else (b"Content-Length: %d" % len(STOLEN), STOLEN)
            )
            whole = head + how + b"\r\n\r\n"
            answer = await exchange(edge, *((whole + body,) if at % 3 else (whole, body[:5], body[5:])))
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert answer.endswith(b"/thief|" + STOLEN)

        async def ask(at: int) -> None:
            await asyncio.sleep(0.01 * at)
            answer = await exchange(edge, b"GET /mine/%d HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % at)
            assert answer.endswith(b"\r\n\r\n/mine/%d|" % at)

        async with asyncio.TaskGroup() as tasks:
            for at in range(6):
                tasks.create_task(steal(at))
                tasks.create_task(ask(at))
    assert [head for head in replica.heads if b"/internal" in head] == []


async def test_a_websocket_session_passes_through_nginx(
    telling: tuple[RawBackend, RunningRouter], tmp_path: Path
) -> None:
    """That offers are not simply dropped on the way: a handshake reaches the replica as one."""
    replica, router = telling
    replica.heads.clear()
    handshake = b"GET /v1/stream HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: " + OFFERS[2] + b"\r\n\r\n"
    async with nginx_before(router.address, folder=tmp_path, buffers=True) as edge:
        _, writer = await asyncio.open_connection(*edge)
        writer.write(handshake)
        await until(lambda: replica.heads, "the replica receives it")
        writer.transport.abort()
    assert b"upgrade: websocket" in replica.heads[0].lower()
