"""A session holds a slot for as long as it lasts, over all routers, and comes back to its replica."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from shared_registry import ReplicaEndpoint, RouterConfig
from shared_registry.admin.operator import Operator
from shared_registry.config.rules import OnLost
from shared_registry.embedded import EmbeddedServer
from tests.proxy.conftest import FAST, RunningRouter, StartRouter, running_router
from tests.support.backend import Backend
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

INIT = {"type": "session_init_v2"}


@pytest_asyncio.fixture(loop_scope="module")
async def backends() -> AsyncIterator[list[Backend]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Backend()) for _ in range(2)]


def endpoints(backends: list[Backend], capacity: int) -> list[ReplicaEndpoint]:
    return [ReplicaEndpoint(backend.url, capacity=capacity) for backend in backends]


async def in_flight(router: RunningRouter) -> list[int]:
    return [replica["in_flight"] for replica in (await router.status())["replicas"]]


async def settles(router: RunningRouter, *wanted: int) -> None:
    """Return when the replicas have that many sessions."""

    async def has_settled() -> bool:
        return await in_flight(router) == list(wanted)

    await until(has_settled, f"in_flight is {wanted}")


def stream(router: RunningRouter, path: str = "/v1/stream", **options: Any) -> connect:
    return connect(f"{router.ws}{path}", proxy=None, **options)


async def replica_of(client: ClientConnection) -> str:
    assert client.response is not None
    return client.response.headers["x-backend"]


@pytest.fixture
def fast(server: EmbeddedServer, namespace: str) -> dict[str, Any]:
    return {**FAST, "redis_url": server.url, "namespace": namespace, "refresh_seconds": 0.02}


async def test_a_full_replica_takes_no_session_of_any_router(fast: dict[str, Any], backends: list[Backend]) -> None:
    config = RouterConfig(**fast, replicas=endpoints(backends[:1], capacity=1))
    async with running_router(config) as one, running_router(config) as other:
        await until(lambda: is_ready(other, 1), "the replica is healthy")
        await until(lambda: is_ready(one, 1), "the replica is healthy")
        async with stream(one) as session:
            await session.send("hello")
            assert await session.recv() == "hello"
            for router in (one, other):
                async with stream(router) as refused:
                    error = json.loads(await refused.recv())
                    assert (error["code"], error["retryable"]) == ("gpu_unavailable", True)
                    assert error["message"] == "every healthy replica is full; try again soon"
                    with pytest.raises(ConnectionClosed) as closed:
                        await refused.recv()
                    assert closed.value.rcvd is not None
                    assert closed.value.rcvd.code == 1013
                response = await router.http.get("/who")
                assert (response.status_code, response.headers["retry-after"]) == (503, "1")
                assert response.json()["code"] == "gpu_unavailable"
            await settles(other, 1)
        await settles(other, 0)
        assert (await other.http.get("/who")).status_code == 200


async def is_ready(router: RunningRouter, count: int) -> bool:
    try:
        response = await router.http.get("/status")
    except httpx.TransportError:
        return False
    statuses = [replica["status"] for replica in response.json()["replicas"]]
    return statuses == ["healthy"] * count


async def test_a_slot_is_free_however_its_session_ends(start_router: StartRouter) -> None:
    async with Backend() as replica:
        router = await start_router(replica.url, refresh_seconds=0.02)
        async with stream(router) as session:
            await settles(router, 1)
            session.transport.abort()  # the client is gone without a word
            await settles(router, 0)
        async with stream(router, "/v1/stream?do=die") as session:
            await session.recv()  # the replica breaks off
            await settles(router, 0)
        waiting = asyncio.create_task(router.http.get("/wait"))
        await settles(router, 1)
        waiting.cancel()
        await settles(router, 0)
        async with router.http.stream("GET", "/events"):
            await settles(router, 1)
        await settles(router, 0)


@pytest.mark.parametrize(
    ("session_key", "headers", "path"),
    [
        ("header:X-Session", {"X-Session": "ann"}, "/v1/stream"),
        ("cookie:sid", {"Cookie": "a=b; sid=ann"}, "/v1/stream"),
        ("query:session", {}, "/v1/stream?session=ann"),
    ],
)
async def test_a_session_comes_back_to_its_replica(
    fast: dict[str, Any], backends: list[Backend], session_key: str, headers: dict[str, str], path: str
) -> None:
    config = RouterConfig(**fast, replicas=endpoints(backends, capacity=0), session_key=session_key)
    async with running_router(config) as router, running_router(config) as other:
        for each in (router, other):
            await until(lambda each=each: is_ready(each, 2), "both are healthy")  # type: ignore[misc]
        async with stream(router, path, additional_headers=headers) as session:
            mine = await replica_of(session)
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(3):  # others make it the more loaded one
                response = await stack.enter_async_context(router.http.stream("GET", "/events"))
                assert response.status_code == 200
            for each in (router, other):
                async with stream(each, path, additional_headers=headers) as session:
                    assert await replica_of(session) == mine


async def test_a_first_message_names_the_session_and_is_forwarded(
    fast: dict[str, Any], backends: list[Backend]
) -> None:
    config = RouterConfig(**fast, replicas=endpoints(backends, capacity=0), session_key="first_frame.client_id")
    async with running_router(config) as router:
        await until(lambda: is_ready(router, 2), "both are healthy")

        async def visit(name: str) -> int:
            """Open a session, and return which replica it is on."""
            before = [len(backend.scopes) for backend in backends]
            first = json.dumps({**INIT, "client_id": name})
            async with stream(router, subprotocols=["v2", "v1"]) as session:
                assert session.subprotocol == "v2"
                await session.send(first)
                assert await session.recv() == first
                await session.send(b"more")
                assert await session.recv() == b"more"
            after = [len(backend.scopes) for backend in backends]
            return next(at for at, (one, other) in enumerate(zip(before, after, strict=True)) if one != other)

        places = [await visit("ann") for _ in range(4)]
        assert len(set(places)) == 1
        async with stream(router, "/v1/stream?reject=401") as session:
            await session.send("hello")
            assert json.loads(await session.recv())["message"] == "the replica refused the session: HTTP 401"
        router.router.reload(dataclasses.replace(router.router.config, header_timeout_seconds=0.3))
        async with stream(router) as session:
            error = json.loads(await session.recv())
            assert (error["code"], error["retryable"]) == ("bad_request", False)
            with pytest.raises(ConnectionClosed) as closed:
                await session.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1008
        async with stream(router) as session:
            session.transport.abort()
        await settles(router, 0, 0)


@pytest.mark.parametrize("on_lost", ["keep", "close"])
async def test_a_session_on_a_removed_replica_continues_or_ends(
    fast: dict[str, Any], backends: list[Backend], on_lost: OnLost
) -> None:
    """As the setting says."""
    config = RouterConfig(**fast, replicas=endpoints(backends[:1], capacity=0), on_lost=on_lost)
    async with running_router(config) as router:
        await until(lambda: is_ready(router, 1), "the replica is healthy")
        async with stream(router) as session, router.http.stream("GET", "/events") as events:
            async with Operator(config, by="ann@desk") as operator:
                await operator.remove((await operator.find([backends[0].url]))[0])
            if on_lost == "keep":
                await until(lambda: has_no_replicas(router), "the removal has arrived")
                await session.send("still here")
                assert await session.recv() == "still here"
                return
            assert json.loads(await session.recv())["code"] == "worker_failed"
            with pytest.raises(ConnectionClosed) as closed:
                await session.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1011
            with pytest.raises(httpx.RemoteProtocolError):  # broken off: it does not look complete
                await events.aread()


async def has_no_replicas(router: RunningRouter) -> bool:
    return await in_flight(router) == []


async def test_a_replica_that_refused_is_avoided_for_some_time(
    fast: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    never = {"health_check_interval_seconds": 3600.0, "fast_interval_seconds": 3600.0, "local_cooldown_seconds": 60.0}
    async with Backend() as first, Backend() as second:
        replicas = [ReplicaEndpoint(first.url, primary=True), ReplicaEndpoint(second.url)]
        async with running_router(RouterConfig(**{**fast, **never}, replicas=replicas)) as router:
            await until(lambda: is_ready(router, 2), "both are healthy")
            await first.__aexit__(None, None, None)
            for _ in range(5):
                response = await router.http.get("/who")
                assert response.headers["x-backend"] == str(second.port)

            async def is_counted() -> bool:
                counted: int = (await router.status())["replicas"][0]["consecutive_failures"]
                return counted == 1

            await until(is_counted, "one failure is counted")
            assert len([line for line in caplog.messages if "did not take the session" in line]) == 1
            await second.__aexit__(None, None, None)
            assert (await router.http.get("/who")).status_code == 502
            assert len([line for line in caplog.messages if f"{first.url} did not take the session" in line]) == 2
