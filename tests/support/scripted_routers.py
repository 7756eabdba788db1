"""What an edge may meet instead of a router: an address that refuses, and a router that breaks off each request."""

from __future__ import annotations

import asyncio
import socket
from types import TracebackType
from typing import Self

from tests.support.accepted import Accepted


class Refusing:
    """An address at which nobody listens, and which nobody else gets."""

    async def __aenter__(self) -> Self:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))  # without listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    @property
    def address(self) -> tuple[str, int]:
        host, port = self._socket.getsockname()
        return host, port


class Swallowing:
    """Is ready, and closes the connection once it has read a request, without a response.

    Attributes:
        requests: The first lines of what was read.
        probes: How often it was asked whether it is ready.
    """

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.probes = 0
        self._accepted = Accepted(self._read)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.address: tuple[str, int] = (host, port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._accepted.close(self._server)

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        if head.startswith(b"GET /readyz "):
            self.probes += 1
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        self.requests.append(head.partition(b"\r\n")[0])
