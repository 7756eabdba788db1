"""What a router refuses is logged once, and then counted: nothing goes unseen, and no flood floods the log."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from shared_registry.proxy import refusal_log
from shared_registry.proxy.refusal_log import PERIOD_SECONDS, RefusalLog
from tests.proxy.conftest import SECONDS, RunningRouter, StartProcess, StartRouter
from tests.support.backend import Backend
from tests.support.until import until, wait_for

FULL = "503 gpu_unavailable"


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records if record.name == refusal_log.__name__]
    caplog.clear()
    return found


def refuse(log: RefusalLog, count: int, now: float, kind: str = FULL) -> None:
    for at in range(count):
        log.note(kind, f"reason {at}", b"id-%d" % at, now)


def test_the_first_refusal_is_logged_at_once(caplog: pytest.LogCaptureFixture) -> None:
    refuse(RefusalLog(), 5, 0)
    assert lines(caplog) == [f"router: refused a request: {FULL} (reason 0; request id-0)"]


def test_further_refusals_are_counted_once_a_period(caplog: pytest.LogCaptureFixture) -> None:
    log = RefusalLog()
    refuse(log, 5, 0)
    log.report(PERIOD_SECONDS - 0.1)
    refuse(log, 3, PERIOD_SECONDS - 0.1)
    log.report(PERIOD_SECONDS)
    log.report(PERIOD_SECONDS + 1)
    assert lines(caplog)[1:] == [f"router: refused 7 more in 10 s: {FULL} (reason 2)"]
    refuse(log, 2, PERIOD_SECONDS + 1)
    assert lines(caplog) == []
    log.report(2 * PERIOD_SECONDS)
    assert lines(caplog) == [f"router: refused 2 more in 10 s: {FULL} (reason 1)"]


def test_a_refusal_after_a_quiet_period_is_logged_at_once(caplog: pytest.LogCaptureFixture) -> None:
    log = RefusalLog()
    refuse(log, 1, 0)
    log.report(PERIOD_SECONDS)
    refuse(log, 1, PERIOD_SECONDS)
    assert len(lines(caplog)) == 2


def test_kinds_are_counted_apart(caplog: pytest.LogCaptureFixture) -> None:
    log = RefusalLog()
    for kind in (FULL, "400 bad_request"):
        refuse(log, 3, 0, kind)
    assert [line.split(": ")[2][:3] for line in lines(caplog)] == ["503", "400"]
    log.report(PERIOD_SECONDS)
    assert ["2 more" in line for line in lines(caplog)] == [True, True]


def test_counts_are_logged_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    log = RefusalLog()
    refuse(log, 3, 0)
    log.report(4, is_last=True)
    assert lines(caplog)[1:] == [f"router: refused 2 more in 4 s: {FULL} (reason 2)"]
    log.report(5, is_last=True)
    assert lines(caplog) == []


async def send(router: RunningRouter, request: bytes) -> None:
    reader, writer = await asyncio.open_connection(*router.address)
    try:
        writer.write(request)
        await asyncio.wait_for(reader.read(), SECONDS)
    finally:
        writer.close()


async def open_session(router: RunningRouter, first: str | bytes = b"") -> None:
    async with connect(f"{router.ws}/v1/stream", proxy=None) as client:
        if first:
            await client.send(first)
        with contextlib.suppress(ConnectionClosed):
            async with asyncio.timeout(SECONDS):
                while True:
                    await client.recv()


POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"
WAYS: dict[str, Callable[[RunningRouter], Awaitable[object]]] = {
    "400 bad_request": lambda router: send(router, b"GET / HTTP/1.1\r\n\r\n"),
    "403 not_allowed": lambda router: router.http.post("/denied"),
    "408 request_timeout (a request's head": lambda router: send(router, b"GET / HT"),
    "408 request_timeout (the request's body": lambda router: send(router, POST),
    "431 head_too_long": lambda router: send(router, b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n"),
    "WebSocket 1009": lambda router: open_session(router, bytes(2000)),
    "WebSocket 1011 worker_failed": lambda router: open_session(router, '{"id": "a"}'),
    "WebSocket 1008 bad_request": open_session,
}
SETTINGS: dict[str, dict[str, object]] = {
    "408 request_timeout (a request's head": {"header_timeout_seconds": 0.2},
    "408 request_timeout (the request's body": {"response_timeout_seconds": 0.2},
    "WebSocket 1009": {"max_frame_bytes": 1024},
    "WebSocket 1011 worker_failed": {"session_key": "first_frame.id"},
    "WebSocket 1008 bad_request": {"session_key": "first_frame.id", "header_timeout_seconds": 0.2},
}


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("kind", WAYS)
async def test_every_refusal_leaves_a_line(
    start_router: StartRouter, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    routes = '[{"path": "/denied", "place": "none"}, {"path": "/*", "place": "lease"}]'
    async with Backend() as backend:
        if kind.startswith("WebSocket 1011"):
            backend.refusal = 403
        router = await start_router(backend.url, **{"routes": routes, **SETTINGS.get(kind, {})})
        caplog.clear()
        for _ in range(2):
            await WAYS[kind](router)
    [line] = lines(caplog)
    assert line.startswith(f"router: refused a request: {kind}")


@pytest.mark.asyncio(loop_scope="module")
async def test_a_fleet_without_replicas_leaves_a_line(
    start_router: StartRouter, caplog: pytest.LogCaptureFixture
) -> None:
    router = await start_router()
    caplog.clear()
    assert (await router.http.post("/x", headers={"X-Request-Id": "mine"})).status_code == 503
    await open_session(router)
    first, second = lines(caplog)
    assert first.startswith(f"router: refused a request: {FULL} (")
    assert first.endswith("; request mine)")
    assert second.startswith("router: refused a request: WebSocket 1013 gpu_unavailable (")


@pytest.mark.asyncio(loop_scope="module")
async def test_answers_about_own_pages_are_no_refusals(router: RunningRouter, caplog: pytest.LogCaptureFixture) -> None:
    caplog.clear()
    assert [(await router.http.request(*one)).status_code for one in (("GET", "/metrics"), ("PUT", "/status"))] == [
        404,
        405,
    ]
    assert lines(caplog) == []


@pytest.mark.asyncio(loop_scope="module")
async def test_a_router_that_stops_logs_its_counts(start_process: StartProcess) -> None:
    router = await start_process()
    async with httpx.AsyncClient(base_url=router.url, trust_env=False, timeout=SECONDS) as http:
        for _ in range(4):
            assert (await http.post("/x")).status_code == 503
    router.command.process.terminate()
    await asyncio.to_thread(wait_for, lambda: router.command.process.poll() is not None)
    await until(lambda: router.has_said("router: refused 3 more in "), "the counts are logged")
