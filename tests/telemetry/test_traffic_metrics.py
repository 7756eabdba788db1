"""What the metrics tell of requests and sessions, and of replicas that fail them."""

from __future__ import annotations

import asyncio

import pytest
from websockets.asyncio.client import connect

from shared_registry.telemetry.counting import Counting
from shared_registry.telemetry.page import MetricsPage
from tests.proxy.conftest import RunningRouter, StartRouter
from tests.support.backend import Backend
from tests.support.metrics import Scrape
from tests.support.programs import free_port
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def scraped(router: RunningRouter) -> Scrape:
    return Scrape(await MetricsPage(router.router, Counting(router.router)).render())


async def ended(router: RunningRouter, kind: str, outcome: str, count: int) -> Scrape:
    """Return the page once so many requests have ended so."""
    found: list[Scrape] = []

    async def has_ended() -> bool:
        found.append(await scraped(router))
        return found[-1].value("sr_sessions_total", kind=kind, outcome=outcome) == count

    await until(has_ended, f"{count} {kind} sessions have ended {outcome}")
    return found[-1]


async def test_requests_are_counted_with_their_bytes_and_times(start_with_admin: StartRouter) -> None:
    async with Backend() as backend:
        router = await start_with_admin(backend.url)
        before = await scraped(router)
        for _ in range(3):
            assert (await router.http.post("/upload", content=bytes(1000))).status_code == 200
        page = await ended(router, "http", "ok", 3)
    assert before.value("sr_sessions_total", kind="http", outcome="ok") == 0, "own pages do not count"
    assert page.value("sr_bytes_total", direction="in") == 3000
    assert (page.value("sr_bytes_total", direction="out") or 0) > 20
    for name in ("sr_session_duration_seconds", "sr_first_byte_seconds"):
        assert page.value(f"{name}_count", kind="http") == 3
        assert page.value(f"{name}_bucket", kind="http", le="+Inf") == 3
        assert 0 < (page.value(f"{name}_sum", kind="http") or 0) < 60
    assert page.value("sr_placements_total", outcome="granted") == 3
    assert page.value("sr_upstream_connect_seconds_count") == 1


async def test_a_client_that_leaves_is_no_error(start_with_admin: StartRouter) -> None:
    async with Backend() as backend:
        router = await start_with_admin(backend.url)
        reading = asyncio.create_task(router.http.get("/wait"))
        await until(lambda: router.router.live.count == 1)
        reading.cancel()
        page = await ended(router, "http", "client_gone", 1)
    assert page.value("sr_sessions_total", kind="http", outcome="ok") == 0


async def test_a_websocket_session_is_counted_when_it_ends(start_with_admin: StartRouter) -> None:
    async with Backend() as backend:
        router = await start_with_admin(backend.url)
        async with connect(f"{router.ws}/v1/stream", proxy=None) as client:
            await client.send("hello")
            await client.recv()
            page = await scraped(router)
            assert page.value("sr_sessions_active", kind="websocket") == 1
            assert page.value("sr_sessions_total", kind="websocket", outcome="ok") == 0
        page = await ended(router, "websocket", "ok", 1)
    assert (page.value("sr_bytes_total", direction="in") or 0) > 5


async def test_a_replica_that_fails_is_counted_by_cause(start_with_admin: StartRouter) -> None:
    async with Backend() as backend:
        router = await start_with_admin(backend.url)
        assert (await router.http.get("/answer?status=500")).status_code == 500
        page = await ended(router, "http", "replica_failed", 1)
        name = backend.url.removeprefix("http://")
        assert page.value("sr_upstream_failures_total", replica=name, cause="status") == 1


async def test_retries_are_counted_by_cause(start_with_admin: StartRouter) -> None:
    async with Backend() as first, Backend() as second:
        router = await start_with_admin(
            first.url,
            second.url,
            health_check_interval_seconds=60.0,
            fast_interval_seconds=30.0,
            local_cooldown_seconds=60.0,
        )
        await first.__aexit__(None, None, None)
        assert (await router.http.get("/x")).status_code == 200
        page = await ended(router, "http", "ok", 1)
        name = first.url.removeprefix("http://")
    assert page.value("sr_retries_total", cause="connect") == 1
    assert page.value("sr_upstream_failures_total", replica=name, cause="connect") == 1
    assert page.value("sr_cooldown_active") == 1


async def test_refused_placements_are_counted_by_reason(start_with_admin: StartRouter) -> None:
    router = await start_with_admin(f"http://127.0.0.1:{free_port()}", is_awaited=False)
    await until(lambda: answers(router, 503))
    page = await ended(router, "http", "refused", 1)
    assert (page.value("sr_placements_total", outcome="no_healthy") or 0) >= 1
    assert page.value("sr_refusals_total", status="503", error="gpu_unavailable") == 1


async def answers(router: RunningRouter, status: int) -> bool:
    return (await router.http.get("/x")).status_code == status
