"""Requests that cross the end of a kept connection: those that were certainly not read are sent again."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from shared_registry.http1.connection import ReplicaConnection
from shared_registry.http1.response import ReplicaBroke
from shared_registry.proxy.client import ClientConnection
from shared_registry.proxy.exchange import Exchange
from shared_registry.proxy.limits import Limits
from shared_registry.proxy.site import Site
from tests.proxy.conftest import StartRouter
from tests.support.backend import RawBackend
from tests.support.until import until

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells what a peer has acknowledged"),
]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
HEAD = b"POST /job HTTP/1.1\r\nhost: a\r\n\r\n"


class Kept:
    """A connection that has carried a request, and the replica's end of it."""

    def __init__(self, connection: ReplicaConnection, replica: socket.socket) -> None:
        self.connection = connection
        self.replica = replica

    async def post(self) -> None:
        client = ClientConnection(Site(lambda _: None, Limits(60, 60)))
        request = Exchange(client, "POST", b"/job", "1.1", [], body_length=0, keep_alive=True)
        async with asyncio.timeout(10):
            await self.connection.exchange(request, HEAD, Drop())


class Drop:
    def begin(self, status: int, fields: Any) -> None: ...

    def send(self, data: bytes) -> None: ...

    def flush(self) -> None: ...

    def end(self) -> None: ...


@pytest_asyncio.fixture(loop_scope="module")
async def kept() -> AsyncIterator[Kept]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        connection = await ReplicaConnection.open(
            host, port, None, server_name="", silence_seconds=60, first_byte_seconds=60
        )
        replica, _ = listener.accept()
        with replica:
            found = Kept(connection, replica)
            first = asyncio.create_task(found.post())
            replica.setblocking(False)
            await asyncio.get_running_loop().sock_recv(replica, 4096)
            replica.sendall(OK)
            await first
            yield found
        connection.abort()


async def test_a_request_that_meets_a_closed_end_was_not_read(kept: Kept) -> None:
    kept.replica.close()
    with pytest.raises(ReplicaBroke):
        await kept.post()  # it is written before the event loop reads the end of the connection
    assert kept.connection.is_unread


async def test_nothing_is_sent_on_a_connection_whose_end_is_known(kept: Kept) -> None:
    kept.replica.close()
    await until(lambda: not kept.connection.is_reusable, "the end is known")
    with pytest.raises(ReplicaBroke):
        await kept.post()
    assert kept.connection.is_unread
    assert not kept.connection.has_received


async def test_a_request_that_was_received_may_have_been_read(kept: Kept) -> None:
    posting = asyncio.create_task(kept.post())
    await until(lambda: bool(select.select([kept.replica], [], [], 0)[0]), "it is there")
    kept.replica.close()  # while it is unread, so that a reset follows
    with pytest.raises(ReplicaBroke):
        await posting
    assert not kept.connection.is_unread


async def test_a_replica_that_closes_only_its_side_may_still_read(kept: Kept) -> None:
    kept.replica.shutdown(socket.SHUT_WR)
    with pytest.raises(ReplicaBroke):
        await kept.post()
    assert not kept.connection.is_unread


async def test_an_unread_post_is_sent_again_with_its_body(
    start_router: StartRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check for the end of an idle connection is left out, as if the end came a moment later."""
    bodies: list[bytes] = []

    async def once(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        bodies.append(await reader.readexactly(4))
        writer.write(OK)
        await writer.drain()
        sock = writer.get_extra_info("socket")
        monkeypatch.setattr(ReplicaConnection, "has_unread", property(lambda _: closing(sock)))

    def closing(sock: Any) -> bool:
        with socket.socket() as other:
            os.dup2(other.fileno(), sock.fileno())  # closes the replica's end; the event loop has not noticed yet
        return False

    async with RawBackend(once) as backend:
        router = await start_router(backend.url, replica_idle_seconds=60.0)
        for body in (b"one.", b"two."):
            assert (await router.http.post("/job", content=body)).content == b"ok"
    assert bodies == [b"one.", b"two."]
