"""A WebSocket session byte by byte: where frames begin and end, and how each side learns that the other has gone."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from websockets.frames import Close, Frame, Opcode
from websockets.utils import accept_key

from shared_registry.config import RouterConfig
from shared_registry.embedded import EmbeddedServer
from shared_registry.model import ReplicaEndpoint
from shared_registry.proxy import tunnel
from tests.proxy.conftest import FAST, SECONDS, RunningRouter, StartRouter, all_healthy, running_router
from tests.support.backend import RawBackend
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
HANDSHAKE = (
    f"GET /v1/stream HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n"
)
SWITCH = (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    f"Sec-WebSocket-Accept: {accept_key(KEY)}\r\n"
)
BIG = 1024 * 1024


def encoded(opcode: Opcode, data: bytes = b"", *, is_masked: bool, is_final: bool = True) -> bytes:
    return Frame(opcode, data, is_final).serialize(mask=is_masked)


def closing(code: int, reason: str = "", *, is_masked: bool) -> bytes:
    return encoded(Opcode.CLOSE, Close(code, reason).serialize(), is_masked=is_masked)


class End:
    """One end of a session: a client, or a replica."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_client: bool) -> None:
        self.reader = reader
        self.writer = writer
        self.is_client = is_client

    def send(self, opcode: Opcode, data: bytes = b"") -> None:
        self.writer.write(encoded(opcode, data, is_masked=self.is_client))

    def close(self, code: int, reason: str = "") -> None:
        self.writer.write(closing(code, reason, is_masked=self.is_client))

    async def frame(self) -> tuple[Opcode, bytes]:
        """Return the next frame, which must be masked if it comes from a client."""
        async with asyncio.timeout(SECONDS):
            first, second = await self.reader.readexactly(2)
            assert bool(second & 0x80) is not self.is_client
            length = second & 0x7F
            if length >= 126:
                length = int.from_bytes(await self.reader.readexactly(2 if length == 126 else 8), "big")
            mask = b"" if self.is_client else await self.reader.readexactly(4)
            data = await self.reader.readexactly(length)
        if mask:
            data = bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))
        return Opcode(first & 0x0F), data

    async def close_frame(self) -> tuple[int, str]:
        """Return the code and the reason of the next frame, which must be a close frame."""
        opcode, data = await self.frame()
        assert opcode is Opcode.CLOSE, (opcode, data)
        close = Close.parse(data)
        return int(close.code), close.reason

    async def rest(self) -> bytes:
        """Return what comes until the connection ends."""
        found = b""
        async with asyncio.timeout(SECONDS):
            with contextlib.suppress(ConnectionError):
                while piece := await self.reader.read(65536):
                    found += piece
        return found

    def reset(self) -> None:
        """End the connection without a word."""
        linger = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()


class Sessions:
    """A router, and a replica behind it that leaves its sessions to the test.

    Attributes:
        answer: The replica's answer to a handshake, without its end.
    """

    def __init__(self) -> None:
        self.router: RunningRouter
        self.answer = SWITCH
        self.replica = RawBackend(self._serve)
        self.ends: asyncio.Queue[End] = asyncio.Queue()

    async def _serve(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"{self.answer}\r\n".encode())
        self.ends.put_nowait(End(reader, writer, is_client=False))
        await asyncio.Event().wait()

    @contextlib.asynccontextmanager
    async def session(self, *, rcvbuf: int | None = None) -> AsyncIterator[tuple[End, End]]:
        """Begin a session, and return its client's and its replica's end."""
        client = await dial(self.router, rcvbuf=rcvbuf)
        try:
            assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            yield client, await asyncio.wait_for(self.ends.get(), SECONDS)
        finally:
            client.writer.transport.abort()

    async def is_over(self) -> None:
        """Return as soon as no slot is held any more."""

        async def is_free() -> bool:
            status = await self.router.status()
            return status["sessions"] == 0 and [one["in_flight"] for one in status["replicas"]] == [0]

        await until(is_free, "the session has ended and its slot is free")


async def dial(router: RunningRouter, fields: str = "", *, rcvbuf: int | None = None) -> End:
    sock = socket.socket()
    if rcvbuf is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, router.address)
    reader, writer = await asyncio.open_connection(sock=sock, limit=16 * 1024)
    writer.write(f"{HANDSHAKE}{fields}\r\n".encode())
    return End(reader, writer, is_client=True)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_sessions(server: EmbeddedServer) -> AsyncIterator[Sessions]:
    sessions = Sessions()
    async with sessions.replica as replica:
        config = RouterConfig(
            redis_url=server.url,
            namespace="shared.tunnel",
            replicas=[ReplicaEndpoint(replica.url, primary=True)],
            **FAST,
        )
        async with running_router(config) as router:
            sessions.router = router
            await until(lambda: all_healthy(router, 1), "the replica is healthy")
            yield sessions


@pytest.fixture
def sessions(shared_sessions: Sessions) -> Sessions:
    return shared_sessions


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """A side may take only a moment to answer a close frame."""
    monkeypatch.setattr(tunnel, "CLOSE_SECONDS", 0.1)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No side is cut because it takes long to answer a close frame."""
    monkeypatch.setattr(tunnel, "CLOSE_SECONDS", 3600.0)


FAILED = (1011, "worker_failed")


async def error_code(client: End) -> str:
    opcode, data = await client.frame()
    assert opcode is Opcode.TEXT
    return str(json.loads(data)["code"])


# A side is lost


@pytest.mark.parametrize("is_reset", [False, True])
async def test_a_replica_lost_between_frames_is_reported(sessions: Sessions, *, is_reset: bool) -> None:
    async with sessions.session() as (client, replica):
        replica.send(Opcode.TEXT, b"last")
        assert await client.frame() == (Opcode.TEXT, b"last")
        replica.reset() if is_reset else replica.writer.close()
        assert await error_code(client) == "worker_failed"
        assert await client.close_frame() == FAILED
        client.close(1011)
        assert await client.rest() == b""
        await sessions.is_over()


async def test_a_replica_lost_within_a_head_counts_as_between_frames(sessions: Sessions) -> None:
    async with sessions.session() as (client, replica):
        replica.writer.write(encoded(Opcode.BINARY, bytes(70_000), is_masked=False)[:9])
        replica.writer.close()
        assert await error_code(client) == "worker_failed"
        assert await client.close_frame() == FAILED


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("is_reset", [False, True])
async def test_a_replica_lost_within_a_frame_disconnects_the_client(sessions: Sessions, *, is_reset: bool) -> None:
    part = encoded(Opcode.BINARY, bytes(1000), is_masked=False)[:500]
    async with sessions.session() as (client, replica):
        replica.writer.write(part)
        assert await client.reader.readexactly(len(part)) == part
        replica.reset() if is_reset else replica.writer.close()
        assert await client.rest() == b""
        await sessions.is_over()


@pytest.mark.parametrize("is_reset", [False, True])
async def test_a_client_lost_between_frames_closes_the_replica(sessions: Sessions, *, is_reset: bool) -> None:
    async with sessions.session() as (client, replica):
        client.send(Opcode.TEXT, b"last")
        assert await replica.frame() == (Opcode.TEXT, b"last")
        client.reset() if is_reset else client.writer.close()
        assert await replica.close_frame() == (1001, "the client's connection was lost")
        replica.close(1001)
        assert await replica.rest() == b""
        await sessions.is_over()


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("is_reset", [False, True])
async def test_a_client_lost_within_a_frame_disconnects_the_replica(sessions: Sessions, *, is_reset: bool) -> None:
    part = encoded(Opcode.BINARY, bytes(1000), is_masked=True)[:500]
    async with sessions.session() as (client, replica):
        client.writer.write(part)
        assert await replica.reader.readexactly(len(part)) == part
        client.reset() if is_reset else client.writer.close()
        assert await replica.rest() == b""
        await sessions.is_over()


@pytest.mark.usefixtures("patient")
async def test_a_replica_that_drops_a_closed_session_is_no_failure(sessions: Sessions) -> None:
    """Many servers answer a close frame by closing the connection."""
    async with sessions.session() as (client, replica):
        client.close(3001, "done")
        assert await replica.close_frame() == (3001, "done")
        replica.writer.close()
        assert await client.close_frame() == (3001, "done")
        assert await client.rest() == b""
        await sessions.is_over()


# Closing


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("is_client_first", [False, True])
async def test_a_close_is_passed_on_and_answered(sessions: Sessions, *, is_client_first: bool) -> None:
    async with sessions.session() as ends:
        first, second = ends if is_client_first else ends[::-1]
        first.close(3001, "done")
        assert await second.close_frame() == (3001, "done")
        second.close(3001, "done")
        assert await first.close_frame() == (3001, "done")
        assert await first.rest() == await second.rest() == b""
        await sessions.is_over()


@pytest.mark.usefixtures("patient")
async def test_closes_that_cross_end_the_session(sessions: Sessions) -> None:
    async with sessions.session() as (client, replica):
        client.close(3001)
        replica.close(3002)
        assert {(await client.close_frame())[0], (await replica.close_frame())[0]} == {3001, 3002}
        assert await client.rest() == await replica.rest() == b""
        await sessions.is_over()


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("is_client_first", [False, True])
async def test_a_side_that_never_answers_a_close_is_cut(sessions: Sessions, *, is_client_first: bool) -> None:
    async with sessions.session() as ends:
        first, second = ends if is_client_first else ends[::-1]
        first.close(1000)
        assert (await second.close_frame())[0] == 1000
        assert await second.rest() == b""
        await first.rest()
        await sessions.is_over()


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("is_client_first", [False, True])
async def test_nothing_follows_a_close_frame(sessions: Sessions, *, is_client_first: bool) -> None:
    async with sessions.session() as ends:
        first, second = ends if is_client_first else ends[::-1]
        after = encoded(Opcode.TEXT, b"after", is_masked=first.is_client)
        first.writer.write(closing(1000, is_masked=first.is_client) + after)
        assert (await second.close_frame())[0] == 1000
        first.writer.write(after)
        second.send(Opcode.TEXT, b"still")  # before its answer it may send
        second.close(1000)
        assert await first.frame() == (Opcode.TEXT, b"still")
        assert (await first.close_frame())[0] == 1000
        assert await second.rest() == b""
        await sessions.is_over()


# Frames pass as they are


@pytest.mark.parametrize("is_client_first", [False, True])
async def test_pings_and_pongs_pass_through(sessions: Sessions, *, is_client_first: bool) -> None:
    async with sessions.session() as ends:
        first, second = ends if is_client_first else ends[::-1]
        for opcode in (Opcode.PING, Opcode.PONG):
            first.send(opcode, b"a" * 125)
            assert await second.frame() == (opcode, b"a" * 125)


@pytest.mark.parametrize("is_client_first", [False, True])
async def test_bytes_pass_unchanged_even_one_by_one(sessions: Sessions, *, is_client_first: bool) -> None:
    async with sessions.session() as ends:
        first, second = ends if is_client_first else ends[::-1]
        stream = b"".join(
            encoded(opcode, bytes(size), is_masked=first.is_client, is_final=is_final)
            for opcode, size, is_final in [
                (Opcode.TEXT, 3, False),
                (Opcode.PING, 0, True),
                (Opcode.CONT, 130, True),
                (Opcode.BINARY, 0, True),
            ]
        )
        for byte in stream:
            first.writer.write(bytes((byte,)))
            await first.writer.drain()
            await asyncio.sleep(0)
        assert await asyncio.wait_for(second.reader.readexactly(len(stream)), SECONDS) == stream


async def test_half_a_head_is_held_back_until_it_is_whole(sessions: Sessions) -> None:
    frame = encoded(Opcode.BINARY, b"b" * 300, is_masked=True)
    ping = encoded(Opcode.PING, is_masked=True)
    async with sessions.session() as (client, replica):
        client.writer.write(ping + frame[:7])
        assert await replica.frame() == (Opcode.PING, b"")
        replica.send(Opcode.TEXT, b"reached")
        assert await client.frame() == (Opcode.TEXT, b"reached")
        assert not replica.reader._buffer  # type: ignore[attr-defined]
        client.writer.write(frame[7:])
        assert await replica.frame() == (Opcode.BINARY, b"b" * 300)


# The router stops, or takes the session's replica away


@pytest.mark.parametrize("is_large_frame_complete", [True, False])
async def test_a_stopping_router_ends_sessions_between_frames(
    start_router: StartRouter, *, is_large_frame_complete: bool
) -> None:
    sessions = Sessions()
    async with sessions.replica as replica_server:
        sessions.router = router = await start_router(replica_server.url)
        large = encoded(Opcode.BINARY, bytes(100_000), is_masked=False)
        async with sessions.session() as (client, replica):
            replica.writer.write(large[:50_000])
            assert await client.reader.readexactly(50_000) == large[:50_000]
            router.stop.ask()
            assert (await replica.close_frame())[0] == 1012
            if is_large_frame_complete:
                replica.writer.write(large[50_000:] + encoded(Opcode.TEXT, b"after", is_masked=False))
                assert await client.reader.readexactly(len(large) - 50_000) == large[50_000:]
                assert (await client.close_frame())[0] == 1012
            assert await client.rest() == b""


@pytest.mark.parametrize("is_within_a_frame", [True, False])
async def test_a_session_is_closed_with_its_lost_replica(start_router: StartRouter, *, is_within_a_frame: bool) -> None:
    sessions = Sessions()
    async with sessions.replica as replica_server, RawBackend(_refuse) as other:
        replicas = [ReplicaEndpoint(replica_server.url, primary=True), ReplicaEndpoint(other.url)]
        sessions.router = router = await start_router(replicas=replicas, is_awaited=False, on_lost="close")
        await until(lambda: all_healthy(router, 2), "both replicas are healthy")
        frame = encoded(Opcode.BINARY, bytes(1000), is_masked=False)
        async with sessions.session() as (client, replica):
            if is_within_a_frame:
                replica.writer.write(frame[:500])
                assert await client.reader.readexactly(500) == frame[:500]
            replica_server._server.close()
            assert (await replica.close_frame())[0] == 1001
            if is_within_a_frame:
                replica.writer.write(frame[500:])
                assert await client.reader.readexactly(len(frame) - 500) == frame[500:]
            assert await error_code(client) == "worker_failed"
            assert await client.close_frame() == FAILED


async def _refuse(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")


# The handshake


@pytest.mark.parametrize(
    "answer",
    [
        SWITCH.replace(accept_key(KEY), accept_key("AAAAAAAAAAAAAAAAAAAAAA==")),
        SWITCH.replace(accept_key(KEY), ""),
        SWITCH.replace("Upgrade: websocket", "Upgrade: h2c"),
        SWITCH.replace("Upgrade: websocket\r\n", ""),
        SWITCH.replace("Connection: Upgrade\r\n", ""),
        SWITCH + "Sec-WebSocket-Protocol: never-offered\r\n",
        SWITCH + "Sec-WebSocket-Extensions: permessage-deflate\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n",
        "HTTP/1.1 500 Failed\r\nContent-Length: 0\r\n",
    ],
    ids=lambda value: repr(value)[10:30] + repr(value)[-50:],
)
async def test_a_replica_with_an_invalid_answer_is_passed_over(start_router: StartRouter, answer: str) -> None:
    bad, good = Sessions(), Sessions()
    bad.answer = answer
    async with bad.replica as one, good.replica as other:
        good.router = await start_router(one.url, other.url)
        client = await dial(good.router, "Sec-WebSocket-Protocol: offered\r\n")
        head = await asyncio.wait_for(client.reader.readuntil(b"\r\n\r\n"), SECONDS)
        assert head.startswith(b"HTTP/1.1 101 ")
        client.send(Opcode.TEXT, b"hello")
        replica = await asyncio.wait_for(good.ends.get(), SECONDS)
        assert await replica.frame() == (Opcode.TEXT, b"hello")
        assert len(bad.replica.heads) == 1
        client.writer.transport.abort()


@pytest.mark.parametrize("is_cut", [True, False])
async def test_a_refusal_broken_off_is_followed_by_nothing(start_router: StartRouter, *, is_cut: bool) -> None:
    async def begin_to_refuse(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 403 No\r\nContent-Length: 10\r\n\r\nhalf")
        await (writer.drain() if is_cut else asyncio.Event().wait())
        raise ConnectionError

    good = Sessions()
    async with RawBackend(begin_to_refuse) as one, good.replica as other:
        router = await start_router(one.url, other.url)
        client = await dial(router)
        answer = await client.rest()
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert answer.endswith(b"\r\n\r\nhalf")
        assert (len(one.heads), other.heads) == (1, [])
        client.writer.transport.abort()
