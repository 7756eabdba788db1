"""A router's own pages."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import create_autospec

import pytest
from redis import Redis
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from shared_registry.aio import breath
from shared_registry.embedded import EmbeddedServer
from shared_registry.model import Plan, Replica, ReplicaEndpoint, ReplicaRecord
from shared_registry.proxy import opening, pool
from shared_registry.proxy import shown_replicas as shown_replicas_module
from shared_registry.proxy.remembered import Remembered
from shared_registry.proxy.shown_replicas import AT_ONCE, PIECES_AT_ONCE, ShownReplicas
from shared_registry.registry.facade import SharedReplicaRegistry
from tests.proxy.conftest import SECONDS, RunningRouter, StartRouter
from tests.support.backend import Backend
from tests.support.own_pages import shown_replicas
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

THE_ORIGINALS = ["url", "primary", "status", "last_ok_at", "last_latency_ms", "consecutive_failures"]


async def test_status_has_the_originals_fields_and_more(router: RunningRouter, backend: Backend) -> None:
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
    assert list(status["leader"]) == ["router", "epoch", "elected_at"]
    assert status["leader"]["router"] == status["router"]
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


async def test_the_routers_pages_are_never_a_replicas(router: RunningRouter, backend: Backend) -> None:
    for path in ("/healthz", "/readyz", "/status", "/healthz/", "//readyz", "/%73tatus", "/x/../status?y=1"):
        assert (await raw(router, f"GET {path} HTTP/1.1"))[0] == 200
        assert (await raw(router, f"HEAD {path} HTTP/1.1")) == (200, b"")
        status, body = await raw(router, f"POST {path} HTTP/1.1", "Content-Length: 2", body=b"{}")
        assert (status, json.loads(body)["code"]) == (405, "method_not_allowed")
    assert (await router.http.delete("/status")).headers["allow"] == "GET, HEAD"
    assert backend.scopes == []


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
@pytest.mark.parametrize(
    "target",
    [
        "/metrics",
        "/metrics?x=1",
        "/metrics/",
        "//metrics",
        "/%6detrics",
        "/metrics#x",
        "/metrics/replica",
        "/METRICS",
        "http://other/metrics",
        "http://other//metrics?x",
        "HTTP://other:80/%6detrics",
    ],
)
async def test_the_metrics_page_is_never_a_replicas(
    router: RunningRouter, backend: Backend, method: str, target: str
) -> None:
    status, body = await raw(router, f"{method} {target} HTTP/1.1")
    assert (status, json.loads(body)["code"]) == (404, "not_found")
    assert (await raw(router, f"HEAD {target} HTTP/1.1")) == (404, b"")
    assert backend.scopes == []


@pytest.mark.parametrize("path", ["/metrics", "/%6detrics/", "/healthz", "/status", "//readyz"])
async def test_the_routers_pages_accept_no_websocket(router: RunningRouter, backend: Backend, path: str) -> None:
    with pytest.raises(InvalidStatus) as caught:
        await connect(f"{router.ws}{path}", proxy=None)
    assert caught.value.response.status_code == 404
    assert backend.scopes == []


async def test_an_unread_body_of_a_page_becomes_no_request(router: RunningRouter, backend: Backend) -> None:
    reader, writer = await asyncio.open_connection(*router.address)
    body = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n" * 5000
    head = f"POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body + b"GET /after HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    answers = await asyncio.wait_for(reader.read(), SECONDS)
    writer.close()
    assert answers.count(b"HTTP/1.1 ") == 2
    assert [scope["path"] for scope in backend.scopes] == ["/after"]


async def raw(router: RunningRouter, line: str, *fields: str, body: bytes = b"") -> tuple[int, bytes]:
    """Send a request as it is, for clients normalize what they send; return status and body."""
    reader, writer = await asyncio.open_connection(*router.address)
    head = "\r\n".join([line, "Host: a", "Connection: close", *fields, "", ""])
    writer.write(head.encode() + body)
    answer = await asyncio.wait_for(reader.read(), SECONDS)
    writer.close()
    return int(answer.split(b" ", 2)[1]), answer.partition(b"\r\n\r\n")[2]


async def test_the_router_is_alive_but_not_ready_without_redis(
    own_server: Callable[..., EmbeddedServer],
    start_router: StartRouter,
    backend: Backend,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While it waits for Redis at its start."""
    monkeypatch.setattr(opening, "HOLD_SECONDS", 0.5)
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


async def test_the_router_serves_during_an_outage_and_reports_it(
    own_server: Callable[..., EmbeddedServer], start_router: StartRouter, backend: Backend
) -> None:
    """It is not ready when the outage has lasted too long."""
    redis = own_server()
    router = await start_router(backend.url, redis_url=redis.url, max_staleness_seconds=4.0)
    await asyncio.to_thread(redis.kill)
    assert (await router.http.get("/served")).status_code == 200
    assert (await router.status())["replicas"][0]["status"] == "healthy"

    async def is_stale() -> bool:
        response = await router.http.get("/readyz")
        return response.status_code == 503 and "max_staleness_seconds" in response.text

    await until(is_stale, "it is stale")
    assert (await router.http.get("/refused")).status_code == 503


async def test_refused_writes_are_reported_and_leave_the_router_ready(
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


async def test_a_long_status_gives_way_to_other_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    records = [Replica(ReplicaEndpoint(f"http://10.0.0.1:{port}")) for port in range(1, 2001)]
    registry = create_autospec(SharedReplicaRegistry, instance=True)
    registry.plan = None
    registry.all.return_value = records
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    monkeypatch.setattr(breath, "PIECE_SECONDS", 0.0)
    counting = asyncio.create_task(count_turns())
    shown = await shown_replicas(registry)
    counting.cancel()
    texts = len(records) / AT_ONCE
    assert turns >= texts + texts / PIECES_AT_ONCE - 2, "while they are written, and while they are joined"
    assert [one["url"] for one in shown] == [one.url for one in records]


async def test_a_slow_read_delays_no_status(router: RunningRouter, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, reads = asyncio.Event(), 0

    async def refresh() -> None:
        nonlocal reads
        reads += 1
        await gate.wait()

    monkeypatch.setattr(router.router.pools[""].registry, "refresh", refresh)
    assert (await router.status())["read_age_seconds"] >= 0
    assert reads == 1


async def test_a_large_fleet_is_read_after_the_answer(router: RunningRouter, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = 0

    async def refresh() -> None:
        nonlocal reads
        reads += 1

    def is_read(times: int) -> bool:
        return reads == times

    monkeypatch.setattr(pool, "MOST_REFRESHED_FIRST", 0)
    monkeypatch.setattr(router.router.pools[""].registry, "refresh", refresh)
    for expected in (1, 2):
        await asyncio.gather(router.status(), router.status())
        assert reads < expected
        await until(functools.partial(is_read, expected), "it is read")


def shown_documents(pieces: list[bytes]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(b"".join([b"[", *pieces, b"]"]))
    return found


async def test_only_replicas_that_have_changed_are_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    replicas = [Replica(ReplicaEndpoint(f"http://10.0.0.1:{port}")) for port in range(1, 101)]
    registry = create_autospec(SharedReplicaRegistry, instance=True)
    registry.plan = None
    registry.all.side_effect = lambda: tuple(replicas)
    shown, written = ShownReplicas(registry), 0
    text = shown_replicas_module._text

    def counted(records: tuple[ReplicaRecord, ...], *arguments: Any, **more: Any) -> bytes:
        nonlocal written
        written += len(records)
        return text(records, *arguments, **more)

    async def is_right(expected: int) -> bool:
        nonlocal written
        written = 0
        found = shown_documents(await shown.pieces())
        assert [(one["url"], one["in_flight"]) for one in found] == [(one.url, one.in_flight) for one in replicas]
        return written == expected

    monkeypatch.setattr(shown_replicas_module, "_text", counted)
    assert await is_right(100)
    assert await is_right(0)
    replicas[40].record = replace(replicas[40].record, in_flight=3)
    assert await is_right(AT_ONCE)
    del replicas[97:]
    assert await is_right(1)
    del replicas[3:]
    assert await is_right(3)
    replicas.clear()
    assert await is_right(0)
    replicas.append(Replica(ReplicaEndpoint("http://10.0.0.2:1")))
    assert await is_right(1)
    registry.plan = Plan(1, 1, {})
    assert await is_right(1)


async def test_requests_at_the_same_time_write_the_replicas_once(
    start_router: StartRouter, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, writes = asyncio.Event(), 0

    pieces = ShownReplicas.pieces

    async def counted(shown: ShownReplicas) -> list[bytes]:
        nonlocal writes
        writes += 1
        await gate.wait()
        return await pieces(shown)

    monkeypatch.setattr(ShownReplicas, "pieces", counted)
    gate.set()
    router = await start_router(backend.url)
    gate.clear()
    writes = 0
    arrived = 0
    get = Remembered.get

    async def arriving(self: Remembered[Any]) -> Any:
        nonlocal arrived
        arrived += self is replicas
        return await get(self)

    [replicas] = [one._replicas for one in router.router.pools.values()]
    monkeypatch.setattr(Remembered, "get", arriving)
    asked = [asyncio.create_task(router.status()) for _ in range(8)]
    await until(lambda: arrived == len(asked) and writes == 1, "all are under way")
    gate.set()
    assert {status["replicas"][0]["url"] for status in await asyncio.gather(*asked)} == {backend.url}
    assert writes == 1
