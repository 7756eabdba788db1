"""Clients of streams and WebSockets in a process of their own, as cheap as they can be in Python.

Questions: `["streams", port, count]` or `["sessions", port, count, bytes]` opens them, `["read", seconds]` counts
tokens and says how old they were, `["echo", seconds]` counts messages that came back, `["close"]` ends all.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from typing import Any, cast

import uvloop

from benchmarks.processes import Answer, parent_input, until, write_answer

ASK = b"POST /v1/events HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
HANDSHAKE = (
    b"GET /v1/stream HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
AT = re.compile(rb'"at":([0-9.]+)}')
OPEN_SECONDS = 30.0
SETTLE_SECONDS = 1.0


class Stream(asyncio.Protocol):
    """Reads tokens and notes how old each is."""

    def __init__(self) -> None:
        self.ages: list[float] = []
        self.is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(ASK)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        self.is_open = True
        self.ages.extend(now - float(at) for at in AT.findall(data))


class Echo(asyncio.Protocol):
    """Sends a message as soon as the last one has come back whole."""

    def __init__(self, size: int) -> None:
        self.count = 0
        self.is_open = False
        head = bytes((0x82, 0x80 | size)) if size < 126 else bytes((0x82, 0x80 | 127)) + size.to_bytes(8, "big")
        self._message = head + bytes(4 + size)
        self._expected = len(self._message) - 4
        self._left = 0
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(HANDSHAKE)

    def data_received(self, data: bytes) -> None:
        if not self.is_open:
            self._head += data
            if b"\r\n\r\n" in self._head:
                if not self._head.startswith(b"HTTP/1.1 101 "):
                    raise RuntimeError(self._head)
                self.is_open = True
            return
        self._left -= len(data)
        if self._left == 0:
            self.count += 1
            self.send()
        elif self._left < 0:
            raise RuntimeError("more came back than was sent")

    def send(self) -> None:
        self._left = self._expected
        self.transport.write(self._message)


class Clients:
    """What the questions are asked of."""

    def __init__(self) -> None:
        self._open: list[Any] = []

    async def streams(self, port: int, count: int) -> Answer:
        """Open streams."""
        self._open = await opened(Stream, port, count)
        await asyncio.sleep(SETTLE_SECONDS)
        return {}

    async def sessions(self, port: int, count: int, size: int) -> Answer:
        """Open WebSockets, which are silent until they are to echo."""
        self._open = await opened(lambda: Echo(size), port, count)
        return {}

    async def read(self, seconds: float) -> Answer:
        """Count tokens."""
        for stream in self._open:
            stream.ages.clear()
        await asyncio.sleep(seconds)
        ages = sorted(age for stream in self._open for age in stream.ages)
        return {"count": len(ages), "p99": ages[int(len(ages) * 0.99)]}

    async def echo(self, seconds: float) -> Answer:
        """Count messages that came back."""
        for client in self._open:
            client.send()
        await asyncio.sleep(seconds)
        return {"count": sum(client.count for client in self._open)}

    async def close(self) -> Answer:
        """End all of them."""
        for client in self._open:
            client.transport.abort()
        self._open = []
        return {}


async def opened(make: Callable[[], Any], port: int, count: int) -> list[Any]:
    """Open connections until all of them have got a response."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(OPEN_SECONDS):
        clients = [(await loop.create_connection(make, "127.0.0.1", port))[1] for _ in range(count)]
        await until(lambda: all(client.is_open for client in clients), poll_seconds=0.01)
    return clients


async def main() -> None:
    """Answer one question after the other, until the parent is gone."""
    lines = await parent_input()
    await lines.readline()
    clients = Clients()
    write_answer({})
    while line := await lines.readline():
        name, *words = json.loads(line)
        write_answer(await getattr(clients, name)(*words))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
