"""A TCP proxy in front of a server, which does to connections what networks do."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Self

from tests.support.accepted import Accepted


class FaultyProxy:
    """Forwards 127.0.0.1:`port` to another port of 127.0.0.1. Change a fault at any time; it holds for what follows.

    Attributes:
        delay_seconds: How long every piece waits, in each direction.
        gate: What comes from now on waits until it is set, in each direction.
        held: How many pieces wait there at present.
        piece_bytes: The most that is passed on at once; small is a trickle.
        loses_commands: What clients send is swallowed; the connection stays. As with TCP, where nothing arrives before
            what was sent earlier, what is sent later on this connection is swallowed too.
        loses_replies: The same for what the server sends.
        cuts_at_reply: The next reply ends its connection instead of arriving: the command was executed.
        adds: What arrives together with the next reply, once, although no server would send it.
        refuses: New connections are closed at once.
        connections: How many were accepted.
        left: How many of them clients have closed.
        server_port: Where connections lead that are made from now on.
    """

    def __init__(self, server_port: int) -> None:
        self.delay_seconds = 0.0
        self.gate: asyncio.Event | None = None
        self.held = 0
        self.piece_bytes = 65536
        self.loses_commands = False
        self.loses_replies = False
        self.cuts_at_reply = False
        self.adds = b""
        self.refuses = False
        self.connections = 0
        self.left = 0
        self.port = 0
        self.server_port = server_port
        self._server: asyncio.Server | None = None
        self._accepted = Accepted(self._accept)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def heal(self) -> None:
        """End every fault."""
        self.__dict__.update(
            delay_seconds=0.0,
            gate=None,
            piece_bytes=65536,
            loses_commands=False,
            loses_replies=False,
            cuts_at_reply=False,
            adds=b"",
            refuses=False,
        )

    def cut(self) -> None:
        """End every connection now."""
        self._accepted.cut()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        assert self._server is not None
        await self._accepted.close(self._server)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if not self.refuses:
            await self._connect(reader, writer)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.server_port)
        except OSError:
            return
        try:
            commands = asyncio.ensure_future(self._pass(reader, server_writer, is_reply=False))
            replies = asyncio.ensure_future(self._pass(server_reader, writer, is_reply=True))
            try:
                done, _ = await asyncio.wait((commands, replies), return_when=asyncio.FIRST_COMPLETED)
                self.left += commands in done
            finally:
                commands.cancel()
                replies.cancel()
                await asyncio.gather(commands, replies, return_exceptions=True)
        finally:
            server_writer.transport.abort()

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, is_reply: bool) -> None:
        """Pass on what comes until an end is closed."""
        is_lost = False
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                if is_reply and self.cuts_at_reply:
                    self.cuts_at_reply = False
                    return
                is_lost |= self.loses_replies if is_reply else self.loses_commands
                if is_lost:
                    continue
                if is_reply and self.adds:
                    data, self.adds = data + self.adds, b""
                while data:
                    if self.gate is not None:
                        await self._wait_at(self.gate)
                    if self.delay_seconds:
                        await asyncio.sleep(self.delay_seconds)
                    piece, data = data[: self.piece_bytes], data[self.piece_bytes :]
                    sink.write(piece)
                    await sink.drain()

    async def _wait_at(self, gate: asyncio.Event) -> None:
        self.held += 1
        try:
            await gate.wait()
        finally:
            self.held -= 1
