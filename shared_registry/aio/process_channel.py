"""Messages between a process and a child process that it has started, over a pair of connected sockets.

A side that ends, however it ends, is the end of the messages at the other side.
"""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import socket
from typing import Any, Self

_LENGTH_BYTES = 4


class ProcessChannel:
    """One side of the messages. Both sides trust each other: messages are pickled."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, sock: socket.socket) -> Self:
        """Return the channel over one of two connected sockets, which it owns from now on."""
        return cls(*await asyncio.open_connection(sock=sock))

    def send(self, message: object) -> None:
        """Send a message. Without effect if the other side has ended; never waits."""
        body = pickle.dumps(message)
        with contextlib.suppress(OSError):
            self._writer.write(len(body).to_bytes(_LENGTH_BYTES) + body)

    async def flush(self) -> None:
        """Wait until the messages are on their way, or the other side has ended."""
        with contextlib.suppress(OSError):
            await self._writer.drain()

    async def receive(self) -> Any:
        """Return the next message; `None` if the other side has ended."""
        try:
            length = int.from_bytes(await self._reader.readexactly(_LENGTH_BYTES))
            return pickle.loads(await self._reader.readexactly(length))  # noqa: S301  from our own process
        except (OSError, asyncio.IncompleteReadError):
            return None

    def close(self) -> None:
        """Close this side."""
        self._writer.close()
