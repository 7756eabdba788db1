"""A TCP server that does what a test's script says, however wrong, and sees when its peers are gone."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import cast

from tests.support.accepted import stop_listening

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"

LONG = 30.0
"""A probe's timeout that no test is meant to reach."""

SHORT = 0.3
"""A probe's timeout that a test waits for."""


class Peer:
    """One connection, from the server's side."""

    def __init__(self, server: ScriptedServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number = server.accepted
        self._server = server
        self._reader = reader
        self._writer = writer

    @property
    def tls(self) -> ssl.SSLObject:
        """The connection's TLS."""
        return cast("ssl.SSLObject", self._writer.get_extra_info("ssl_object"))

    @property
    def socket_number(self) -> int:
        """The descriptor of the connection's socket."""
        return cast("int", self._writer.get_extra_info("socket").fileno())

    async def request(self) -> bytes:
        """Wait for the next request; the script ends where the peer goes instead."""
        request = await self._reader.readuntil(b"\r\n\r\n")
        self._server.requests.append(request)
        return request

    async def body(self, length: int) -> bytes:
        """Wait for the body of the request."""
        return await self._reader.readexactly(length)

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def drip(self, data: bytes, *, again: bytes = b"") -> None:
        """Send byte by byte, then `again` for ever."""
        for byte in data:
            await self.send(bytes([byte]))
            await asyncio.sleep(0.002)
        while again:
            await self.send(again)
            await asyncio.sleep(0.002)

    async def gone(self) -> None:
        """Wait until the peer closes."""
        while await self._reader.read(65536):
            pass

    def reset(self) -> None:
        """Close by RST instead of FIN."""
        linger = struct.pack("ii", 1, 0)
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._writer.transport.abort()


Script = Callable[[Peer], Awaitable[None]]


class ScriptedServer:
    """What happened to a server so far."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = ""
        self.accepted = 0
        self.open = 0
        self.requests: list[bytes] = []

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self.open += 1
        task = asyncio.ensure_future(self._run(reader, writer))
        self._tasks.add(task)

    async def _run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._script(Peer(self, reader, writer))
        finally:
            self.open -= 1
            writer.transport.abort() if writer.get_extra_info("sslcontext") else writer.close()

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def scripted(
    script: Script, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> AsyncIterator[ScriptedServer]:
    """Run a script for every connection. At its end the connection is closed."""
    scripted_server = ScriptedServer(script)
    server = await asyncio.start_server(scripted_server.handle, host, 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    scripted_server.url = f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
    try:
        yield scripted_server
    finally:
        await stop_listening(server)
        await scripted_server.end()
        await server.wait_closed()


async def several_turns() -> None:
    """Let the event loop deliver what is under way."""
    for _ in range(20):
        await asyncio.sleep(0.001)


async def answer_all(peer: Peer) -> None:
    """A script: answer everything."""
    while True:
        await peer.request()
        await peer.send(OK)


async def stay_silent(peer: Peer) -> None:
    """A script: accept and never say a word."""
    await peer.gone()


def answer_once(may_answer: asyncio.Event) -> Script:
    """Return a script: answer one request when that may be, and leave it to the peer to close."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await may_answer.wait()
        await peer.send(OK)
        await peer.gone()

    return script
