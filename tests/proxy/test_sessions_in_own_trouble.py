"""Sessions that this router cannot connect: it says so, tries no further, and holds nothing against the replicas."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from shared_registry.http1.connection import ReplicaConnection
from shared_registry.registry import wiring as parts
from shared_registry.registry.facade import SharedReplicaRegistry
from tests.proxy.conftest import RunningRouter, StartRouter
from tests.proxy.test_passed_over_replicas import NEVER
from tests.support.backend import Backend
from tests.support.descriptors import out_of_descriptors
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

HANDSHAKE = (
    b"GET /v1/stream HTTP/1.1\r\nHost: router\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
CLOSE = b"\x88\x80\x00\x00\x00\x00"
"""A client's answer to a close frame; the router waits 10 s for it."""


@pytest_asyncio.fixture(loop_scope="module")
async def backends() -> AsyncIterator[list[Backend]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Backend()) for _ in range(3)]


@pytest.fixture
def placements(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One for each slot that a session took."""
    found: list[int] = []
    acquire = SharedReplicaRegistry.acquire

    async def counting(self: SharedReplicaRegistry, *words: Any, **options: Any) -> Any:
        found.append(1)
        return await acquire(self, *words, **options)

    monkeypatch.setattr(SharedReplicaRegistry, "acquire", counting)
    return found


async def nothing_is_held_against(router: RunningRouter) -> None:
    for replica in (await router.status())["replicas"]:
        assert (replica["status"], replica["consecutive_failures"], replica["in_flight"]) == ("healthy", 0, 0)


async def test_a_request_gets_a_clear_error_and_may_return(
    start_router: StartRouter, backends: list[Backend], placements: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    settings = NEVER | {"local_cooldown_seconds": 60.0, "refresh_seconds": 0.02}
    router = await start_router(*(backend.url for backend in backends), **settings)
    await router.status()  # the client has its connection
    for _ in range(5):
        with out_of_descriptors():
            response = await router.http.get("/who")
        assert response.status_code == 503
        assert response.headers["retry-after"] == "1"
        assert response.json()["message"] == (
            "this router cannot connect to replicas now: too many open files; try again soon"
        )
    assert len(placements) == 5, "one replica each: others would not be reached either"
    await nothing_is_held_against(router)
    response = await router.http.get("/who")
    assert response.headers["x-backend"] == str(backends[0].port), "and none is in cooldown"
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert [text for text in warnings if "session:" in text] == []
    assert len([text for text in warnings if "cannot connect to replicas: too many open files" in text]) == 1


async def test_a_websocket_session_gets_a_clear_error(start_router: StartRouter, backends: list[Backend]) -> None:
    router = await start_router(backends[0].url, **NEVER)
    reader, writer = await asyncio.open_connection(*router.address)
    await router.status()  # by now the router has accepted it
    with out_of_descriptors():
        writer.write(HANDSHAKE)
        answer = await reader.readuntil(b"\r\n\r\n")
        frames = await reader.readuntil((1013).to_bytes(2) + b"gpu_unavailable")
        writer.write(CLOSE)
        frames += await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 101")
    assert b"cannot connect to replicas now: too many open files" in frames
    assert json.loads(frames[frames.index(b"{") : frames.rindex(b"}") + 1])["retryable"] is True
    assert (1013).to_bytes(2) + b"gpu_unavailable" in frames
    await nothing_is_held_against(router)


@pytest.mark.parametrize("number", [errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ENETDOWN, errno.EADDRNOTAVAIL])
async def test_other_lacks_of_a_machine_count_too(
    start_router: StartRouter,
    backends: list[Backend],
    placements: list[int],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    router = await start_router(*(backend.url for backend in backends), **NEVER)
    ports: list[int] = []

    async def fail(host: str, port: int, *words: Any, **options: Any) -> Any:
        ports.append(port)
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(ReplicaConnection, "open", fail)
        response = await router.http.get("/who")
    assert response.status_code == 503
    assert os.strerror(number).lower() in response.json()["message"]
    assert len(ports) == (3 if number == errno.EADDRNOTAVAIL else 1), "local ports run out for one address at a time"
    await nothing_is_held_against(router)


async def test_another_replica_is_tried_where_ports_lack_to_one(
    start_router: StartRouter, backends: list[Backend], monkeypatch: pytest.MonkeyPatch
) -> None:
    router = await start_router(*(backend.url for backend in backends), **NEVER)
    connect = ReplicaConnection.open

    async def fail_once(host: str, port: int, *words: Any, **options: Any) -> Any:
        if port == backends[0].port:
            raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
        return await connect(host, port, *words, **options)

    with monkeypatch.context() as patch:
        patch.setattr(ReplicaConnection, "open", fail_once)
        response = await router.http.get("/who")
    assert response.status_code == 200
    await nothing_is_held_against(router)


async def test_a_replica_that_refuses_connections_still_counts_as_failed(
    start_router: StartRouter, backends: list[Backend]
) -> None:
    async with Backend() as gone:
        router = await start_router(gone.url, backends[0].url, refresh_seconds=0.02, **NEVER)
    assert (await router.http.get("/who")).status_code == 200

    async def is_counted() -> bool:
        return bool((await router.status())["replicas"][0]["consecutive_failures"] == 1)

    await until(is_counted, "the failure is counted")


async def test_the_pages_show_the_routers_own_trouble(
    start_router: StartRouter, backends: list[Backend], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "QUIET_SECONDS", 3.0)
    router = await start_router(backends[0].url, **NEVER | {"health_check_interval_seconds": 0.2})
    assert (await router.status())["is_in_trouble"] is False
    with out_of_descriptors():
        assert (await router.http.get("/who")).status_code == 503

    async def is_shown() -> bool:
        return bool((await router.status())["is_in_trouble"])

    await until(is_shown, "/status shows it")
    ready = await router.http.get("/readyz")
    assert ready.status_code == 200, "it may still serve what it has, and others may be no better off"
    assert "could not connect to replicas for reasons of its own" in ready.json()["warning"]

    async def is_over() -> bool:
        assert (await router.http.get("/who")).status_code == 200
        return not await is_shown()

    await until(is_over, "it is over")
    assert "warning" not in (await router.http.get("/readyz")).json()
