"""Where a request or a response ends: the router, its clients and its replicas must never disagree on it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import re
import select
import socket
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from shared_registry.config import RouterConfig
from shared_registry.embedded import EmbeddedServer
from shared_registry.http1.connection import ReplicaConnection
from shared_registry.model import Replica, ReplicaEndpoint
from shared_registry.probing.tls import TlsContexts
from shared_registry.proxy.client import ClientConnection
from shared_registry.proxy.connections import ReplicaConnections
from shared_registry.proxy.exchange import Exchange
from shared_registry.proxy.limits import Limits
from shared_registry.proxy.site import Site
from tests.proxy.conftest import SECONDS, RunningRouter, StartRouter, router_of_its_own
from tests.support.backend import Backend, RawBackend
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter

POST = b"POST /first HTTP/1.1\r\nHost: a\r\n"
STOLEN = b"GET /stolen HTTP/1.1\r\nHost: a\r\n\r\n"
WEBSOCKET = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
HANDSHAKE = b"GET /v1/stream HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" + WEBSOCKET + b"\r\n"
BYTEWISE = "byte by byte"


async def body_of(head: bytes, reader: Reader) -> bytes:
    """Read the body that a head announces."""
    if length := re.search(rb"\r\ncontent-length: *(\d+)\r\n", head, re.IGNORECASE):
        return await reader.readexactly(int(length[1]))
    body = b""
    if re.search(rb"\r\ntransfer-encoding: *chunked\r\n", head, re.IGNORECASE):
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readexactly(2)
    return body


async def tell(head: bytes, reader: Reader, writer: Writer) -> None:
    """Answer with what was asked: the request line and the body."""
    body = await body_of(head, reader)
    text = head.partition(b" HTTP/")[0] + b"|" + body
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def telling(server: EmbeddedServer) -> AsyncIterator[tuple[RawBackend, RunningRouter]]:
    async with RawBackend(tell) as replica, router_of_its_own(server, replica.url) as router:
        yield replica, router


class Connection:
    """A client's connection, which reads responses one by one."""

    def __init__(self, reader: Reader, writer: Writer) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, *pieces: bytes) -> None:
        """Send pieces, so that they most likely arrive one by one."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(0.001 if len(pieces) < 10 else 0)

    async def response(self) -> tuple[int, bytes, bytes]:
        """Return status, head and body of the next response."""
        async with asyncio.timeout(SECONDS):
            head = await self.reader.readuntil(b"\r\n\r\n")
            return int(head.split()[1]), head, await body_of(head, self.reader)

    async def rest(self) -> bytes:
        """Return all that comes until the router closes the connection."""
        found = b""
        async with asyncio.timeout(SECONDS):
            with contextlib.suppress(ConnectionError):
                while piece := await self.reader.read(65536):
                    found += piece
        return found


@contextlib.asynccontextmanager
async def connected(router: RunningRouter) -> AsyncIterator[Connection]:
    reader, writer = await asyncio.open_connection(*router.address)
    try:
        yield Connection(reader, writer)
    finally:
        writer.transport.abort()


async def slots_are_free(router: RunningRouter) -> None:
    async def are_free() -> bool:
        status = await router.status()
        return status["sessions"] == 0 and all(replica["in_flight"] == 0 for replica in status["replicas"])

    await until(are_free, "no slot is held")


# Offers of an upgrade


OFFERS = {
    "h2c": b"Connection: Upgrade\r\nUpgrade: h2c\r\n",
    "h2c with settings": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
    "TLS": b"Connection: upgrade\r\nUpgrade: TLS/1.0\r\n",
    "mixed case": b"cOnNeCtIoN: uPgRaDe\r\nuPgRaDe: H2C\r\n",
    "a list with a WebSocket": b"Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n" + WEBSOCKET,
    "two Upgrade lines": b"Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n" + WEBSOCKET,
    "the same Upgrade twice": b"Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: websocket\r\n" + WEBSOCKET,
    "two Connection lines": b"Connection: Upgrade\r\nConnection: keep-alive\r\nUpgrade: h2c\r\n",
    "Connection without upgrade": b"Connection: keep-alive\r\nUpgrade: h2c\r\n",
    "no Connection": b"Upgrade: websocket\r\n" + WEBSOCKET,
    "an empty Upgrade": b"Connection: upgrade\r\nUpgrade:\r\n",
    "only commas": b"Connection: ,upgrade,,\r\nUpgrade: ,\r\n",
    "WebSocket with POST": b"Connection: Upgrade\r\nUpgrade: websocket\r\n" + WEBSOCKET,
    "WebSocket without a key": b"Connection: Upgrade\r\nUpgrade: WebSocket\r\n",
}


@pytest.mark.parametrize("packets", ["one packet", "two packets", "body first in part", BYTEWISE])
@pytest.mark.parametrize("framing", ["a length", "chunks"])
@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
async def test_a_body_behind_an_offer_to_upgrade_stays_a_body(
    telling: tuple[RawBackend, RunningRouter], offer: bytes, framing: str, packets: str
) -> None:
    replica, router = telling
    replica.heads.clear()
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(STOLEN), STOLEN)
    how, body = {
        "a length": (b"Content-Length: %d\r\n" % len(STOLEN), STOLEN),
        "chunks": (b"Transfer-Encoding: chunked\r\n", chunked),
    }[framing]
    head = POST + offer + how + b"\r\n"
    pieces = {
        "one packet": [head + body],
        "two packets": [head, body],
        "body first in part": [head + body[:10], body[10:]],
        BYTEWISE: [bytes([byte]) for byte in head + body],
    }[packets]
    async with connected(router) as client:
        await client.send(*pieces, b"GET /second HTTP/1.1\r\nHost: a\r\n\r\n")
        status, _, told = await client.response()
        assert (status, told) == (200, b"POST /first|" + STOLEN)
        assert (await client.response())[2] == b"GET /second|"
    assert [head.split()[1] for head in replica.heads] == [b"/first", b"/second"]
    assert b"upgrade" not in replica.heads[0].lower()
    assert b"http2-settings" not in replica.heads[0].lower()


@pytest.mark.parametrize("offer", [OFFERS["h2c"], OFFERS["a list with a WebSocket"], OFFERS["two Upgrade lines"]])
async def test_an_offer_without_a_body_is_served_like_any_request(
    telling: tuple[RawBackend, RunningRouter], offer: bytes
) -> None:
    _, router = telling
    get = b"GET /%d HTTP/1.1\r\nHost: a\r\n" + offer + b"\r\n"
    async with connected(router) as client:
        await client.send(get % 1 + get % 2 + get % 3)
        assert [(await client.response())[2] for _ in range(3)] == [b"GET /1|", b"GET /2|", b"GET /3|"]


async def test_an_old_client_cannot_offer_an_upgrade(telling: tuple[RawBackend, RunningRouter]) -> None:
    _, router = telling
    offer = b"Connection: Upgrade\r\nUpgrade: websocket\r\n" + WEBSOCKET
    async with connected(router) as client:
        await client.send(b"GET /old HTTP/1.0\r\n" + offer + b"\r\n")
        assert (await client.response())[2] == b"GET /old|"
        assert await client.rest() == b""


@pytest.mark.parametrize(
    "request_bytes",
    [
        POST + OFFERS["h2c"] + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + STOLEN,
        POST + OFFERS["h2c"] + b"Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n" + STOLEN,
        POST + OFFERS["h2c"] + b"Transfer-Encoding: chunked \r\n\r\n0\r\n\r\n" + STOLEN,
        POST + OFFERS["h2c"] + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + STOLEN,
        POST + OFFERS["h2c"] + b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n" + STOLEN,
        POST + OFFERS["h2c"] + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello" + STOLEN,
        POST + OFFERS["h2c"] + b"Content-Length: 0, 5\r\n\r\n" + STOLEN,
        POST + OFFERS["h2c"] + b"Host: b\r\nContent-Length: 5\r\n\r\nhello" + STOLEN,
        HANDSHAKE[:-2] + b"Content-Length: %d\r\n\r\n" % len(STOLEN) + STOLEN,
        HANDSHAKE[:-2] + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + STOLEN,
        b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n" + STOLEN,
        b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello" + STOLEN,
        b"CONNECT 127.0.0.1:80 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + STOLEN,
        b"CONNECT a:80 HTTP/1.0\r\n\r\n" + STOLEN,
        b"GET / HTTP/2.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n" + STOLEN,
        b"GET / HTTP/0.9\r\nHost: a\r\nConnection: keep-alive\r\n\r\n" + STOLEN,
        b"GET /status HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" + STOLEN,
        b"POST /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n" + STOLEN,
        POST + b"Transfer-Encoding: chunked\r\n\r\n5;a=\nb\r\nhello\r\n0\r\n\r\n" + STOLEN,
        POST + b"Transfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\n\r\n" + STOLEN,
        POST + b"Content-Length: 5\n\nhello" + STOLEN,
        POST + b"Content-Length:\r\n 5\r\n\r\nhello" + STOLEN,
        POST + b"X: a\r\n b\r\nContent-Length: 5\r\n\r\nhello" + STOLEN,
    ],
    ids=lambda value: repr(value)[2:120],
)
async def test_an_ambiguous_request_ends_the_connection(
    telling: tuple[RawBackend, RunningRouter], request_bytes: bytes
) -> None:
    replica, router = telling
    replica.heads.clear()
    async with connected(router) as client:
        await client.send(request_bytes)
        status, head, _ = await client.response()
        assert (status, b"connection: close" in head) == (400, True)
        assert await client.rest() == b""
    assert [head for head in replica.heads if b"/stolen" in head] == []


# What comes before a response is over


async def test_a_handshake_behind_a_request_in_progress_is_dropped(
    telling: tuple[RawBackend, RunningRouter],
) -> None:
    _, router = telling
    async with connected(router) as client:
        await client.send(b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n" + HANDSHAKE)
        assert (await client.response())[2] == b"GET /first|"
        assert await client.rest() == b""


BEHIND_A_REQUEST = [
    b"GET / HTTP/1.1\r\nHost: a\r\nX y: 1\r\n\r\n",
    b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 70_000,
    b"GE",  # and no more: its head does not come in time
    HANDSHAKE,
    HANDSHAKE[:-2] + b"Content-Length: 5\r\n\r\nhello",
]


@pytest.mark.parametrize("framing", [b"Content-Length: 8\r\n", b"Transfer-Encoding: chunked\r\n"])
async def test_nothing_is_written_into_a_response_in_progress(
    start_router: StartRouter, caplog: pytest.LogCaptureFixture, framing: bytes
) -> None:
    go_on = asyncio.Event()

    async def in_two_halves(head: bytes, reader: Reader, writer: Writer) -> None:
        is_chunked = b"chunked" in framing
        writer.write(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n" + (b"4\r\nhalf\r\n" if is_chunked else b"half"))
        await go_on.wait()
        writer.write(b"4\r\nhalf\r\n0\r\n\r\n" if is_chunked else b"half")

    async with RawBackend(in_two_halves) as replica:
        router = await start_router(replica.url)
        async with contextlib.AsyncExitStack() as stack:
            clients = []
            for _ in BEHIND_A_REQUEST:
                client = await stack.enter_async_context(connected(router))
                clients.append(client)
                await client.send(b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n")
                async with asyncio.timeout(SECONDS):
                    await client.reader.readuntil(b"half" + (b"\r\n" if b"chunked" in framing else b""))
            router.router.reload(dataclasses.replace(router.router.config, header_timeout_seconds=0.3))
            for client, behind in zip(clients, BEHIND_A_REQUEST, strict=True):
                await client.send(behind)
            await until(lambda: "408 request_timeout" in caplog.text, "the head that is late is refused")
            go_on.set()
            for client, behind in zip(clients, BEHIND_A_REQUEST, strict=True):
                rest, half = await client.rest(), b"4\r\nhalf\r\n0\r\n\r\n" if b"chunked" in framing else b"half"
                if behind == b"GE" and rest != half:  # its time was up only after the response
                    assert rest.startswith(half + b"HTTP/1.1 408 ")
                else:
                    assert rest == half, behind[:60]
        assert len(replica.heads) == len(BEHIND_A_REQUEST)


async def test_a_wrong_request_body_cuts_off_a_begun_response(start_router: StartRouter) -> None:
    async def answer_early(head: bytes, reader: Reader, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
        await reader.read()

    async with RawBackend(answer_early) as replica:
        router = await start_router(replica.url)
        async with connected(router) as client:
            await client.send(POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
            await client.reader.readuntil(b"half")
            await client.send(b"xyz\r\n")
            assert await client.rest() == b""
        await slots_are_free(router)


async def test_a_wrong_request_body_is_refused_before_the_response(router: RunningRouter) -> None:
    async with connected(router) as client:
        await client.send(
            b"POST /wait HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", b"xyz\r\n"
        )
        assert (await client.response())[0] == 400
        assert await client.rest() == b""
    await slots_are_free(router)


async def test_frames_that_come_with_the_handshake_follow_its_answer(router: RunningRouter) -> None:
    ping = bytes([0x89, 0x80, 1, 2, 3, 4])
    text = bytes([0x81, 0x82, 0, 0, 0, 0]) + b"hi"
    async with connected(router) as client:
        await client.send(HANDSHAKE + ping + text)
        async with asyncio.timeout(SECONDS):
            assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            assert await client.reader.readexactly(6) == b"\x8a\x00" + b"\x81\x02hi"


@pytest.mark.parametrize("is_refused", [False, True])
async def test_bytes_behind_a_handshake_are_no_request(
    router: RunningRouter, backend: Backend, is_refused: bool
) -> None:
    handshake = HANDSHAKE.replace(b"/v1/stream", b"/v1/stream?reject=403") if is_refused else HANDSHAKE
    async with connected(router) as client:
        await client.send(handshake + STOLEN)
        status, _, _ = await client.response()
        assert status == (403 if is_refused else 101)
        assert b"HTTP/1.1" not in await client.rest()
    assert [scope["path"] for scope in backend.scopes] == ["/v1/stream"]


async def test_a_client_sending_endlessly_before_its_answer_is_disconnected(start_router: StartRouter) -> None:
    async with RawBackend(never_answer) as replica:
        router = await start_router(replica.url, connect_timeout_seconds=SECONDS)
        async with connected(router) as client:
            with contextlib.suppress(ConnectionError):
                await client.send(HANDSHAKE, *[bytes(10_000)] * 10)
            assert await client.rest() == b""


async def never_answer(head: bytes, reader: Reader, writer: Writer) -> None:
    await reader.read()


# Trailers, half-closed connections, Expect


async def test_trailers_are_no_headers_of_this_or_another_request(telling: tuple[RawBackend, RunningRouter]) -> None:
    replica, router = telling
    replica.heads.clear()
    chunked = POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n"
    trailers = b"X-Admin: 1\r\nHost: b\r\nExpect: 100-continue\r\nConnection: X-Kept\r\nAuthorization: Bearer x\r\n\r\n"
    async with connected(router) as client:
        await client.send(chunked + trailers + b"GET /second HTTP/1.1\r\nHost: a\r\nX-Kept: 1\r\n\r\n")
        assert (await client.response())[2] == b"POST /first|hello"
        assert (await client.response())[2] == b"GET /second|"
    lines = b"".join(replica.heads).lower()
    assert lines.count(b"\r\nhost: a\r\n") == 2
    assert b"x-kept: 1" in lines
    assert [name for name in (b"x-admin", b"host: b", b"authorization", b"expect") if name in lines] == []


@pytest.mark.parametrize(
    "endless", [b"5;" + b"a" * 200_000, b"0\r\nX: " + b"a" * 200_000, b"0\r\n" + b"X: a\r\n" * 40_000]
)
async def test_endless_framing_is_cut_off(telling: tuple[RawBackend, RunningRouter], endless: bytes) -> None:
    _, router = telling
    async with connected(router) as client:
        with contextlib.suppress(ConnectionError):
            await client.send(POST + b"Transfer-Encoding: chunked\r\n\r\n", endless)
        rest = await client.rest()
        assert not rest or rest.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
        assert not rest or rest.endswith(b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
    await slots_are_free(router)


@pytest.mark.parametrize("framing", [b"Content-Length: 10\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n5\r\n"])
async def test_a_body_cut_off_never_looks_complete_to_the_replica(start_router: StartRouter, framing: bytes) -> None:
    received: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def receive(head: bytes, reader: Reader, writer: Writer) -> None:
        try:
            received.set_result(await body_of(head, reader))
        except asyncio.IncompleteReadError as error:
            received.set_exception(error)
        except ValueError as error:  # no chunk's size
            received.set_exception(error)

    async with RawBackend(receive) as replica:
        router = await start_router(replica.url)
        async with connected(router) as client:
            await client.send(POST + framing + b"hello" + (b"\r\n" if b"chunked" in framing else b""))

            async def has_begun() -> bool:
                return bool(replica.heads)

            await until(has_begun, "the replica has the request")
            client.writer.write_eof()
            with pytest.raises((asyncio.IncompleteReadError, ValueError, ConnectionError)):
                await asyncio.wait_for(asyncio.shield(received), SECONDS)
        await slots_are_free(router)


async def test_a_client_that_never_sends_its_body_blocks_nothing(start_router: StartRouter) -> None:
    async with RawBackend(tell) as replica:
        router = await start_router(replica.url, response_timeout_seconds=0.3)
        async with connected(router) as client:
            await client.send(POST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")
            assert (await client.response())[0] == 100
            status, head, _ = await client.response()
            assert (status, b"connection: close" in head) == (408, True)
            assert await client.rest() == b""
        await slots_are_free(router)


async def test_an_old_client_is_not_told_to_continue(telling: tuple[RawBackend, RunningRouter]) -> None:
    _, router = telling
    async with connected(router) as client:
        await client.send(b"POST /old HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello")
        assert (await client.response())[2] == b"POST /old|hello"


# Replicas


@pytest.mark.parametrize("delay_seconds", [0.0, 0.02])
@pytest.mark.parametrize(
    ("method", "head"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n"),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 40\r\n\r\n"),
        (b"GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        (b"GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ],
    ids=lambda value: repr(value)[2:40],
)
async def test_surplus_bytes_of_a_replica_reach_no_client(
    start_router: StartRouter, method: bytes, head: bytes, delay_seconds: float
) -> None:
    async def say_too_much(request: bytes, reader: Reader, writer: Writer) -> None:
        if b"/mine" in request:
            await tell(request, reader, writer)
            return
        extra = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen"
        writer.write(head if delay_seconds else head + extra)
        await asyncio.sleep(delay_seconds)
        if delay_seconds:
            writer.write(extra)

    async with RawBackend(say_too_much) as replica:
        router = await start_router(replica.url)
        for _ in range(5):
            async with connected(router) as one, connected(router) as other:
                await one.send(method + b" /one HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                answer = await one.rest()
                assert answer.startswith(head[:12])
                assert b"stolen" not in answer
                await asyncio.sleep(delay_seconds * 2)
                await other.send(b"GET /mine HTTP/1.1\r\nHost: a\r\n\r\n")
                assert (await other.response())[2] == b"GET /mine|"


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 40\r\n\r\n"]
)
async def test_a_connection_is_not_reused_after_a_response_without_body(start_router: StartRouter, head: bytes) -> None:
    connections: set[Writer] = set()

    async def answer(request: bytes, reader: Reader, writer: Writer) -> None:
        connections.add(writer)
        writer.write(head)

    async with RawBackend(answer) as replica:
        router = await start_router(replica.url)
        for _ in range(3):
            async with connected(router) as client:
                await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                await client.rest()
        assert len(connections) == 3


async def test_after_an_early_answer_the_rest_is_not_sent(start_router: StartRouter) -> None:
    writers: list[Writer] = []

    async def answer_early(head: bytes, reader: Reader, writer: Writer) -> None:
        writers.append(writer)
        if b"/mine" in head:
            await tell(head, reader, writer)
        else:
            writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
            await asyncio.sleep(60)

    async with RawBackend(answer_early) as replica:
        router = await start_router(replica.url)
        async with connected(router) as client, connected(router) as other:
            await client.send(POST + b"Content-Length: %d\r\n\r\n" % (len(STOLEN) + 1) + b"x")
            assert (await client.response())[0] == 413
            await other.send(b"GET /mine HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await other.response())[2] == b"GET /mine|"
            await client.send(STOLEN + b"GET /mine/too HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await client.response())[2] == b"GET /mine/too|"
        assert [head for head in replica.heads if b"/stolen" in head] == []
        assert len(set(writers)) >= 2


async def test_interim_responses_do_not_count_as_the_response(start_router: StartRouter) -> None:
    async def interim_first(head: bytes, reader: Reader, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        await tell(head, reader, writer)

    async with RawBackend(interim_first) as replica:
        router = await start_router(replica.url)
        async with connected(router) as client:
            for n in (b"1", b"2"):
                await client.send(b"GET /" + n + b" HTTP/1.1\r\nHost: a\r\n\r\n")
                assert (await client.response())[2] == b"GET /" + n + b"|"


async def test_a_replica_that_switches_protocols_unasked_has_failed(start_router: StartRouter) -> None:
    async def switch(head: bytes, reader: Reader, writer: Writer) -> None:
        if b"/mine" in head:
            await tell(head, reader, writer)
        else:
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\nstolen")

    async with RawBackend(switch) as replica:
        router = await start_router(replica.url)
        async with connected(router) as client:
            await client.send(b"GET /one HTTP/1.1\r\nHost: a\r\n" + OFFERS["h2c"] + b"\r\n")
            assert (await client.response())[0] == 502
            await client.send(b"GET /mine HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await client.response())[2] == b"GET /mine|"


async def test_a_response_with_a_length_beside_chunks_is_refused(start_router: StartRouter) -> None:
    async def both(head: bytes, reader: Reader, writer: Writer) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
        )

    async with RawBackend(both) as replica:
        router = await start_router(replica.url)
        async with connected(router) as client:
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await client.response())[0] == 502


@pytest.mark.parametrize("stray", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen"])
async def test_a_connection_with_unread_bytes_is_not_reused(stray: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        pools = ReplicaConnections(RouterConfig(), TlsContexts(RouterConfig()))
        replica = Replica(ReplicaEndpoint(url))
        first = await pools.take(replica)
        with listener.accept()[0] as peer:
            client = ClientConnection(Site(lambda _: None, Limits(60, 60)))
            request = Exchange(client, "GET", b"/", "1.1", [], body_length=0, keep_alive=True)
            exchanging = asyncio.create_task(first.exchange(request, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", request))
            peer.setblocking(False)
            await asyncio.wait_for(asyncio.get_running_loop().sock_recv(peer, 1000), SECONDS)
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await asyncio.wait_for(exchanging, SECONDS)
            assert first.status == 200
            pools.give_back(replica, first)
            if stray:
                peer.sendall(stray)
                select.select(
                    [first._transport.get_extra_info("socket")], [], [], SECONDS
                )  # the event loop has no turn
            other = await pools.take(replica)
            assert (other is first) is (not stray)
            other.abort()
            pools.close()


def fail(*arguments: object) -> None:
    raise RuntimeError("as the test wants it")


@pytest.mark.parametrize("step", ["send", "end_request"])
async def test_a_body_that_cannot_be_sent_ends_the_connection(
    router: RunningRouter, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(ReplicaConnection, step, fail)
        async with connected(router) as client:
            head = b"POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            await client.send(head + b"5\r\nhello\r\n", b"0\r\n\r\n")
            assert (await client.rest())[:13] in (b"", b"HTTP/1.1 500 ")
    await slots_are_free(router)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 600 Odd\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 999 Odd\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 099 Odd\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX: a\x01b\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX: a\x7fb\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX: a\x0cb\r\nContent-Length: 2\r\n\r\nok",
    ],
)
async def test_a_response_that_cannot_be_passed_on_becomes_502(start_router: StartRouter, head: bytes) -> None:
    async def answer(request: bytes, reader: Reader, writer: Writer) -> None:
        writer.write(head)

    async with RawBackend(answer) as replica:
        router = await start_router(replica.url)
        async with connected(router) as client:
            for method in (b"GET", b"POST"):
                await client.send(method + b" / HTTP/1.1\r\nHost: a\r\n\r\n")
                status, _, body = await client.response()
                assert (status, json.loads(body)["code"]) == (502, "worker_failed")
        await slots_are_free(router)
