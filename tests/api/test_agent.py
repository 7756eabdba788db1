"""The answers to HAProxy's agent checks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from shared_registry.model import ReplicaEndpoint
from tests.proxy.conftest import SECONDS, RunningRouter, StartRouter
from tests.support.backend import Backend
from tests.support.programs import free_port
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def backend() -> AsyncIterator[Backend]:
    async with Backend() as backend:
        yield backend


async def asked(port: int, line: bytes) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(line)
        return (await asyncio.wait_for(reader.read(), SECONDS)).decode()
    finally:
        writer.transport.abort()


async def test_answers_say_state_weight_and_capacity(start_router: StartRouter, backend: Backend) -> None:
    port = free_port()
    replicas = [
        ReplicaEndpoint(backend.url, name="gpu-a", weight=2.5, capacity=4),
        ReplicaEndpoint("http://127.0.0.9:1", name="gpu-b"),
        ReplicaEndpoint("https://127.0.0.9"),
    ]
    router = await start_router(replicas=replicas, is_awaited=False, agent_port=port)
    registry = router.router.pools[""].registry
    await until(lambda: registry.select() and registry.all()[1].health.last_failure_at, "both are judged")
    await until(lambda: registry.all()[1].health.status.value == "unhealthy", "gpu-b is unhealthy")
    for line in (b"gpu-a\n", f"{backend.url}!".encode(), f"127.0.0.1:{backend.port}\r\n".encode()):
        assert await asked(port, line) == "up ready 250% maxconn:4\n"
    assert (await asked(port, b"gpu-b\n")).startswith("down ready # ")
    assert (await asked(port, b"127.0.0.9:443\n")).startswith("down ready")
    await registry.drain("gpu-a", reason="kernel\nupdate \u20ac")
    assert await asked(port, b"gpu-a\n") == "up drain # kernel update\n"
    await registry.disable("gpu-a")
    assert await asked(port, b"gpu-a\n") == "maint\n"
    for nobody in (b"free!", b"http://127.0.0.8:1\n", b"http://[\n", b"\xff\xfe\n", b"a/b/c\n"):
        assert await asked(port, nobody) == "maint # not registered\n"
    for nothing in (b"!", b"\n", b" \r\n"):  # a server that has no replica yet, or not again
        assert await asked(port, nothing) == ""


async def test_a_router_that_does_not_know_answers_nothing(
    start_router: StartRouter, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    router = await start_router(backend.url, agent_port=port)
    assert (await asked(port, f"{backend.url}\n".encode())).startswith("up ready")
    stop_knowing(router, monkeypatch)
    assert await asked(port, f"{backend.url}\n".encode()) == ""


def stop_knowing(router: RunningRouter, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = router.router.pools[""].registry
    monkeypatch.setattr(type(registry), "is_stale", property(lambda one: one is registry))


async def test_pools_are_named_before_the_replica(start_router: StartRouter, backend: Backend, namespace: str) -> None:
    port = free_port()
    pools = [{"name": name, "namespace": f"{namespace}.{name}", "replicas": [backend.url]} for name in ("a", "b")]
    router = await start_router(is_awaited=False, pools=pools, replicas=[], agent_port=port)
    for pool in router.router.pools.values():
        await until(pool.registry.select, "a replica is healthy")
    await router.router.pools["b"].registry.drain(backend.url)
    assert await asked(port, f"a/{backend.url}\n".encode()) == "up ready 100%\n"
    assert await asked(port, f"b/{backend.url}\n".encode()) == "up drain\n"
    assert await asked(port, f"{backend.url}\n".encode()) == "maint # not registered\n"


async def test_clients_that_send_no_line_are_disconnected(
    start_router: StartRouter, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    await start_router(backend.url, agent_port=port)
    assert await asked(port, b"x" * 3000) == ""
    monkeypatch.setattr("shared_registry.api.agent.PATIENCE_SECONDS", 0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), SECONDS) == b""
    writer.transport.abort()


async def test_more_clients_than_the_most_are_refused(
    start_router: StartRouter, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared_registry.api.agent.MOST_CLIENTS", 1)
    monkeypatch.setattr("shared_registry.api.agent.PATIENCE_SECONDS", 10 * SECONDS)
    port = free_port()
    await start_router(backend.url, agent_port=port)
    _, first = await asyncio.open_connection("127.0.0.1", port)

    async def is_refused() -> bool:
        try:
            return not await asked(port, f"{backend.url}\n".encode())
        except ConnectionError:
            return True

    await until(is_refused, "there is no room")
    first.transport.abort()

    async def is_answered() -> bool:
        return not await is_refused()

    await until(is_answered, "there is room again")
