"""Requests that are served without a task: however they end, nothing of them stays."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from shared_registry.proxy import attempt
from shared_registry.proxy.exchange import Exchange
from shared_registry.proxy.outcomes import OutcomeReports
from shared_registry.proxy.serving import Serving
from tests.proxy.conftest import RunningRouter, StartRouter
from tests.proxy.test_framing import Connection, Reader, Writer, body_of, connected, tell
from tests.support.backend import RawBackend
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

ANY = '[{"path": "/*", "place": "any"}]'
GET = b"GET /%s HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /%s HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
Answer = Callable[[bytes, Reader, Writer], Awaitable[None]]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The targets of the requests for which a task was started."""
    found: list[bytes] = []
    run = Serving.run

    def noting(self: Serving, exchange: Exchange, work: Callable[[], Awaitable[None]]) -> None:
        if exchange.target != b"/status":
            found.append(exchange.target)
        run(self, exchange, work)

    monkeypatch.setattr(Serving, "run", noting)
    return found


@dataclasses.dataclass
class Front:
    """A router with an idle connection to its replica, which answers `/first` well, and the rest as the test wants.

    Attributes:
        router: The router.
        replica: The replica.
        client: A client's connection.
    """

    router: RunningRouter
    replica: RawBackend
    client: Connection

    def ended(self, outcome: str) -> int:
        return self.router.router.pools[""].traffic.http.ended[outcome]  # type: ignore[index]  # a word of the test


StartFront = Callable[..., Awaitable[Front]]


@pytest_asyncio.fixture(loop_scope="module")
async def front(start_router: StartRouter) -> AsyncIterator[StartFront]:
    fronts: list[Front] = []
    stacks: list[contextlib.AbstractAsyncContextManager[object]] = []

    async def start(answer: Answer, *others: str, **settings: object) -> Front:
        async def handle(head: bytes, reader: Reader, writer: Writer) -> None:
            await (tell if b" /first " in head else answer)(head, reader, writer)

        replica = RawBackend(handle)
        await replica.__aenter__()
        stacks.append(replica)
        kept = {"routes": ANY, "admin_port": 0, "replica_idle_seconds": 60.0}
        router = await start_router(replica.url, *others, **(kept | settings))
        connection = connected(router)
        client = await connection.__aenter__()
        stacks.append(connection)
        await client.send(GET % b"first")
        assert (await client.response())[0] == 200
        fronts.append(Front(router, replica, client))
        return fronts[-1]

    try:
        yield start
        for one in fronts:
            await nothing_stays(one.router)
    finally:
        for stack in reversed(stacks):
            await stack.__aexit__(None, None, None)


async def nothing_stays(router: RunningRouter) -> None:
    pool = router.router.pools[""]
    await until(lambda: router.router.live.count == 0, "no request is counted as live")
    await until(lambda: pool.traffic.http.active == 0, "no request is counted as active")
    await until(lambda: not router.router._serving._under_way, "no request is under way")


async def never(head: bytes, reader: Reader, writer: Writer) -> None:
    """Answer nothing until the router closes the connection."""
    await reader.read()
    writer.close()


async def test_an_idle_connection_makes_a_task_needless(front: StartFront, started: list[bytes]) -> None:
    one = await front(tell)
    started.clear()
    for number in range(3):
        await one.client.send(POST % b"%d" % number)
        assert (await one.client.response())[::2] == (200, b"POST /%d|hello" % number)
    assert started == []


async def test_pipelined_requests_are_answered_in_order(front: StartFront, started: list[bytes]) -> None:
    one = await front(tell)
    started.clear()
    await one.client.send(b"".join(POST % b"%d" % number for number in range(40)))
    bodies = [(await one.client.response())[2] for _ in range(40)]
    assert bodies == [b"POST /%d|hello" % number for number in range(40)]
    assert started == []


async def test_a_client_that_leaves_ends_the_exchange(front: StartFront) -> None:
    gone = asyncio.Event()

    async def note_end(head: bytes, reader: Reader, writer: Writer) -> None:
        await reader.read()
        gone.set()
        writer.close()

    one = await front(note_end)
    await one.client.send(GET % b"never")
    await until(lambda: len(one.replica.heads) == 2, "the replica has the request")
    one.client.writer.transport.abort()
    await until(gone.is_set, "the connection to the replica is closed")
    await until(lambda: one.ended("client_gone") == 1, "the request has ended with its client")


@pytest.mark.parametrize(("request_of", "status"), [(GET, 200), (POST, 502)])
async def test_only_what_is_harmless_is_sent_again(front: StartFront, request_of: bytes, status: int) -> None:
    async def close_once(head: bytes, reader: Reader, writer: Writer) -> None:
        if len([known for known in one.replica.heads if b" /again " in known]) == 1:
            await body_of(head, reader)
            writer.close()
            raise ConnectionError
        await tell(head, reader, writer)

    one = await front(close_once)
    await one.client.send(request_of % b"again")
    assert (await one.client.response())[0] == status
    assert len(one.replica.heads) == (3 if status == 200 else 2)
    await until(lambda: one.ended("ok" if status == 200 else "replica_failed") == (2 if status == 200 else 1))


@pytest.mark.parametrize("status", [429, 503])
async def test_a_busy_replica_passes_the_request_on(front: StartFront, status: int) -> None:
    async def refuse(head: bytes, reader: Reader, writer: Writer) -> None:
        await body_of(head, reader)
        writer.write(b"HTTP/1.1 %d Busy\r\nContent-Length: 4\r\n\r\nbusy" % status)

    async with RawBackend(tell) as other:
        one = await front(refuse, other.url)
        await one.client.send(POST % b"busy")
        assert (await one.client.response())[::2] == (200, b"POST /busy|hello")
        traffic = one.router.router.pools[""].traffic
        assert (traffic.retries["busy"], sum(traffic.failures.values())) == (1, 1)
        assert [b" /busy " in head for head in other.heads] == [True]
        await nothing_stays(one.router)


@pytest.mark.parametrize(
    ("setting", "code", "outcome"),
    [
        ("response_timeout_seconds", b"worker_failed", "replica_failed"),
        ("total_timeout_seconds", b"request_timeout", "timeout"),
    ],
)
async def test_a_silent_replica_is_given_up(front: StartFront, setting: str, code: bytes, outcome: str) -> None:
    one = await front(never, **{setting: 0.5})
    await one.client.send(GET % b"never")
    status, _, body = await one.client.response()
    assert (status, code in body) == (504, True)
    await until(lambda: one.ended(outcome) == 1)


async def test_a_router_that_stops_ends_it(front: StartFront) -> None:
    one = await front(never)
    await one.client.send(GET % b"never")
    await until(lambda: len(one.replica.heads) == 2, "the replica has the request")
    one.router.stop.ask()
    assert await one.client.rest() == b""
    await until(lambda: one.ended("shutdown") == 1, "the request has ended with the router")


async def test_an_answer_may_precede_the_bodys_end(front: StartFront) -> None:
    async def answer_early(head: bytes, reader: Reader, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly")
        await never(head, reader, writer)

    one = await front(answer_early)
    await one.client.send(b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello")
    assert (await one.client.response())[::2] == (200, b"early")
    assert one.router.router.pools[""].connections.idle_count == 0
    await one.client.send(b"world" + GET % b"first")
    assert (await one.client.response())[::2] == (200, b"GET /first|")


@pytest.mark.parametrize("announced", [b"Content-Length: 2000", b"Transfer-Encoding: chunked"])
async def test_a_body_beyond_the_limit_is_refused(front: StartFront, announced: bytes) -> None:
    one = await front(tell, max_body_bytes=1024)
    await one.client.send(b"POST /x HTTP/1.1\r\nHost: a\r\n" + announced + b"\r\n\r\n7d0\r\n" + b"x" * 2000 + b"\r\n")
    assert (await one.client.response())[0] == 413
    await until(lambda: one.ended("refused") == 1)
    assert len(one.replica.heads) == 1


def fail(*_: object, **__: object) -> None:
    raise RuntimeError("as the test wants it")


async def test_an_error_within_the_response_becomes_500(
    front: StartFront, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one = await front(tell)
    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
        patch.setattr(attempt, "passed_head", fail)
        await one.client.send(POST % b"x")
        status, _, body = await one.client.response()
    assert (status, b"internal_error" in body) == (500, True)
    assert "as the test wants it" in caplog.text
    assert one.router.router.pools[""].connections.idle_count == 0
    await until(lambda: one.ended("router_failed") == 1)


async def test_an_error_after_the_response_is_logged(
    front: StartFront, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one = await front(tell)
    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
        patch.setattr(OutcomeReports, "responded", fail)
        await one.client.send(POST % b"x")
        assert (await one.client.response())[0] == 200
        await until(lambda: "as the test wants it" in caplog.text, "the error is logged")
    await nothing_stays(one.router)


async def test_an_error_before_the_request_becomes_500(
    front: StartFront, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one = await front(tell)
    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
        patch.setattr(attempt.Attempt, "_note_reached", fail)
        await one.client.send(POST % b"x")
        assert (await one.client.response())[0] == 500
    assert "as the test wants it" in caplog.text
    await until(lambda: one.ended("router_failed") == 1)
