"""Mock replicas on a raw asyncio server: in a test, or as a process.

    python -m tests.support.replica_server --port 9000

One server is as many replicas as it is reached under addresses: bound to 0.0.0.0 it answers for every 127.x.y.z (on
Linux; macOS has 127.0.0.1 alone). Each address has its own behaviour and its own counts.

    GET /health      status and body as set, after the latency set; no answer at all while hanging
    GET /readyz      200 {"status": "ready"} or {"status": "warming"}
    GET /counts      {"requests": …, "connections": …, "open_connections": …} of this address
    GET /set?status=503&latency_ms=20&ready=0&hanging=1&body=…     changes this address from outside
    anything else    404

/counts and /set are not counted, nor are connections that asked for nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import time
from collections import defaultdict
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, cast
from urllib.parse import parse_qsl, urlsplit

from tests.support.accepted import stop_listening


@dataclass
class MockReplica:
    """What one address answers, and what it was asked; with a list, also when. Change it at any time."""

    status: int = 200
    body: str = '{"status": "ok"}'
    latency_seconds: float = 0.0
    is_ready: bool = True
    is_hanging: bool = False
    requests: int = 0
    connections: int = 0
    requested_at: list[float] | None = None
    open_connections: set[_Connection] = field(default_factory=set)

    def drop_connections(self) -> None:
        """Close every connection without a word, as a crash would."""
        for connection in tuple(self.open_connections):
            connection.transport.abort()

    def update(self, settings: dict[str, str]) -> None:
        """Apply what came in a query."""
        self.status = int(settings.get("status", self.status))
        self.body = settings.get("body", self.body)
        self.latency_seconds = float(settings.get("latency_ms", self.latency_seconds * 1000)) / 1000
        self.is_ready = settings.get("ready", "01"[self.is_ready]) == "1"
        self.is_hanging = settings.get("hanging", "01"[self.is_hanging]) == "1"


class ReplicaServer:
    """`async with ReplicaServer() as server: server.url()`; leaving it closes every connection."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.host = host
        self.port = port
        self.replicas: defaultdict[str, MockReplica] = defaultdict(MockReplica)
        self._server: asyncio.Server | None = None

    def url(self, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}"

    def replica(self, host: str = "127.0.0.1") -> MockReplica:
        return self.replicas[host]

    @property
    def is_listening(self) -> bool:
        return self._server is not None

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), self.host, self.port, backlog=4096)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuse new connections and drop the open ones; `start()` serves again on the same port."""
        if self._server is not None:
            await stop_listening(self._server)
            for replica in self.replicas.values():
                replica.drop_connections()
            await self._server.wait_closed()
            self._server = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


class _Connection(asyncio.Protocol):
    def __init__(self, server: ReplicaServer) -> None:
        self._server = server
        self._received = b""
        self.is_counted = False
        self.is_unanswered = False
        self.transport: asyncio.Transport
        self._replica: MockReplica

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._replica = self._server.replicas[transport.get_extra_info("sockname")[0]]
        self._replica.open_connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._replica.open_connections.discard(self)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received:
            head, _, self._received = self._received.partition(b"\r\n\r\n")
            self._answer(head.split(b" ", 2)[1].decode())

    def _answer(self, target: str) -> None:
        replica, path = self._replica, urlsplit(target).path
        if path == "/set":
            replica.update(dict(parse_qsl(urlsplit(target).query)))
            self._send(200, "{}")
        elif path == "/counts":
            counts = {"requests": replica.requests, "connections": replica.connections}
            open_connections = sum(connection.is_counted for connection in replica.open_connections)
            self._send(200, json.dumps(counts | {"open_connections": open_connections}))
        else:
            replica.requests += 1
            if replica.requested_at is not None:
                replica.requested_at.append(time.monotonic())
            replica.connections += not self.is_counted
            self.is_counted = True
            self._answer_counted(replica, path)

    def _answer_counted(self, replica: MockReplica, path: str) -> None:
        if path == "/readyz":
            self._send(200, json.dumps({"status": "ready" if replica.is_ready else "warming"}))
        elif path != "/health":
            self._send(404, "{}")
        elif replica.latency_seconds and not replica.is_hanging:
            loop = asyncio.get_running_loop()
            loop.call_later(replica.latency_seconds, self._send, replica.status, replica.body)
        elif not replica.is_hanging:
            self._send(replica.status, replica.body)
        else:
            self.is_unanswered = True

    def _send(self, status: int, body: str) -> None:
        if not self.transport.is_closing():
            content = body.encode()
            head = f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
            self.transport.write(head.encode() + content)


async def serve(arguments: argparse.Namespace) -> None:
    """Serve until cancelled; says its port on standard output once it listens."""
    server = ReplicaServer(arguments.host, arguments.port)
    server.replicas.default_factory = lambda: MockReplica(
        arguments.status, arguments.body, arguments.latency_ms / 1000, not arguments.warming
    )
    async with server:
        print(f"listening on port {server.port}", flush=True)  # noqa: T201
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="Mock replicas, one for each address that reaches this server.")
    parser.add_argument("--host", default="0.0.0.0", help="address to bind (0.0.0.0: all of 127.x.y.z)")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--status", type=int, default=200)
    parser.add_argument("--body", default=MockReplica.body)
    parser.add_argument("--latency-ms", type=float, default=0.0)
    parser.add_argument("--warming", action="store_true", help="/readyz says warming")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
