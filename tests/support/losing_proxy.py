"""A TCP proxy that loses replies: the server has executed the command, and the client never hears of it."""

from __future__ import annotations

import asyncio
import contextlib
import enum
from types import TracebackType
from typing import Self

from tests.support.accepted import Accepted


class Loss(enum.Enum):
    """How the next reply is lost."""

    CLOSED = "the connection is closed in its place"
    SILENT = "nothing comes, and nothing ever will"


class LosingProxy:
    """Listens on a port of its own and passes everything on, except for the reply that it was told to lose."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._next: Loss | None = None
        self._server: asyncio.Server | None = None
        self._accepted = Accepted(self._connect)
        self.lost = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        assert self._server is not None
        await self._accepted.close(self._server)

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    def lose_next_reply(self, how: Loss) -> None:
        self._next = how

    async def _connect(self, client_reader: asyncio.StreamReader, client_writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target)
        try:
            async with asyncio.TaskGroup() as group:
                replies = group.create_task(self._pass_replies(server_reader, client_writer))
                requests = group.create_task(self._pass_requests(client_reader, server_writer))
                await asyncio.wait([replies, requests], return_when=asyncio.FIRST_COMPLETED)
                replies.cancel()
                requests.cancel()
        finally:
            for writer in (client_writer, server_writer):
                writer.close()  # both, before anything that a cancellation may cut short
            for writer in (client_writer, server_writer):
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

    async def _pass_requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)

    async def _pass_replies(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                how, self._next = self._next, None
                self.lost += how is not None
                if how is Loss.CLOSED:
                    return
                if how is None:
                    writer.write(data)
