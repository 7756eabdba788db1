"""A process that makes a server distant: it passes bytes on after a pause, in both directions."""

from __future__ import annotations

import asyncio
import contextlib
import json

from benchmarks.processes import parent_input, serve, write_answer

CHUNK_BYTES = 2**16


async def main() -> None:
    """Pass on until the parent is gone."""
    lines = await parent_input()
    settings = json.loads(await lines.readline())

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", settings["port"])
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):  # the parent is gone
            async with asyncio.TaskGroup() as group:
                group.create_task(_pass(reader, server_writer, settings["seconds"]))
                group.create_task(_pass(server_reader, writer, settings["seconds"]))

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        write_answer({"port": server.sockets[0].getsockname()[1]})
        await serve({}, lines)


async def _pass(source: asyncio.StreamReader, sink: asyncio.StreamWriter, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    while chunk := await source.read(CHUNK_BYTES):
        loop.call_later(seconds, sink.write, chunk)
    loop.call_later(2 * seconds, sink.close)


if __name__ == "__main__":
    asyncio.run(main())
