"""Pings of the router's own: both sides get them between two frames, and none by default."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from websockets.frames import Opcode

from tests.proxy.conftest import StartRouter
from tests.proxy.test_tunnel import Sessions, encoded

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def sessions(start_router: StartRouter) -> AsyncIterator[Sessions]:
    sessions = Sessions()
    async with sessions.replica as replica:
        sessions.router = await start_router(replica.url, websocket_ping_seconds=0.1)
        yield sessions


async def test_both_sides_are_pinged_while_they_are_silent(sessions: Sessions) -> None:
    async with sessions.session() as (client, replica):
        for _ in range(2):
            assert await client.frame() == (Opcode.PING, b"")
            assert await replica.frame() == (Opcode.PING, b"")
        client.send(Opcode.TEXT, b"still here")
        while (frame := await replica.frame()) == (Opcode.PING, b""):
            pass
        assert frame == (Opcode.TEXT, b"still here")


async def test_no_ping_is_put_into_a_frame(sessions: Sessions) -> None:
    data = bytes(range(256)) * 20
    message = encoded(Opcode.BINARY, data, is_masked=True)
    async with sessions.session() as (client, replica):
        for piece in (message[:3], message[3:1000], message[1000:]):
            client.writer.write(piece)
            await asyncio.sleep(0.25)
        while (frame := await replica.frame()) == (Opcode.PING, b""):
            pass
        assert frame == (Opcode.BINARY, data)
        client.close(1000)
        while (frame := await replica.frame()) == (Opcode.PING, b""):
            pass
        assert frame[0] is Opcode.CLOSE
        replica.close(1000)
        await sessions.is_over()
