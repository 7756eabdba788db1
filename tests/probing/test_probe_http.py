"""Probes over real sockets: what is asked, and what becomes of every kind of answer."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from typing import Literal

import pytest

from shared_registry._version import __version__
from shared_registry.config import RouterConfig
from shared_registry.probing import HttpProber, guarded
from shared_registry.probing import guard as guard_module
from shared_registry.probing.connection import BODY_LIMIT
from shared_registry.probing.text import MAX_ERROR_LENGTH
from tests.support.replica_server import ReplicaServer
from tests.support.scripted_server import LONG, OK, SHORT, Peer, Script, answer_all, scripted, stay_silent
from tests.support.until import until


def dripping(head: bytes, again: bytes = b"") -> Script:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.drip(head, again=again)

    return script


async def test_the_request_is_exactly_as_documented() -> None:
    async with scripted(answer_all) as server, HttpProber() as prober:
        latency_ms, error = await prober(f"{server.url}/health?deep=1 é", timeout=LONG)
    assert error is None
    assert 0 < latency_ms < LONG * 1000
    assert server.requests[0].decode().split("\r\n") == [
        "GET /health?deep=1%20%C3%A9 HTTP/1.1",
        f"Host: {server.url.removeprefix('http://')}",
        f"User-Agent: shared-registry-probe/{__version__}",
        "Accept: */*",
        "Connection: keep-alive",
        "",
        "",
    ]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (200, None),
        (204, None),
        (301, None),
        (304, None),
        (399, None),
        (400, "HTTP 400"),
        (404, "HTTP 404"),
        (500, "HTTP 500"),
        (503, "HTTP 503"),
        (999, "HTTP 999"),
    ],
)
async def test_the_status_decides_about_success(status: int, error: str | None) -> None:
    body = b"" if status in (204, 304) else b"Content-Length: 2\r\n\r\n{}"
    response = b"HTTP/1.1 %d -\r\nLocation: /elsewhere\r\n" % status + (body or b"\r\n")

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(response)

    async with scripted(script) as server, HttpProber() as prober:
        for _ in range(3):
            assert (await prober(f"{server.url}/health", timeout=LONG))[1] == error
    assert server.accepted == (3 if error else 1), "a failing replica must show that it accepts connections"
    assert all(request.startswith(b"GET /health ") for request in server.requests), "a redirect was followed"
    assert len(server.requests) == 3


async def test_a_port_without_a_listener_is_a_failure() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        async with HttpProber() as prober:
            latency_ms, error = await prober(f"http://127.0.0.1:{reserved.getsockname()[1]}/health", timeout=LONG)
    assert error == "ConnectError: connection refused"
    assert latency_ms > 0


async def test_a_name_that_does_not_resolve_is_a_failure() -> None:
    async with HttpProber() as prober:
        _, error = await prober("http://no-such-host.invalid:8000/health", timeout=LONG)
    assert error is not None
    assert error.startswith("ConnectError: ")
    assert "name" in error


@pytest.mark.parametrize(
    ("script", "activity"),
    [
        (stay_silent, "waiting for the response"),
        (dripping(b"HTTP/1.1 200 OK\r\n", b"x: y\r\n"), "waiting for the response"),
        (dripping(b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"), "waiting for the response"),
        (dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n", b"x"), "waiting for the response"),
        (dripping(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"), "waiting for the response"),
        (dripping(b"HTTP/1.1 503 -\r\n\r\n", b"x"), "waiting for the response"),
    ],
    ids=["silence", "slow headers", "slow interim responses", "slow body", "slow chunks", "slow body until close"],
)
async def test_a_slow_replica_gets_exactly_the_timeout(script: Script, activity: str) -> None:
    async with scripted(script) as server, HttpProber() as prober:
        started = time.perf_counter()
        latency_ms, error = await prober(f"{server.url}/health", timeout=SHORT)
        elapsed = time.perf_counter() - started
        assert error == f"timeout after {SHORT}s while {activity}"
        assert SHORT * 0.99 <= latency_ms / 1000 <= elapsed < LONG / 2
        await until(lambda: server.open == 0)


async def test_a_hanging_tls_handshake_is_ended_at_the_timeout() -> None:
    context = ssl.create_default_context()  # loading it would take from the probe's time
    async with scripted(stay_silent) as server, HttpProber(ssl_context=context) as prober:
        _, error = await prober(f"{server.url.replace('http', 'https')}/health", timeout=1.0)
        assert error == "timeout after 1.0s while connecting"
        await until(lambda: (server.accepted, server.open) == (1, 0))


@pytest.mark.parametrize(
    ("response", "error"),
    [
        (b"\x00\xff\x1b[31m nonsense\r\n\r\n", "RemoteProtocolError: illegal status line"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "RemoteProtocolError: illegal status line"),
        (b"\x15\x03\x01\x00\x02\x02\x50", "RemoteProtocolError: "),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
            "RemoteProtocolError: illegal header line: Invalid character in Content-Length",
        ),
        (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "RemoteProtocolError: illegal header line"),
        (b"HTTP/1.1 200 OK\r\nx: \x00" + b"y" * 5000 + b"\r\n\r\n", "RemoteProtocolError: illegal header line"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000, "RemoteProtocolError: the head of its response is too long"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nhello\r\n",
            "RemoteProtocolError: illegal chunk: Invalid character in chunk size",
        ),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", "RemoteProtocolError: "),
        (b"HTTP/1.1 20 OK\r\n\r\n", "RemoteProtocolError: illegal status line"),
        (b"RTSP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", "RemoteProtocolError: illegal status line"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "RemoteProtocolError: illegal header line",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "RemoteProtocolError: the transfer encoding of its response is not chunked",
        ),
    ],
)
async def test_a_response_that_is_not_http_is_one_printable_line(response: bytes, error: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(response)

    async with scripted(script) as server, HttpProber() as prober:
        _, found = await prober(f"{server.url}/health", timeout=LONG)
        assert found is not None
        assert found.startswith(error)
        assert found.isprintable()
        assert len(found) <= MAX_ERROR_LENGTH
        assert server.accepted == 1
        await until(lambda: server.open == 0)


@pytest.mark.parametrize(
    ("response", "error"),
    [
        (b"", "RemoteProtocolError: server disconnected without sending a response"),
        (b"HTTP/1.1 200 OK\r\nConte", "RemoteProtocolError: peer unexpectedly closed connection"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
            "RemoteProtocolError: peer closed connection without sending complete message body "
            "(received 3 bytes, expected 10)",
        ),
    ],
)
async def test_a_replica_that_closes_early_fails_the_probe(response: bytes, error: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(response)

    async with scripted(script) as server, HttpProber() as prober:
        assert (await prober(f"{server.url}/health", timeout=LONG))[1] == error
        assert server.accepted == 1, "only a connection used before may be retried"


async def test_a_replica_that_resets_the_connection_fails_the_probe() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        peer.reset()

    async with scripted(script) as server, HttpProber() as prober:
        assert (await prober(f"{server.url}/health", timeout=LONG))[1] == "ReadError: connection reset by peer"
        assert server.accepted == 1


@pytest.mark.parametrize(
    ("response", "connections"),
    [
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, 1),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", 1),
        (b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BODY_LIMIT + b"x" * BODY_LIMIT, 1),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", 3),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}", 3),
    ],
    ids=["after an interim response", "chunked", "the longest body", "until the end", "Connection: close"],
)
async def test_only_whole_responses_keep_the_connection(response: bytes, connections: int) -> None:
    async def script(peer: Peer) -> None:
        for _ in range(3 // connections):
            await peer.request()
            await peer.send(response)

    async with scripted(script) as server, HttpProber() as prober:
        for _ in range(3):
            assert (await prober(f"{server.url}/health", timeout=LONG))[1] is None
    assert server.accepted == connections


@pytest.mark.parametrize("body", [b"", b"ok"])
@pytest.mark.parametrize(
    ("method", "head"),
    [("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"), ("GET", b"HTTP/1.1 204 -\r\n\r\n")],
)
async def test_a_body_after_a_response_without_one_ends_the_connection(
    method: Literal["HEAD", "GET"], head: bytes, body: bytes
) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(head + body)

    async with scripted(script) as server, HttpProber(RouterConfig(health_check_method=method)) as prober:
        for _ in range(3):
            assert (await prober(f"{server.url}/health", timeout=LONG))[1] is None
    assert server.accepted == (3 if body else 1)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3b9aca00\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
    ],
    ids=["Content-Length", "chunked", "until close"],
)
async def test_a_huge_body_is_left_unread_and_its_connection_closed(head: bytes) -> None:
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(head)
        while True:
            await peer.send(b"x" * 65536)
            sent += 65536

    async with scripted(script) as server:
        async with HttpProber() as prober:
            for _ in range(2):
                assert (await prober(f"{server.url}/health", timeout=LONG))[1] is None
            await until(lambda: (server.accepted, server.open) == (2, 0))
        assert sent < 50_000_000, "kept reading"
        async with HttpProber(RouterConfig(health_check_expect={"status": "ok"})) as prober:
            _, error = await prober(f"{server.url}/health", timeout=LONG)
            assert error == f"body: longer than {BODY_LIMIT} bytes, expected a short JSON object"


async def test_replicas_are_probed_over_ipv6() -> None:
    try:
        server_context = scripted(answer_all, host="::1")
        async with server_context as server, HttpProber() as prober:
            assert (await prober(f"{server.url}/health", timeout=LONG))[1] is None
            assert f"\r\nHost: {server.url.removeprefix('http://')}\r\n".encode() in server.requests[0]
            assert server.requests[0].count(b"[::1]:") == 1
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.lower(), "http://127.0.0.1:9")
    async with scripted(answer_all) as server, HttpProber() as prober:
        assert (await prober(f"{server.url}/health", timeout=LONG))[1] is None


async def test_a_replica_can_report_readiness_in_the_body() -> None:
    async with ReplicaServer() as server, HttpProber(RouterConfig(health_check_expect={"status": "ready"})) as prober:
        server.replica().is_ready = False
        warming = await prober(f"{server.url()}/readyz", timeout=LONG)
        server.replica().is_ready = True
        ready = await prober(f"{server.url()}/readyz", timeout=LONG)
        server.replica().status = 503
        down = await prober(f"{server.url()}/health", timeout=LONG)
        assert server.replica().connections == 2, "a new one after the failure"
    assert warming[1] == "body: status is 'warming', expected 'ready'"
    assert ready[1] is None
    assert down[1] == "HTTP 503"


async def test_a_blocked_event_loop_is_not_the_replicas_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_module, "GRACE_SECONDS", 0.0)
    async with ReplicaServer() as server, HttpProber() as prober:
        url = f"{server.url()}/health"
        assert (await prober(url, timeout=LONG))[1] is None
        probe = asyncio.create_task(guarded(prober, url, SHORT))
        await asyncio.sleep(0)
        time.sleep(SHORT + 0.2)  # noqa: ASYNC251 - holding up the loop is the point
        assert (await probe).error is None
