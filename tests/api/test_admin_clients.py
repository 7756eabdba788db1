"""Clients of the admin address that do not go on: they cost nothing for long, and keep nobody out."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from shared_registry.api import answers, connection, event_stream, live_data
from shared_registry.embedded import EmbeddedServer
from tests.proxy.conftest import SECONDS
from tests.support.shown_fleet import shown_fleet
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")
SHORT_SECONDS = 0.2
LONG_SECONDS = 10 * SECONDS
"""For the limits that a test is not about."""
SCRIPT = b"GET /dashboard.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
EVENTS = b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"
STATUS = b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "REQUEST_SECONDS", LONG_SECONDS)
    monkeypatch.setattr(connection, "ACCEPT_SECONDS", LONG_SECONDS)


@pytest.mark.parametrize(
    "sent",
    [b"", STATUS[:20], STATUS + STATUS[:20], b"POST" + STATUS[3:-2] + b"Content-Length: 9\r\n\r\n"],
    ids=["nothing", "half a request", "half a second request", "no body"],
)
async def test_clients_without_a_request_are_disconnected(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(connection, "REQUEST_SECONDS", SHORT_SECONDS)
    async with shown_fleet(server.url, 1) as fleet, asyncio.timeout(SECONDS):
        url = httpx.URL(fleet.router.admin_url)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(sent)
        with contextlib.closing(writer), contextlib.suppress(ConnectionError):  # it may not even have read `sent`
            await reader.read()


async def test_a_client_that_accepts_nothing_is_disconnected(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "ACCEPT_SECONDS", SHORT_SECONDS)
    async with shown_fleet(server.url, 1) as fleet:
        with _socket_to(fleet.router.admin_url) as client:
            await until(lambda: _is_open_to(client), "it is accepted")
            with _ends_of(client) as [end]:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            client.sendall(SCRIPT * 16)
            await until(lambda: not _is_open_to(client), "it is disconnected")


@pytest.mark.parametrize("kind", [b"X-Long: ", b"Content-Length: 1000000000\r\n\r\n"], ids=["a header", "a body"])
async def test_a_client_with_an_endless_request_is_disconnected(server: EmbeddedServer, kind: bytes) -> None:
    async with shown_fleet(server.url, 1) as fleet, asyncio.timeout(SECONDS / 2):
        url = httpx.URL(fleet.router.admin_url)
        _, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(STATUS[:-2] + kind)
        with contextlib.closing(writer), contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"x" * 65_536)
                await writer.drain()
                await asyncio.sleep(0)


async def test_a_client_that_asks_without_end_is_disconnected(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[object] = []
    make = RequestResponseCycle.__init__

    def counted(cycle: RequestResponseCycle, *args: Any, **named: Any) -> None:
        made.append(cycle)
        make(cycle, *args, **named)

    monkeypatch.setattr(RequestResponseCycle, "__init__", counted)
    async with shown_fleet(server.url, 1) as fleet, asyncio.timeout(SECONDS / 2):
        url = httpx.URL(fleet.router.admin_url)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        made.clear()
        with contextlib.closing(writer), contextlib.suppress(ConnectionError):
            writer.write(STATUS * 1000)
            await reader.read()
        assert 1 < len(made) < 100, "the rest was not even read"


async def test_a_client_may_ask_several_times_at_once(server: EmbeddedServer) -> None:
    async with shown_fleet(server.url, 1) as fleet, asyncio.timeout(SECONDS / 2):
        url = httpx.URL(fleet.router.admin_url)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        with contextlib.closing(writer):
            for _ in range(3):
                writer.write(STATUS * connection.MOST_AT_ONCE)
                for _ in range(connection.MOST_AT_ONCE):
                    head = await reader.readuntil(b"\r\n\r\n")
                    assert head.startswith(b"HTTP/1.1 200 ")
                    [length] = re.findall(rb"content-length: (\d+)", head)
                    await reader.readexactly(int(length))


@pytest.mark.parametrize("more", [b"", STATUS], ids=["one request", "a request behind it"])
async def test_a_dashboard_that_has_gone_frees_its_place(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, more: bytes
) -> None:
    monkeypatch.setattr(live_data, "MOST_CLIENTS", 1)
    monkeypatch.setattr(live_data, "SILENT_SECONDS", 0.0)
    async with shown_fleet(server.url, 1) as fleet:
        url = httpx.URL(fleet.router.admin_url)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        with contextlib.closing(writer):
            writer.write(EVENTS + more)
            await reader.readuntil(b"event: snapshot")
        await until(lambda: has_place(fleet.router.admin_url), "the place is free")


async def test_a_dashboard_that_is_not_read_loses_its_place(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "SEND_SECONDS", LONG_SECONDS)
    monkeypatch.setattr(live_data, "MOST_CLIENTS", 1)
    monkeypatch.setattr(live_data, "SILENT_SECONDS", 0.0)
    async with shown_fleet(server.url, 1) as fleet:
        with _socket_to(fleet.router.admin_url) as client:
            await until(lambda: _is_open_to(client), "it is accepted")
            with _ends_of(client) as [end]:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            client.sendall(EVENTS)
            await until(lambda: is_taken(fleet.router.admin_url), "its place is taken")
            monkeypatch.setattr(live_data, "PERIOD_SECONDS", 0.005)  # not before: it would lose its place at once
            await until(lambda: has_place(fleet.router.admin_url), "its place is free")
            assert _is_open_to(client), "it was not the connection that ended"


async def has_place(url: str) -> bool:
    """Return whether another dashboard finds a place."""
    async with httpx.AsyncClient(trust_env=False, timeout=SECONDS) as http, http.stream("GET", f"{url}/events") as got:
        return got.status_code == 200


async def is_taken(url: str) -> bool:
    return not await has_place(url)


def _socket_to(url: str) -> socket.socket:
    """Return a connection that can hold little that was not read."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect((httpx.URL(url).host, httpx.URL(url).port))
    return client


@contextlib.contextmanager
def _ends_of(client: socket.socket) -> Iterator[list[socket.socket]]:
    """Yield a copy of the other end of a connection within this process, or nothing if it is closed."""
    with contextlib.ExitStack() as stack:
        found = []
        for entry in list(os.scandir("/proc/self/fd")):
            with contextlib.suppress(OSError):
                if str(Path(entry.path).readlink()).startswith("socket:"):
                    one = stack.enter_context(socket.socket(fileno=os.dup(int(entry.name))))
                    if one.family == socket.AF_INET and one.getpeername() == client.getsockname():
                        found.append(one)
        yield found


def _is_open_to(client: socket.socket) -> bool:
    with _ends_of(client) as ends:
        return bool(ends)


async def test_a_path_that_is_not_ascii_is_explained(server: EmbeddedServer) -> None:
    async with shown_fleet(server.url, 1) as fleet, asyncio.timeout(SECONDS):
        url = httpx.URL(fleet.router.admin_url)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        with contextlib.closing(writer):
            writer.write("GET /v1/replicas/gpü HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 400 ")
            assert b"Percent-encode" in answer


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_a_stop_ends_streams_without_a_word(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, version: bytes
) -> None:
    monkeypatch.setattr(answers, "STOP_SECONDS", int(SECONDS))  # uvicorn logs what it has to cancel
    async with contextlib.AsyncExitStack() as stack:
        async with shown_fleet(server.url, 1) as fleet, asyncio.timeout(SECONDS):
            url = httpx.URL(fleet.router.admin_url)
            reader, writer = await asyncio.open_connection(url.host, url.port)
            stack.enter_context(contextlib.closing(writer))
            writer.write(b"GET /v1/events/stream HTTP/" + version + b"\r\nHost: localhost\r\n\r\n")
            await reader.readuntil(b": no events\n")
        async with asyncio.timeout(SECONDS):
            rest = await reader.read()
    assert rest.endswith(connection.LAST_CHUNK) == (version == b"1.1")
    assert [record.getMessage() for record in caplog.records if record.name.startswith("uvicorn")] == []


async def test_wrong_requests_write_no_lines(server: EmbeddedServer, caplog: pytest.LogCaptureFixture) -> None:
    upgrade = STATUS[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    async with shown_fleet(server.url, 1) as fleet, asyncio.timeout(SECONDS):
        url = httpx.URL(fleet.router.admin_url)
        for sent, status in ((b"nonsense\r\n\r\n", b"400"), (upgrade, b"200")):
            reader, writer = await asyncio.open_connection(url.host, url.port)
            with contextlib.closing(writer):
                writer.write(sent)
                assert (await reader.readline()).split()[1] == status
    assert [record for record in caplog.records if record.name.startswith("uvicorn")] == []


@pytest.mark.parametrize(
    ("path", "first"),
    [(b"/events", b"event: snapshot\n"), (b"/v1/events/stream", b": no events\n"), (b"/healthz", b"{")],
)
async def test_http_1_0_gets_no_chunks(server: EmbeddedServer, path: bytes, first: bytes) -> None:
    async with shown_fleet(server.url, 1) as fleet, asyncio.timeout(SECONDS):
        url = httpx.URL(fleet.router.admin_url)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        with contextlib.closing(writer):
            writer.write(b"GET " + path + b" HTTP/1.0\r\nHost: localhost\r\n\r\n")
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            assert head.startswith(b"http/1.1 200 ")
            assert b"\r\nconnection: close\r\n" in head
            assert b"transfer-encoding" not in head
            assert await reader.readexactly(len(first)) == first
            if path == b"/healthz":
                assert (await reader.read()).endswith(b"}")


@pytest.mark.parametrize("headers", [{}, {"Connection": "Upgrade", "Upgrade": "h2c"}], ids=["plain", "an upgrade"])
async def test_a_dashboard_that_is_read_stays(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
) -> None:
    monkeypatch.setattr(live_data, "SILENT_SECONDS", 0.0)
    for name in ("REQUEST_SECONDS", "ACCEPT_SECONDS"):
        monkeypatch.setattr(connection, name, 1.0)
    async with (
        shown_fleet(server.url, 1) as fleet,
        asyncio.timeout(SECONDS),
        httpx.AsyncClient(trust_env=False, timeout=SECONDS) as http,
        http.stream("GET", f"{fleet.router.admin_url}/events", headers=headers) as answer,
    ):
        pieces = answer.aiter_lines()
        begun = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() < begun + 2.0:
            await anext(pieces)


async def test_nothing_answers_after_a_hasty_stop(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "STOP_SECONDS", -answers.MARGIN_SECONDS)  # no time at all
    before = asyncio.all_tasks()
    with contextlib.ExitStack() as stack:
        async with shown_fleet(server.url, 1) as fleet:
            client = stack.enter_context(_socket_to(fleet.router.admin_url))
            await until(lambda: _is_open_to(client), "it is accepted")
            with _ends_of(client) as [end]:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            others = asyncio.all_tasks()
            client.sendall(SCRIPT * 16)
            await until(lambda: asyncio.all_tasks() - others, "it is answered")
        assert asyncio.all_tasks() <= before
