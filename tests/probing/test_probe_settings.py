"""What probes ask by their settings, of real servers: methods, headers, bodies, ports, TCP and WebSockets."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request
from websockets.http11 import Response as HandshakeResponse

from shared_registry.config import RouterConfig
from shared_registry.probing import Evidence, HttpProber, guarded
from shared_registry.probing.connection import BODY_LIMIT
from tests.support.scripted_server import LONG, OK, SHORT, Peer, answer_all, scripted, stay_silent
from tests.support.until import until


def prober_of(**settings: Any) -> HttpProber:
    return HttpProber(RouterConfig(**{f"health_check_{name}": value for name, value in settings.items()}))


async def test_a_request_is_what_the_settings_say() -> None:
    headers = {"host": "replica.internal", "Authorization": "Bearer a b", "accept": "text/plain", "X-Empty": ""}
    async with scripted(answer_all) as server, prober_of(headers=headers, method="OPTIONS") as prober:
        assert (await prober(f"{server.url}/ready?x=1", timeout=LONG))[1] is None
    lines = server.requests[0].decode().split("\r\n")
    assert lines[0] == "OPTIONS /ready?x=1 HTTP/1.1"
    assert sorted(line for line in lines[1:] if line and not line.startswith("User-Agent")) == [
        "Authorization: Bearer a b",
        "Connection: keep-alive",
        "X-Empty: ",
        "accept: text/plain",
        "host: replica.internal",
    ]


async def test_a_body_is_sent_with_its_length() -> None:
    bodies: list[bytes] = []

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            bodies.append(await peer._reader.readexactly(len("{größe}".encode())))
            await peer.send(OK)

    settings = {"method": "POST", "request_body": "{größe}", "headers": {"Content-Type": "application/json"}}
    async with scripted(script) as server, prober_of(**settings) as prober:
        for _ in range(3):
            assert (await prober(f"{server.url}/v1/infer", timeout=LONG))[1] is None
    assert bodies == ["{größe}".encode()] * 3
    assert server.accepted == 1, "the body ends where it should"
    assert b"\r\nContent-Length: 9\r\n" in server.requests[0]
    assert b"\r\nContent-Type: application/json\r\n" in server.requests[0]


async def test_a_response_to_head_has_no_body() -> None:
    async def script(peer: Peer) -> None:
        while True:
            assert (await peer.request()).startswith(b"HEAD ")
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")

    async with scripted(script) as server, prober_of(method="HEAD") as prober:
        for _ in range(3):
            assert (await prober(f"{server.url}/health", timeout=LONG))[1] is None
    assert server.accepted == 1


async def test_other_statuses_and_bodies_may_be_a_success() -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n")
            await peer.send(b"3\r\nnow\r\n4\r\n fit\r\n0\r\n\r\n")

    async with scripted(script) as server:
        async with prober_of(statuses="404", expect_text="now fit", expect_pattern="f.t$") as prober:
            assert (await prober(f"{server.url}/health", timeout=LONG))[1] is None
        async with prober_of(statuses="200-299") as prober:
            assert (await prober(f"{server.url}/health", timeout=LONG))[1] == "HTTP 404, expected 200-299"
        async with prober_of(statuses="404", expect_text="unfit") as prober:
            error = (await prober(f"{server.url}/health", timeout=LONG))[1]
            assert error == "body: 'now fit', expected the text 'unfit'"


async def test_a_slow_or_endless_body_is_bounded() -> None:
    async def slow(peer: Peer) -> None:
        await peer.request()
        await peer.drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", again=b"1\r\nx\r\n")

    async def endless(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await peer.send(b"10000\r\n" + b"x" * 65536 + b"\r\n")

    async with scripted(slow) as server, prober_of(expect_text="ready") as prober:
        assert (await prober(f"{server.url}/", timeout=SHORT))[1] == (
            f"timeout after {SHORT}s while waiting for the response"
        )
    async with scripted(endless) as server, prober_of(expect_text="ready") as prober:
        error = (await prober(f"{server.url}/", timeout=LONG))[1]
        assert error is not None
        assert error.endswith(f"expected the text 'ready' in the first {BODY_LIMIT} bytes")


# TCP.


async def test_tcp_needs_a_listener_and_nothing_else() -> None:
    async with scripted(stay_silent) as server, prober_of(type="tcp") as prober:
        for _ in range(3):
            outcome = await guarded(prober, f"{server.url}/health", LONG)
            assert (outcome.evidence, outcome.address) == (Evidence.OK, "127.0.0.1")
        await until(lambda: (server.accepted, server.open) == (3, 0))
    assert (await guarded_once(f"{server.url}/health", type="tcp")).error == "ConnectError: connection refused"


async def test_tcp_to_a_server_that_greets_first() -> None:
    async def greet(peer: Peer) -> None:
        await peer.send(b"220 ready\r\n")
        await peer.gone()

    async with scripted(greet) as server:
        assert (await guarded_once(server.url, type="tcp")).evidence is Evidence.OK
        await until(lambda: server.open == 0)


async def guarded_once(url: str, timeout: float = LONG, **settings: Any) -> Any:
    async with prober_of(**settings) as prober:
        return await guarded(prober, url, timeout)


# WebSockets.


def accept_of(request: bytes) -> bytes:
    [key] = [line[19:] for line in request.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key: ")]
    return base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())


def switch(accept: bytes, *, to: bytes = b"websocket") -> bytes:
    head = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\nSec-WebSocket-Accept: %s\r\n\r\n"
    return head % (to, accept)


async def test_a_websocket_that_answers_a_ping_is_healthy() -> None:
    closed: list[int | None] = []

    async def echo(connection: ServerConnection) -> None:
        await connection.send("hello")
        await connection.send(b"x" * 1000)
        async for _ in connection:
            pass
        closed.append(connection.close_code)

    async with serve(echo, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with prober_of(type="websocket", headers={"X-Probe": "1"}) as prober:
            for _ in range(3):
                outcome = await guarded(prober, f"http://127.0.0.1:{port}/v1/stream", LONG)
                assert (outcome.error, outcome.address) == (None, "127.0.0.1")
            await until(lambda: closed == [1000] * 3)


async def test_a_dead_websocket_path_beside_a_live_page_is_found() -> None:
    async def half_dead(connection: ServerConnection, request: Request) -> HandshakeResponse | None:
        return connection.respond(200 if request.path == "/health" else 500, "x")

    async with serve(lambda _: asyncio.sleep(0), "127.0.0.1", 0, process_request=half_dead) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        assert (await guarded_once(f"{url}/health")).evidence is Evidence.OK
        outcome = await guarded_once(f"{url}/v1/stream", type="websocket")
        assert outcome.error == "HTTP 500, expected a WebSocket (HTTP 101)"
        assert (await guarded_once(f"{url}/health", type="websocket")).error == (
            "HTTP 200, expected a WebSocket (HTTP 101)"
        )


Answer = Callable[[Peer, bytes], Awaitable[None]]


def sending(make: Callable[[bytes], bytes], *, stays: bool = False) -> Answer:
    async def answer(peer: Peer, request: bytes) -> None:
        await peer.send(make(request))
        if stays:
            await peer.gone()

    return answer


def flood(frame: bytes) -> Answer:
    async def answer(peer: Peer, request: bytes) -> None:
        await peer.send(switch(accept_of(request)))
        while True:
            await peer.send(frame * 1000)

    return answer


def accepted_then(data: bytes, *, stays: bool = True) -> Answer:
    return sending(lambda request: switch(accept_of(request)) + data, stays=stays)


INVALID = "WebSocket: the replica sent an invalid frame"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (sending(lambda _: switch(b"AAAA")), "WebSocket: the response has a wrong Sec-WebSocket-Accept"),
        (sending(lambda r: switch(accept_of(r), to=b"h2c")), "WebSocket: the response upgrades to something else"),
        (accepted_then(b"", stays=False), "WebSocket: the connection ended without an answer to a ping"),
        (accepted_then(b"\x88\x00"), "WebSocket: closed by the replica"),
        (accepted_then(b"\x88\x0a\x03\xf5tryagain"), "WebSocket: closed by the replica with 1013 'tryagain'"),
        (accepted_then(b"\x8a\x02no"), f"timeout after {SHORT}s while waiting for the WebSocket"),
        (accepted_then(b"\x82\xff" + b"\x00" * 8), INVALID),
        (accepted_then(b"\xc1\x00"), INVALID),
        (accepted_then(b"\x83\x00"), INVALID),
        (accepted_then(b"\x8a\x7e\x00\x7e"), INVALID),
        (accepted_then(b"\x09\x00"), INVALID),
        (accepted_then(b"\x82\x7f" + b"\xff" * 8), f"timeout after {SHORT}s while waiting for the WebSocket"),
        (flood(b"\x81\x03abc"), f"WebSocket: no answer to a ping in the first {BODY_LIMIT} bytes"),
        (flood(b"\x82\x7f" + b"\xff" * 8), f"WebSocket: no answer to a ping in the first {BODY_LIMIT} bytes"),
        (
            sending(lambda _: b"HTTP/1.1 101\r\n\r\n"),
            "RemoteProtocolError: its response 101 does not name the new protocol",
        ),
        (sending(lambda _: b""), "RemoteProtocolError: server disconnected without sending a response"),
        (sending(lambda _: OK), "HTTP 200, expected a WebSocket (HTTP 101)"),
    ],
)
async def test_a_websocket_that_does_not_work_is_told_apart(answer: Answer, error: str) -> None:
    async def script(peer: Peer) -> None:
        await answer(peer, await peer.request())

    async with scripted(script) as server:
        timeout = SHORT if error.startswith("timeout") else LONG
        assert (await guarded_once(f"{server.url}/ws", timeout, type="websocket")).error == error
        await until(lambda: server.open == 0)


async def test_a_pong_among_messages_in_pieces_is_found() -> None:
    async def script(peer: Peer) -> None:
        await peer.send(switch(accept_of(await peer.request())))
        ping = await peer._reader.readexactly(2 + 4 + 8)
        mask, payload = ping[2:6], ping[6:]
        pong = b"\x8a\x08" + bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
        fragments = b"\x01\x02he" + b"\x8a\x00" + b"\x82\x7e\x01\x00" + b"x" * 256 + b"\x80\x03llo"
        for byte in fragments + pong:
            await peer.send(bytes([byte]))
        assert await peer._reader.readexactly(2) == b"\x88\x82", "a masked close frame"
        await peer.gone()

    async with scripted(script) as server:
        outcome = await guarded_once(f"{server.url}/ws", type="websocket")
        assert outcome.error is None
        await until(lambda: server.open == 0)


async def test_ipv6_for_every_type() -> None:
    with socket.socket(socket.AF_INET6) as listener:
        try:
            listener.bind(("::1", 0))
        except OSError as error:
            pytest.skip(f"no IPv6 here: {error}")

    async def echo(connection: ServerConnection) -> None:
        await connection.wait_closed()

    async with serve(echo, "::1", 0) as server:
        url = f"http://[::1]:{server.sockets[0].getsockname()[1]}/ws"
        for kind in ("tcp", "websocket"):
            outcome = await guarded_once(url, type=kind)
            assert (outcome.error, outcome.address) == (None, "::1")
