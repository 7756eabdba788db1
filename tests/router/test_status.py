"""A router's own pages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from redis import Redis
from websockets.asyncio.client import connect

from shared_registry.embedded import EmbeddedServer
from tests.router.backend import Backend
from tests.router.conftest import RunningRouter, StartRouter, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

THE_ORIGINALS = ["url", "primary", "status", "last_ok_at", "last_latency_ms", "consecutive_failures"]


async def test_status_has_the_originals_shape_and_more(router: RunningRouter, backend: Backend) -> None:
    status = await router.status()
    [replica] = status["replicas"]
    assert list(replica)[: len(THE_ORIGINALS)] == THE_ORIGINALS
    assert (replica["url"], replica["primary"], replica["status"]) == (backend.url, True, "healthy")
    assert isinstance(replica["last_ok_at"], float)
    assert isinstance(replica["last_latency_ms"], float)
    assert replica["consecutive_failures"] == 0
    assert {name: replica[name] for name in ("name", "weight", "capacity", "in_flight", "admin", "admin_reason")} == {
        "name": None,
        "weight": 1.0,
        "capacity": 0,
        "in_flight": 0,
        "admin": "active",
        "admin_reason": "",
    }
    assert status["url"] == router.url
    assert status["is_leader"] is True
    assert status["leader"] == {"router": status["router"], "epoch": status["leader"]["epoch"]}
    assert status["is_stale"] is False
    assert status["sessions"] == 0


async def test_status_counts_live_sessions(router: RunningRouter) -> None:
    async with connect(f"{router.ws}/v1/stream", proxy=None):
        assert (await router.status())["sessions"] == 1

    async def none_is_left() -> bool:
        return bool((await router.status())["sessions"] == 0)

    await until(none_is_left, "no session is left")


async def test_probe_results_show_within_a_refresh(start_router: StartRouter, backend: Backend) -> None:
    router = await start_router(backend.url, refresh_seconds=0.05)
    before = (await router.status())["replicas"][0]["last_ok_at"]

    async def is_newer() -> bool:
        return bool((await router.status())["replicas"][0]["last_ok_at"] > before)

    await until(is_newer, "a newer probe shows")


async def test_only_its_own_paths_are_its_own(router: RunningRouter) -> None:
    for path in ("/healthz", "/readyz"):
        assert (await router.http.get(path)).status_code == 200
    assert (await router.http.get("/status/")).json()["target"] == "/status/?"
    assert (await router.http.post("/status")).json()["method"] == "POST"


async def test_it_lives_but_is_not_ready_while_it_waits_for_redis(
    own_server: Callable[..., EmbeddedServer], start_router: StartRouter, backend: Backend
) -> None:
    redis = own_server()
    redis.stop()
    router = await start_router(backend.url, is_awaited=False, redis_url=redis.url)
    assert (await router.http.get("/healthz")).status_code == 200
    unready = await router.http.get("/readyz")
    assert (unready.status_code, unready.json()["reason"]) == (503, "the shared state is not loaded yet")
    assert (await router.status())["replicas"][0]["status"] == "unknown"
    assert (await router.http.get("/anything")).status_code == 503
    await asyncio.to_thread(redis.start)

    async def is_ready() -> bool:
        return (await router.http.get("/readyz")).status_code == 200

    await until(is_ready, "it is ready")


async def test_it_serves_on_while_redis_is_away_and_says_so_when_too_long(
    own_server: Callable[..., EmbeddedServer], start_router: StartRouter, backend: Backend
) -> None:
    redis = own_server()
    fast = {"refresh_seconds": 0.1, "redis_timeout_seconds": 0.2}
    router = await start_router(backend.url, redis_url=redis.url, max_staleness_seconds=0.8, **fast)
    await asyncio.to_thread(redis.kill)
    assert (await router.http.get("/served")).status_code == 200
    assert (await router.status())["replicas"][0]["status"] == "healthy"

    async def is_stale() -> bool:
        response = await router.http.get("/readyz")
        return response.status_code == 503 and "max_staleness_seconds" in response.text

    await until(is_stale, "it is stale")
    assert (await router.http.get("/refused")).status_code == 503


async def test_a_redis_that_refuses_writes_is_told_and_keeps_it_ready(
    own_server: Callable[..., EmbeddedServer], start_router: StartRouter, backend: Backend
) -> None:
    redis = own_server()
    router = await start_router(backend.url, redis_url=redis.url, refresh_seconds=0.1)
    with Redis.from_url(redis.url) as raw:
        raw.config_set("min-replicas-to-write", 1)

        async def is_told() -> bool:
            response = await router.http.get("/readyz")
            assert response.status_code == 200
            return "NOREPLICAS" in response.json().get("warning", "")

        await until(is_told, "it is told")
        status = await router.status()
        assert "NOREPLICAS" in status["write_failure"]
        assert status["writable_age_seconds"] > 0
        raw.config_set("min-replicas-to-write", 0)

    async def is_over() -> bool:
        return (await router.status())["write_failure"] is None

    await until(is_over, "it is over")
    assert "warning" not in (await router.http.get("/readyz")).json()
