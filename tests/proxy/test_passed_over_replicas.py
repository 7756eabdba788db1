"""A replica that does not take a session is passed over, and the registry hears of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from websockets.asyncio.client import connect

from shared_registry import Replica, ReplicaEndpoint, RouterConfig
from shared_registry.probing.tls import TlsContexts
from shared_registry.proxy.connections import ReplicaConnections
from tests.proxy.conftest import RunningRouter, StartRouter
from tests.support.backend import Backend, RawBackend
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

NEVER = {"health_check_interval_seconds": 3600.0, "fast_interval_seconds": 3600.0, "local_cooldown_seconds": 0.0}
"""Leaves the verdict to what sessions meet, and lets each try what the one before it failed on."""


@pytest_asyncio.fixture(loop_scope="module")
async def second() -> AsyncIterator[Backend]:
    async with Backend() as backend:
        yield backend


async def failures(router: RunningRouter, at: int = 0) -> int:
    count: int = (await router.status())["replicas"][at]["consecutive_failures"]
    return count


async def test_the_next_replica_takes_a_session_that_the_first_refuses(
    start_router: StartRouter, second: Backend
) -> None:
    async with Backend() as first:
        router = await start_router(first.url, second.url, refresh_seconds=0.02, **NEVER)
        response = await router.http.get("/who")
        assert response.headers["x-backend"] == str(first.port)
    response = await router.http.post("/who", content=b"the body")
    assert (response.headers["x-backend"], response.json()["body"]) == (str(second.port), "the body")
    async with connect(f"{router.ws}/v1/stream", proxy=None) as client:
        assert client.response is not None
        assert client.response.headers["x-backend"] == str(second.port)
        await client.send("hello")
        assert await client.recv() == "hello"

    async def both_are_counted() -> bool:
        return await failures(router) == 2

    await until(both_are_counted, "both failures are counted")
    await router.http.get("/who")

    async def is_unhealthy() -> bool:
        [one, other] = (await router.status())["replicas"]
        return (one["status"], other["status"]) == ("unhealthy", "healthy")

    await until(is_unhealthy, "the third failure made it unhealthy")
    assert "ConnectError" in (await router.status())["replicas"][0]["last_error"]


async def test_if_all_replicas_refuse_the_client_receives_it(start_router: StartRouter) -> None:
    async with Backend() as one, Backend() as other:
        router = await start_router(one.url, other.url, **NEVER)
    async with connect(f"{router.ws}/v1/stream", proxy=None) as client:
        error = json.loads(await client.recv())
        assert (error["code"], error["retryable"]) == ("gpu_unavailable", True)
        assert error["message"] == "none of 2 replicas could be reached; try again soon"
    response = await router.http.get("/who")
    assert response.status_code == 502
    assert response.json()["code"] == "gpu_unavailable"


async def test_a_silent_replica_is_passed_over_in_time(start_router: StartRouter, second: Backend) -> None:
    async def silence(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with RawBackend(silence) as first:
        router = await start_router(first.url, second.url, connect_timeout_seconds=1.5, refresh_seconds=0.02, **NEVER)
        async with connect(f"{router.ws}/v1/stream", proxy=None) as client:
            await client.send("hello")
            assert await client.recv() == "hello"

        async def is_counted() -> bool:
            return await failures(router) == 1

        await until(is_counted, "the failure is counted")


async def test_a_pause_of_the_event_loop_passes_over_no_replica(second: Backend) -> None:
    """Wherever it comes while the router connects: the replica has accepted by then."""
    config = RouterConfig(connect_timeout_seconds=0.2)
    pools = ReplicaConnections(config, TlsContexts(config))
    replica = Replica(ReplicaEndpoint(second.url))
    for turns in range(6):
        taking = asyncio.create_task(pools.take(replica))
        for _ in range(turns):
            await asyncio.sleep(0)
        time.sleep(0.4)  # noqa: ASYNC251  what pauses the loop
        (await taking).abort()


@pytest.mark.parametrize(("status", "is_counted"), [(500, True), (502, True), (503, False), (429, False)])
async def test_a_failed_handshake_is_tried_elsewhere(
    start_router: StartRouter, second: Backend, status: int, is_counted: bool
) -> None:
    """A replica that refuses as busy is not at fault."""

    async def refuse(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n".encode())

    async with RawBackend(refuse) as first:
        router = await start_router(first.url, second.url, refresh_seconds=0.02, **NEVER)
        for _ in range(2):
            async with connect(f"{router.ws}/v1/stream", proxy=None) as client:
                await client.send("hello")
                assert await client.recv() == "hello"
        assert len(first.heads) == 2

        async def is_as_expected() -> bool:
            return await failures(router) == (2 if is_counted else 0)

        await until(is_as_expected, "it counts only where it is evidence")


async def test_a_request_already_begun_goes_to_no_other_replica(start_router: StartRouter, second: Backend) -> None:
    async def read_and_hang_up(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(4)
        writer.close()

    async with RawBackend(read_and_hang_up) as first:
        router = await start_router(first.url, second.url, **NEVER)
        response = await router.http.post("/who", content=b"body")
        assert (response.status_code, response.json()["code"]) == (502, "worker_failed")
        assert second.scopes == []


async def test_a_closed_kept_connection_does_not_harm_the_client(start_router: StartRouter) -> None:
    async def answer_once(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(answered) % 2 == 0:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        else:
            writer.transport.abort()  # as a server does whose idle time ran out when the request was on its way
        answered.append(head)

    answered: list[bytes] = []
    async with RawBackend(answer_once) as replica:
        router = await start_router(replica.url, replica_idle_seconds=60.0)
        for _ in range(3):
            assert (await router.http.get("/")).status_code == 200
        assert len(answered) == 5


async def test_silent_replicas_alone_give_504(start_router: StartRouter) -> None:
    async with Backend() as replica:
        router = await start_router(replica.url, connect_timeout_seconds=0.2, **NEVER)
    with contextlib.ExitStack() as sockets:
        address = ("127.0.0.1", replica.port)
        sockets.enter_context(socket.create_server(address, backlog=0))
        for _ in range(4):  # until its queue is full, and the system drops what comes
            filler = sockets.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(address)
        response = await router.http.get("/")
        assert (response.status_code, response.json()["code"]) == (504, "gpu_unavailable")
