"""A replica as cheap as one can be in Python: a stream of tokens, and a WebSocket echo.

A request for /v1/events gets tokens for as long as the client stays, at the rate that the first line says
(`tokens_per_second`), each with the time at which it was sent. An upgrade is accepted, and frames are echoed as they
come; clients must mask with zeros. Whatever else is asked for gets an empty 200.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import time
from typing import cast

import uvloop

from benchmarks.processes import parent_input, serve, write_answer

TICK_SECONDS = 0.001
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EMPTY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":" token"}}],"at":%.6f}\n\n'


class Connection(asyncio.Protocol):
    """A connection of a client or a proxy."""

    def __init__(self, streams: set[Connection]) -> None:
        self._streams = streams
        self._pending = b""
        self._is_websocket = False
        self._left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002
        self._streams.discard(self)

    def data_received(self, data: bytes) -> None:
        if self._is_websocket:
            self._echo(data)
            return
        self._pending += data
        while b"\r\n\r\n" in self._pending and not self._is_websocket:
            head, _, rest = self._pending.partition(b"\r\n\r\n")
            fields = {
                name.strip().lower(): value.strip()
                for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])
            }
            length = int(fields.get(b"content-length", b"0"))
            if len(rest) < length:
                return
            self._pending = rest[length:]
            self._answer(head, fields)

    def _answer(self, head: bytes, fields: dict[bytes, bytes]) -> None:
        if b"sec-websocket-key" in fields:
            accepted = base64.b64encode(hashlib.sha1(fields[b"sec-websocket-key"] + MAGIC).digest())
            self._is_websocket = True
            self.transport.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: " + accepted + b"\r\n\r\n"
            )
        elif b"/v1/events" in head:
            self.transport.write(HEAD)
            self._streams.add(self)
        else:
            self.transport.write(EMPTY)

    def _echo(self, data: bytes) -> None:
        """Pass on what belongs to the payload, and frame heads without their mask."""
        pieces = []
        if self._pending:
            data, self._pending = self._pending + data, b""
        while data:
            if not self._left:
                size = 6 + {126: 2, 127: 8}.get(data[1] & 0x7F, 0) if len(data) > 1 else 2
                if len(data) < max(size, 2):
                    self._pending = data
                    break
                length = data[1] & 0x7F
                self._left = length if length < 126 else int.from_bytes(data[2 : size - 4], "big")
                pieces.append(data[:1] + bytes((length,)) + data[2 : size - 4])
                data = data[size:]
            pieces.append(data[: self._left])
            taken = len(pieces[-1])
            self._left -= taken
            data = data[taken:]
        self.transport.writelines(pieces)


async def pour(streams: set[Connection], tokens_per_second: float) -> None:
    """Send each stream its tokens; all streams take turns, so that none are sent in a burst."""
    loop = asyncio.get_running_loop()
    due: dict[Connection, float] = {}
    while True:
        now = loop.time()
        for stream in streams - due.keys():
            due[stream] = now + (hash(stream) % 1000) / 1000 / tokens_per_second
        for stream in tuple(due):
            if stream not in streams:
                del due[stream]
            elif due[stream] <= now:
                due[stream] += 1 / tokens_per_second
                token = TOKEN % time.monotonic()
                stream.transport.write(b"%x\r\n%s\r\n" % (len(token), token))
        await asyncio.sleep(TICK_SECONDS)


async def main() -> None:
    """Serve until the parent is gone."""
    lines = await parent_input()
    settings = json.loads(await lines.readline())
    streams: set[Connection] = set()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(streams), "127.0.0.1", 0, backlog=1024)
    pouring = asyncio.create_task(pour(streams, settings["tokens_per_second"]))
    write_answer({"port": server.sockets[0].getsockname()[1]})
    await serve({}, lines)
    pouring.cancel()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
