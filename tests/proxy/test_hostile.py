"""Clients that mean harm, or know no better: they are refused, cut off, and never in anybody's way."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import pytest_asyncio
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from shared_registry.embedded import EmbeddedServer
from tests.proxy.conftest import SECONDS, RunningRouter, StartRouter, router_of_its_own
from tests.support.backend import CHUNK, Backend, RawBackend
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

Reader: TypeAlias = asyncio.StreamReader
Writer: TypeAlias = asyncio.StreamWriter
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"


async def answer_all(head: bytes, reader: Reader, writer: Writer) -> None:
    """Answer a request, and read no body: what follows the head would be taken for another request."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def replica_and_router(server: EmbeddedServer) -> AsyncIterator[tuple[RawBackend, RunningRouter]]:
    async with RawBackend(answer_all) as replica, router_of_its_own(server, replica.url) as router:
        yield replica, router


async def exchange(router: RunningRouter, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*router.address)
    try:
        writer.write(request)
        with contextlib.suppress(ConnectionError):
            return await asyncio.wait_for(reader.read(), SECONDS)
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize(
    "request_bytes",
    [
        POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + SMUGGLED,
        POST + b"Content-Length: 5\r\nContent-Length: 0\r\n\r\n" + SMUGGLED,
        POST + b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n",
        POST + b"Content-Length: 0, 0\r\n\r\n",
        POST + b"Content-Length: +5\r\n\r\nhello",
        POST + b"Content-Length: -1\r\n\r\n",
        POST + b"Content-Length: 0x5\r\n\r\nhello",
        POST + b"Content-Length: 5 5\r\n\r\nhello",
        POST + b"Content-Length: 99999999999999999999999999\r\n\r\n",
        POST + b"Content-Length : 5\r\n\r\nhello",
        POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding\r\n : chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\nhello\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n5\nhello\n0\n\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\rY: 2\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX y: 1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n: 1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n",
        b"GET / /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
        b"CONNECT 10.0.0.1:80 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
    ids=lambda value: repr(value)[2:60],
)
async def test_an_ambiguous_request_is_refused(
    replica_and_router: tuple[RawBackend, RunningRouter], request_bytes: bytes
) -> None:
    replica, router = replica_and_router
    replica.heads.clear()
    answer = await exchange(router, request_bytes)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert [head for head in replica.heads if b"smuggled" in head] == []


UPGRADE = (
    b"GET /v1/stream HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n"
)


HOSTS_THAT_ARE_NONE = [
    b"",
    b" ",
    b"a b",
    b"a/b",
    b"a?b",
    b"a#b",
    b"user@a",
    b"a,b",
    b"a, b",
    b"a:b",
    b"a:80:80",
    b":80",
    b"[::1",
    b"::1",
    b"[a]",
    b"[::1]a",
    b"<a>",
    b"a\\b",
    b"\xc3\xa4",
    b"http://a",
]
HOSTS = [
    b"a",
    b"a:",
    b"A.example.com.",
    b"my_service:8000",
    b"127.0.0.1:1",
    b"[::1]",
    b"[fe80::1%25eth0]:80",
    b"xn--4ca.example",
]


@pytest.mark.parametrize("host", HOSTS_THAT_ARE_NONE)
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_a_host_that_is_none_is_refused(
    replica_and_router: tuple[RawBackend, RunningRouter], version: bytes, host: bytes
) -> None:
    replica, router = replica_and_router
    replica.heads.clear()
    answer = await exchange(router, b"GET /x HTTP/%b\r\nHost: %b\r\n\r\n" % (version, host))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert not [head for head in replica.heads if b"/x" in head]


@pytest.mark.parametrize("host", [b"", b"user@a", b"a,b", b"a:b", b":80", b"[::1", b"[a]", b"<a>"])
async def test_a_url_without_a_host_is_refused(
    replica_and_router: tuple[RawBackend, RunningRouter], host: bytes
) -> None:
    request = b"GET http://%b/x HTTP/1.1\r\nHost: a\r\n\r\n" % host
    assert (await exchange(replica_and_router[1], request)).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("host", HOSTS)
async def test_every_host_is_passed_on(replica_and_router: tuple[RawBackend, RunningRouter], host: bytes) -> None:
    replica, router = replica_and_router
    for target in (b"/x", b"http://%b/x" % host):
        replica.heads.clear()
        request = b"GET %b HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % (target, host)
        assert (await exchange(router, request)).startswith(b"HTTP/1.1 200 ")
        assert [head for head in replica.heads if b"\r\nhost: %b\r\n" % host in head]


@pytest.mark.parametrize(
    "target", [b"/metrics/../v1/x", b"/metrics/%2e%2e/v1/x", b"/admin/..%2fv1/chat", b"/x%3f/../sleep"]
)
async def test_no_path_reaches_a_replica_by_a_detour(start_router: StartRouter, target: bytes) -> None:
    """A replica that takes `..` for a name, as Starlette does, would serve what lies below /metrics or /admin."""

    async def tell(request: Request) -> PlainTextResponse:
        return PlainTextResponse("secret")

    below = (
        Mount("/metrics", routes=[Route("/{rest:path}", tell)]),
        Mount("/admin", routes=[Route("/{rest:path}", tell)]),
    )
    async with Backend(routes=below) as replica:
        routes = [{"path": "/v1/*", "place": "any"}, {"path": "/x", "place": "any"}, {"path": "/*", "place": "none"}]
        router = await start_router(replica.url, routes=routes)
        answer = await exchange(router, b"GET %b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % target)
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert replica.scopes == []


@pytest.mark.parametrize(
    ("extra", "status"),
    [
        (b"Host: b\r\n", b"400"),
        (b"Content-Length: 5\r\n\r\nhello", b"400"),
        (b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n", b"400"),
        (b"Cookie: " + b"a" * 70_000 + b"\r\n", b"431"),
    ],
    ids=["two hosts", "a length", "chunks", "a long line"],
)
async def test_a_handshake_that_no_server_would_accept_is_refused(
    replica_and_router: tuple[RawBackend, RunningRouter], extra: bytes, status: bytes
) -> None:
    replica, router = replica_and_router
    replica.heads.clear()
    answer = await exchange(router, UPGRADE + extra + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert replica.heads == []


async def test_a_client_cannot_forge_its_address(
    replica_and_router: tuple[RawBackend, RunningRouter],
) -> None:
    replica, router = replica_and_router
    replica.heads.clear()
    said = b"Connection: close, X-Forwarded-For, Host, Content-Length\r\nX-Forwarded-For: 10.0.0.1\r\n"
    answer = await exchange(router, POST + said + b"Content-Length: 0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")
    [head] = replica.heads
    lines = head.split(b"\r\n")
    assert b"x-forwarded-for: 127.0.0.1" in lines
    assert b"host: a" in lines
    assert b"content-length: 0" in lines
    assert b"10.0.0.1" not in head


# Slow, long, and gone without a word


async def test_slow_senders_are_disconnected_and_delay_no_other_client(
    start_router: StartRouter, backend: Backend
) -> None:
    router = await start_router(backend.url, header_timeout_seconds=0.4)
    loop = asyncio.get_running_loop()

    async def trickle(first: bytes) -> tuple[bytes, float]:
        reader, writer = await asyncio.open_connection(*router.address)
        writer.write(first)
        begun = loop.time()
        reading = asyncio.create_task(reader.read())
        while not reading.done():
            with contextlib.suppress(ConnectionError, RuntimeError):  # the latter is uvloop's, after the end
                writer.write(b"a" if first else b"")
                await writer.drain()
            await asyncio.wait((reading,), timeout=0.05)
        writer.close()
        seconds = loop.time() - begun
        try:
            return reading.result(), seconds
        except ConnectionError:  # a byte that met the closed connection
            return b"", seconds

    heads = [b"", b"GET / HTTP/1.1\r\nHost: a\r\nX: ", b"GET /"] * 50
    trickling = [asyncio.create_task(trickle(head)) for head in heads]
    for _ in range(20):
        begun = loop.time()
        assert (await router.http.get("/")).status_code == 200
        assert loop.time() - begun < SECONDS
    for answer, seconds in await asyncio.gather(*trickling):
        assert answer.startswith(b"HTTP/1.1 408 ") or answer == b""
        assert seconds < SECONDS


async def test_a_kept_connection_has_the_same_bound(start_router: StartRouter, backend: Backend) -> None:
    router = await start_router(backend.url)
    reader, writer = await asyncio.open_connection(*router.address)
    writer.write(b"GET /answer?status=200&body=ok HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200 ")
    router.router.reload(dataclasses.replace(router.router.config, header_timeout_seconds=0.2))
    await asyncio.sleep(0.3)  # an idle one has not
    writer.write(b"GET / HTTP/1.1\r\nHost:")
    assert (await asyncio.wait_for(reader.read(), SECONDS)).startswith(b"HTTP/1.1 408 ")
    writer.close()


@pytest.mark.parametrize("piece", [b"X: " + b"a" * 1000 + b"\r\n", b"a" * 1000, b"X: 1\r\n" * 150])
async def test_an_endless_head_is_cut_off(replica_and_router: tuple[RawBackend, RunningRouter], piece: bytes) -> None:
    _, router = replica_and_router
    for is_ended in (True, False):
        answer = await exchange(router, b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n" + piece * 100 + b"\r\n\r\n" * is_ended)
        assert answer.startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 400 ")) or answer == b""


async def test_a_body_that_does_not_arrive_is_given_up(start_router: StartRouter, backend: Backend) -> None:
    router = await start_router(backend.url, response_timeout_seconds=0.2)
    answer = await exchange(router, POST + b"Content-Length: 10\r\n\r\nhello")
    assert answer.startswith(b"HTTP/1.1 408 ")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system has no such timeout")
async def test_peers_that_read_nothing_are_disconnected(start_router: StartRouter, backend: Backend) -> None:
    router = await start_router(backend.url, peer_timeout_seconds=1.0)

    async def never_read() -> None:
        async with dial(router, "?do=pour&messages=10000", max_queue=1, close_timeout=0.1):
            await asyncio.wait_for(backend.closes.get(), SECONDS)

    async def never_be_read() -> None:
        async with dial(router, "?do=stall") as client:
            with pytest.raises(ConnectionClosed) as caught:
                await asyncio.wait_for(send_for_ever(client), SECONDS)
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 1011

    await asyncio.gather(never_read(), never_be_read())


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
async def test_tcp_keepalive_finds_peers_that_vanish(router: RunningRouter, backend: Backend) -> None:
    async with dial(router) as client, router.http.stream("GET", "/events"):
        await client.send("hello")
        await client.recv()

        async def all_are_timed() -> bool:
            timed = [(_port(local), _port(remote)) for local, remote, timer in _sockets() if timer == "02"]
            from_clients = [local for local, _ in timed if local == router.address[1]]
            to_replicas = [remote for _, remote in timed if remote == backend.port]
            return len(from_clients) >= 2 and len(to_replicas) >= 2

        await until(all_are_timed, "keep-alive timers run on both sides of both sessions")


async def send_for_ever(client: ClientConnection) -> None:
    while True:
        await client.send(CHUNK)


def _sockets() -> list[tuple[str, str, str]]:
    """Return local and remote address of every TCP connection, and which timer runs on it; 02 is the keep-alive's."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [(local, remote, timer[:2]) for _, local, remote, _, _, timer, *_ in rows]


def _port(address: str) -> int:
    return int(address.rpartition(":")[2], 16)


def dial(router: RunningRouter, target: str = "", **options: Any) -> connect:
    return connect(f"{router.ws}/v1/stream{target}", **{"proxy": None, "compression": None, **options})
