"""Each request and each session leaves one line, however it ends, and the line says how."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias, get_args

import httpx
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from shared_registry.admin.operator import Operator
from shared_registry.aio.stop_signals import StopRequest
from shared_registry.config import RouterConfig
from shared_registry.embedded import EmbeddedServer
from shared_registry.errors import ConfigError
from shared_registry.proxy import log_file
from shared_registry.proxy import server as router_server
from shared_registry.proxy.access_log import LONGEST_PATH, AccessLog, shown_path
from shared_registry.proxy.access_record import Ended
from shared_registry.proxy.http import HttpProxy
from shared_registry.proxy.limits import Limits
from shared_registry.proxy.refusals import BAD, FULL
from shared_registry.proxy.site import Site
from tests.proxy.conftest import FAST, SECONDS, RunningRouter, StartProcess, StartRouter
from tests.proxy.test_framing import HANDSHAKE
from tests.support.backend import Backend, RawBackend
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

PAGE = Path(__file__).parents[2] / "docs" / "access-log.md"
ROUTES = '[{"path": "/any", "place": "any"}, {"path": "/denied", "place": "none"}, {"path": "/*", "place": "lease"}]'
NAMES = [
    "time",
    "request_id",
    "client",
    "method",
    "path",
    "protocol",
    "key",
    "place",
    "replica",
    "session_digest",
    "status",
    "close_code",
    "bytes_in",
    "bytes_out",
    "wait_ms",
    "first_byte_ms",
    "duration_ms",
    "attempts",
    "ended",
    "error",
]
Line: TypeAlias = dict[str, Any]
Reader: TypeAlias = asyncio.StreamReader
Writer: TypeAlias = asyncio.StreamWriter


class Logged:
    """A router with an access log in JSON, and the lines that are not about the test's own probing of its pages."""

    def __init__(self, start: StartRouter, path: Path) -> None:
        self._start = start
        self.path = path
        self.router: RunningRouter

    async def start(self, *replicas: str, **settings: Any) -> RunningRouter:
        log = {"access_log": "json", "access_log_file": str(self.path), "routes": ROUTES}
        self.router = await self._start(*replicas, **{**log, **settings})
        return self.router

    def lines(self) -> list[Line]:
        return [line for line in self.all() if line["place"] != "page"]

    def is_there(self) -> bool:
        return self.path.exists()

    def all(self) -> list[Line]:
        text = self.path.read_text() if self.path.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    async def line(self, **wanted: object) -> Line:
        """Wait for the one line, and return it; it must have what is wanted."""
        await until(self.lines, "a line is written")
        [line] = self.lines()
        assert {name: line[name] for name in wanted} == wanted
        return line


@pytest.fixture
def log(start_router: StartRouter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Logged:
    monkeypatch.setattr(log_file, "LAST_SECONDS", SECONDS)
    return Logged(start_router, tmp_path / "access.log")


@pytest_asyncio.fixture(loop_scope="module")
async def backend() -> AsyncIterator[Backend]:
    async with Backend() as backend:
        yield backend


@contextlib.asynccontextmanager
async def connected(router: RunningRouter, request: bytes) -> AsyncIterator[tuple[Reader, Writer]]:
    reader, writer = await asyncio.open_connection(*router.address)
    try:
        writer.write(request)
        yield reader, writer
    finally:
        writer.close()


async def rest(router: RunningRouter, request: bytes) -> bytes:
    async with connected(router, request) as (reader, _):
        with contextlib.suppress(ConnectionError):
            return await asyncio.wait_for(reader.read(), SECONDS)
    return b""


def stream(router: RunningRouter, query: str = "", **options: Any) -> connect:
    return connect(f"{router.ws}/v1/stream{query}", proxy=None, compression=None, **options)


async def closed(session: Any) -> None:
    with contextlib.suppress(ConnectionClosed):
        async with asyncio.timeout(SECONDS):
            while True:
                await session.recv()


def head(path: bytes = b"/x", *fields: bytes, method: bytes = b"POST") -> bytes:
    return b"\r\n".join((method + b" " + path + b" HTTP/1.1", b"Host: a", *fields, b"\r\n"))


# HTTP


async def test_a_served_request_is_told_whole(log: Logged, backend: Backend) -> None:
    router = await log.start(backend.url, session_key="query:sid")
    begun = datetime.now().astimezone()
    response = await router.http.post("/upload?sid=secret", content=b"x" * 100_000, headers={"X-Request-Id": "mine"})
    line = await log.line(
        request_id="mine",
        client="127.0.0.1",
        method="POST",
        path="/upload",
        protocol="http",
        place="lease",
        replica=backend.url,
        session_digest=hashlib.sha256(b"secret").hexdigest(),
        status=200,
        close_code=None,
        bytes_in=100_000,
        bytes_out=len(response.content),
        attempts=1,
        ended="done",
        error=None,
    )
    assert list(line) == NAMES
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    assert abs((datetime.fromisoformat(line["time"]) - begun).total_seconds()) < SECONDS
    assert 0 <= line["wait_ms"] <= line["first_byte_ms"] <= line["duration_ms"] < SECONDS * 1000
    assert "secret" not in log.path.read_text()


async def test_a_request_without_a_slot_is_told(log: Logged, backend: Backend) -> None:
    router = await log.start(backend.url)
    await router.http.get("/any")
    await log.line(place="any", replica=backend.url, status=200, ended="done", session_digest=None)


async def test_a_request_for_an_own_page_is_told(log: Logged, backend: Backend) -> None:
    router = await log.start(backend.url)
    await router.http.get("/metrics")
    found: list[Line] = []

    def is_told() -> bool:
        found[:] = [line for line in log.all() if line["path"] == "/metrics"]
        return bool(found)

    await until(is_told, "the page's line is written")
    [line] = found
    assert (line["place"], line["status"], line["ended"], line["replica"]) == ("page", 404, "done", None)


async def test_a_response_of_the_replica_keeps_its_status(log: Logged, backend: Backend) -> None:
    router = await log.start(backend.url)
    await router.http.post("/answer?status=418&body=tea")
    await log.line(status=418, ended="done", error=None, bytes_out=3)


async def test_a_wait_for_a_slot_is_told(log: Logged, backend: Backend) -> None:
    router = await log.start(is_awaited=False, queue_timeout_seconds=0.5)
    assert (await router.http.post("/x")).status_code == 503
    line = await log.line(status=503, ended="refused", error="gpu_unavailable", attempts=0, replica=None)
    assert line["duration_ms"] >= 400
    assert line["wait_ms"] is None


async def test_a_client_that_leaves_is_told(log: Logged, backend: Backend) -> None:
    router = await log.start(backend.url)
    async with connected(router, head(b"/wait")):
        await until(lambda: backend.scopes, "the replica has the request")
    await log.line(status=None, ended="client_left", replica=backend.url, first_byte_ms=None)


async def test_a_client_that_leaves_during_the_response_is_told(log: Logged, backend: Backend) -> None:
    router = await log.start(backend.url)
    backend.events.put_nowait("one")
    async with connected(router, head(b"/events", method=b"GET")) as (reader, _):
        await reader.readuntil(b"data: one")
    await log.line(status=200, ended="client_left", bytes_out=len("data: one\n\n"))


async def test_a_body_that_does_not_arrive_is_told(log: Logged, backend: Backend) -> None:
    router = await log.start(backend.url, response_timeout_seconds=0.2)
    assert b" 408 " in await rest(router, head(b"/upload", b"Content-Length: 9") + b"abc")
    await log.line(status=408, ended="client_silent", error="request_timeout", bytes_in=3)


async def answer_nothing(head: bytes, reader: Reader, writer: Writer) -> None:
    pass


async def hang_up(head: bytes, reader: Reader, writer: Writer) -> None:
    writer.close()


async def break_off(head: bytes, reader: Reader, writer: Writer) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
    writer.close()


async def stall(head: bytes, reader: Reader, writer: Writer) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")


@pytest.mark.parametrize(
    ("handler", "wanted"),
    [
        (answer_nothing, {"status": 504, "ended": "replica_silent", "error": "worker_failed"}),
        (hang_up, {"status": 502, "ended": "replica_broke", "error": "worker_failed"}),
        (break_off, {"status": 200, "ended": "replica_broke", "error": None, "bytes_out": 3}),
        (stall, {"status": 200, "ended": "replica_silent", "error": None, "bytes_out": 3}),
    ],
)
async def test_a_replica_that_fails_is_told(
    log: Logged, handler: Callable[[bytes, Reader, Writer], Awaitable[None]], wanted: Line
) -> None:
    async with RawBackend(handler) as replica:
        router = await log.start(replica.url, response_timeout_seconds=0.5)
        await rest(router, head(b"/x", b"Connection: close"))
        await log.line(replica=replica.url, attempts=1, **wanted)


async def test_replicas_that_were_tried_before_are_counted(log: Logged, backend: Backend) -> None:
    async def be_busy(head: bytes, reader: Reader, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")

    async with RawBackend(be_busy) as busy:
        router = await log.start(busy.url, backend.url)
        assert (await router.http.post("/x")).status_code == 200
        await log.line(attempts=2, replica=backend.url, status=200, ended="done")


async def test_a_lost_replica_is_told(log: Logged, backend: Backend, server: EmbeddedServer, namespace: str) -> None:
    router = await log.start(backend.url, on_lost="close")
    async with connected(router, head(b"/wait")), stream(router) as session:
        await session.send("hello")
        await session.recv()
        await until(lambda: len(backend.scopes) == 2, "the replica has both")
        async with Operator(RouterConfig(redis_url=server.url, namespace=namespace), by="ann") as operator:
            await operator.remove((await operator.find([backend.url]))[0])
        await closed(session)
        await until(lambda: len(log.lines()) == 2, "both are told")
    one, other = sorted(log.lines(), key=lambda line: str(line["protocol"]))
    assert (one["status"], one["ended"], one["error"]) == (502, "replica_lost", "worker_failed")
    assert (other["status"], other["ended"], other["error"]) == (101, "replica_lost", "worker_failed")
    assert (other["close_code"], other["bytes_in"], other["bytes_out"] > 0) == (1011, 11, True)


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        (b"/denied", {"status": 403, "error": "not_allowed", "place": "none", "path": "/denied"}),
        (b"/%2e/denied/?a", {"status": 403, "error": "not_allowed", "place": "none", "path": "/%2e/denied/"}),
    ],
)
async def test_a_refused_path_is_told(log: Logged, backend: Backend, path: bytes, wanted: Line) -> None:
    router = await log.start(backend.url)
    await rest(router, head(path, b"Connection: close"))
    await log.line(ended="refused", method="POST", attempts=0, **wanted)


@pytest.mark.parametrize(
    ("request_", "wanted"),
    [
        (b"nonsense\r\n\r\n", {"status": 400, "error": "bad_request", "method": None, "path": None}),
        (b"GET /a?b HTTP/1.1\r\n\r\n", {"status": 400, "error": "bad_request", "method": "GET", "path": "/a"}),
        (head(b"http://user:word@host/"), {"status": 400, "error": "bad_request", "method": "POST", "path": None}),
        (head(b"/" + b"a" * 70_000), {"status": 431, "error": "head_too_long", "path": "/" + "a" * 1023 + "..."}),
        (b"GET /slow HT", {"status": 408, "error": "request_timeout", "method": "GET", "path": "/slow"}),
        (b"", {"status": 408, "error": "request_timeout", "method": None, "path": None}),
        (head(b"/a", b"Transfer-Encoding: chunked") + b"x", {"status": 400, "error": "bad_request", "path": "/a"}),
    ],
)
async def test_a_request_that_cannot_be_read_is_told(
    log: Logged, backend: Backend, request_: bytes, wanted: Line
) -> None:
    router = await log.start(backend.url, header_timeout_seconds=0.5 if wanted["status"] == 408 else SECONDS)
    response = await rest(router, request_)
    line = await log.line(client="127.0.0.1", ended="refused", **wanted)
    assert f"x-request-id: {line['request_id']}\r\n".encode() in response


@pytest.mark.parametrize("behind", [b"nonsense\r\n\r\n", b"\r\n" * 40_000])
async def test_a_broken_request_behind_others_is_told(log: Logged, backend: Backend, behind: bytes) -> None:
    router = await log.start(backend.url)
    response = await rest(router, head(b"/first", method=b"GET") + behind)
    assert response.startswith(b"HTTP/1.1 200 ")
    await until(lambda: len(log.lines()) == 2, "both are told")
    found = {line["path"]: line["ended"] for line in log.lines()}
    assert found == {"/first": "done", None: "refused"}


async def test_a_broken_body_during_the_response_is_told(log: Logged) -> None:
    async with RawBackend(stall) as replica:
        router = await log.start(replica.url)
        async with connected(router, head(b"/a", b"Transfer-Encoding: chunked") + b"1\r\na\r\n") as (reader, writer):
            await reader.readuntil(b"abc")
            writer.write(b"x")
            await log.line(status=200, ended="refused", error="bad_request", path="/a", bytes_in=1, bytes_out=3)


async def test_requests_that_never_had_their_turn_are_told(log: Logged, backend: Backend) -> None:
    router = await log.start(backend.url)
    async with connected(router, head(b"/wait", method=b"GET") + 2 * head(b"/later", method=b"GET")):
        await until(lambda: backend.scopes, "the replica has the first request")
    await until(lambda: len(log.lines()) == 3, "all are told")
    found = sorted((line["path"], line["status"], line["ended"]) for line in log.lines())
    assert found == [("/later", None, "not_begun")] * 2 + [("/wait", None, "client_left")]


async def test_a_failure_of_the_router_is_told(
    log: Logged, backend: Backend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError

    router = await log.start(backend.url)
    monkeypatch.setattr(HttpProxy, "begin", fail)
    assert (await router.http.post("/x")).status_code == 500
    line = await log.line(status=500, ended="router_failed", error="internal_error")
    assert f"failed in the router itself (request {line['request_id']})" in caplog.text
    caplog.clear()


async def test_a_client_without_room_is_told() -> None:
    found: list[bytes] = []
    log = AccessLog("json", found.append)
    site = Site(lambda _: None, limits=Limits(60, 60), access_log=log)
    response = site.refuse(FULL, "10.0.0.1", 0.0)
    line = json.loads(found[0])
    assert list(line) == NAMES
    assert (line["client"], line["status"], line["error"]) == ("10.0.0.1", 503, "gpu_unavailable")
    assert f"x-request-id: {line['request_id']}\r\n".encode() in response


# WebSocket


async def test_a_session_that_its_client_closes_is_told(log: Logged, backend: Backend) -> None:
    router = await log.start(backend.url)
    async with stream(router, additional_headers={"X-Request-Id": "mine"}) as session:
        await session.send(bytes(1000))
        await session.recv()
        assert log.lines() == []
        await session.close(3001)
    line = await log.line(
        request_id="mine",
        method="GET",
        path="/v1/stream",
        protocol="websocket",
        place="lease",
        replica=backend.url,
        status=101,
        close_code=3001,
        attempts=1,
        ended="client_closed",
        error=None,
    )
    assert list(line) == NAMES
    assert (line["bytes_in"], line["bytes_out"]) == (1000 + 8 + 8, 1000 + 4 + 4)
    assert 0 <= line["wait_ms"] <= line["first_byte_ms"] <= line["duration_ms"]


async def test_a_session_that_its_replica_closes_is_told(log: Logged, backend: Backend) -> None:
    router = await log.start(backend.url)
    async with stream(router, "?do=close") as session:
        await session.send(json.dumps({"code": 3002, "reason": ""}))
        await closed(session)
    await log.line(status=101, close_code=3002, ended="replica_closed", error=None)


async def test_a_session_whose_client_is_lost_is_told(log: Logged, backend: Backend) -> None:
    router = await log.start(backend.url)
    async with stream(router) as session:
        await session.send("hello")
        await session.recv()
        session.transport.abort()
    await log.line(status=101, close_code=1006, ended="client_left", bytes_in=11)


async def test_a_session_whose_replica_breaks_is_told(log: Logged, backend: Backend) -> None:
    router = await log.start(backend.url)
    async with stream(router, "?do=die") as session:
        await closed(session)
    await log.line(status=101, close_code=1011, ended="replica_broke")


async def test_a_session_with_too_large_a_message_is_told(log: Logged, backend: Backend) -> None:
    router = await log.start(backend.url, max_frame_bytes=1024)
    async with stream(router) as session:
        await session.send(bytes(2000))
        await closed(session)
    await log.line(status=101, close_code=1009, ended="client_error")


async def test_a_session_without_a_replica_is_told(log: Logged) -> None:
    router = await log.start()
    async with stream(router) as session:
        await closed(session)
    await log.line(status=101, close_code=1013, ended="refused", error="gpu_unavailable", attempts=0)


async def test_a_handshake_that_the_replica_refuses_is_told(log: Logged, backend: Backend) -> None:
    router = await log.start(backend.url)
    with pytest.raises(InvalidStatus):
        await stream(router, "?reject=403")
    await log.line(status=403, close_code=None, ended="done", error=None, protocol="websocket")


async def test_an_invalid_handshake_is_told(log: Logged, backend: Backend) -> None:
    router = await log.start(backend.url)
    await rest(router, head(b"/x", b"Connection: Upgrade", b"Upgrade: websocket", method=b"GET"))
    await log.line(status=400, close_code=None, ended="refused", error="bad_request", protocol="websocket")


async def close_it(session: Any) -> None:
    await session.close(3001)


async def abort_it(session: Any) -> None:
    session.transport.abort()


async def overfill_it(session: Any) -> None:
    await session.send(bytes(2000))
    await closed(session)


@pytest.mark.parametrize(
    ("end", "wanted"),
    [
        (close_it, {"ended": "client_closed", "close_code": 3001}),
        (abort_it, {"ended": "client_left", "close_code": 1006}),
        (overfill_it, {"ended": "client_error", "close_code": 1009}),
    ],
)
async def test_a_session_that_ends_while_it_waits_is_told(
    log: Logged, end: Callable[[Any], Awaitable[None]], wanted: Line
) -> None:
    router = await log.start(is_awaited=False, queue_timeout_seconds=60, max_frame_bytes=1024)
    async with stream(router) as session:
        await session.recv()
        await end(session)
    await log.line(status=101, attempts=0, replica=None, **wanted)


async def test_a_first_message_that_does_not_come_is_told(log: Logged, backend: Backend) -> None:
    router = await log.start(backend.url, session_key="first_frame.id", header_timeout_seconds=0.2)
    async with stream(router) as session:
        await closed(session)
    await log.line(status=101, close_code=1008, ended="refused", error="bad_request")


async def test_a_session_named_in_its_first_message_is_told(log: Logged, backend: Backend) -> None:
    router = await log.start(backend.url, session_key="first_frame.id")
    async with stream(router) as session:
        await session.send('{"id": "secret"}')
        await session.recv()
    line = await log.line(close_code=1000, session_digest=hashlib.sha256(b"secret").hexdigest())
    assert line["bytes_in"] == 16 + 6 + 8


# The end of the router


async def test_what_a_stopping_router_ends_is_told(log: Logged, backend: Backend) -> None:
    router = await log.start(backend.url)
    async with connected(router, head(b"/wait")), stream(router) as session:
        await session.send("hello")
        await session.recv()
        await until(lambda: len(backend.scopes) == 2, "the replica has both")
        router.stop.ask()
        await closed(session)
        await router.serving
    found = sorted((line["protocol"], line["status"], line["close_code"], line["ended"]) for line in log.lines())
    assert found == [("http", None, None, "router_stopped"), ("websocket", 101, 1012, "router_stopped")]


async def test_a_session_whose_client_ignores_the_end_is_told(log: Logged, backend: Backend) -> None:
    router = await log.start(backend.url)
    async with connected(router, HANDSHAKE) as (reader, _):
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        router.stop.ask()
        await router.serving
    await log.line(status=101, close_code=1012, ended="router_stopped")


async def test_a_waiting_session_of_a_stopping_router_is_told(log: Logged) -> None:
    router = await log.start(is_awaited=False, queue_timeout_seconds=60)
    async with stream(router) as session:
        await session.recv()
        router.stop.ask()
        await closed(session)
        await router.serving
    await log.line(status=101, close_code=1012, ended="refused", error="gpu_unavailable")


# The log itself


async def test_lines_go_to_standard_output_by_default(start_process: StartProcess, backend: Backend) -> None:
    router = await start_process(backend.url, access_log="text")
    async with httpx.AsyncClient(base_url=router.url, trust_env=False, timeout=SECONDS) as http:
        await http.post("/x?secret", headers={"X-Request-Id": "mine"})
    router.command.process.terminate()
    await until(lambda: router.command.process.poll() is not None, "the router has stopped")
    [line] = [line for line in router.command.out.splitlines() if " place=lease " in line]
    time, *pairs = line.split(" ")
    assert time.endswith("Z")
    assert [pair.partition("=")[0] for pair in pairs] == NAMES[1:]
    assert {"request_id=mine", "path=/x", "status=200", "close_code=-", "ended=done"} < set(pairs)


async def test_no_lines_without_the_setting(log: Logged, backend: Backend) -> None:
    router = await log.start(backend.url, access_log="off")
    assert (await router.http.post("/x")).status_code == 200
    router.stop.ask()
    await router.serving
    assert not log.is_there()


async def test_a_router_whose_log_cannot_be_written_does_not_start(
    server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    path = tmp_path / "missing" / "access.log"
    own = {"redis_url": server.url, "namespace": namespace, "access_log": "json", "access_log_file": str(path)}
    with pytest.raises(ConfigError, match="access_log_file: cannot write to"):
        await router_server.serve_clients(RouterConfig(**{**FAST, **own}), StopRequest(), on_listening=lambda _: None)


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        (b"/a?b=c#d", "/a"),
        (b"/a#d?b", "/a"),
        (b"*", "*"),
        (b"", None),
        (b"a:80", None),
        (b"http://user:word@host/a", None),
        (b'/"\\<>\xc3\xbc\x7f{', "/%22%5C%3C%3E%C3%BC%7F%7B"),
        (b"/a b\r\nc", "/a%20b%0D%0Ac"),
        (b"/" + b"a" * 2000, "/" + "a" * (LONGEST_PATH - 1) + "..."),
    ],
)
async def test_a_path_is_shown_without_query_and_controls(target: bytes, shown: str | None) -> None:
    assert shown_path(target) == shown


@pytest.mark.parametrize("form", ["text", "json"])
async def test_no_client_can_forge_a_line_or_a_field(form: Any) -> None:
    found: list[bytes] = []
    log = AccessLog(form, found.append, clock=lambda: 1_764_410_992.1239)
    log.write_refusal(BAD, b"id", "fe80::1%\n\u20ac", method="GET", target=b'/a" status=200\n{"time":"')
    [line] = found
    assert (line.count(b"\n"), line.isascii()) == (1, True)
    if form == "json":
        assert json.loads(line)["path"] == "/a%22%20status=200%0A%7B%22time%22:%22"
        assert json.loads(line)["time"] == "2025-11-29T10:09:52.123Z"
    else:
        assert line.startswith(b"2025-11-29T10:09:52.123Z request_id=id ")
        assert len(line.split(b" ")) == len(NAMES)


async def test_the_page_explains_every_field_and_end() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    assert rows == [*NAMES, *get_args(Ended)]
