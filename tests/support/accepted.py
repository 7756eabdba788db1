"""The connections that a test's server has accepted: each has a task, and all of them end with the server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def stop_listening(server: asyncio.Server) -> None:
    """Close a server's sockets, but let connections be made first that were accepted.

    asyncio makes a connection some turns of the event loop after it was accepted. If the server is closed meanwhile,
    that fails, and nothing closes the connection.
    """
    for listening in server.sockets:
        asyncio.get_running_loop().remove_reader(listening.fileno())
    for _ in range(4):
        await asyncio.sleep(0)
    server.close()


class Accepted:
    """For `asyncio.start_server`. A connection is closed when its handler ends, also where that never began to run."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._run(reader, writer))
        self._open[task] = writer
        task.add_done_callback(self._close_connection)

    def cut(self) -> None:
        """End every connection now."""
        for task in self._open:
            task.cancel()

    async def close(self, server: asyncio.Server) -> None:
        """Accept no more, and end all connections, also those that are being accepted."""
        await stop_listening(server)
        self.cut()
        await asyncio.gather(*self._open, return_exceptions=True)
        await server.wait_closed()

    async def _run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._handle(reader, writer)

    def _close_connection(self, task: asyncio.Task[None]) -> None:
        writer = self._open.pop(task)  # kept until then: a writer that is collected before warns
        writer.transport.abort()
