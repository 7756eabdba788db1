"""Routers behind nginx, HAProxy and Envoy, each with its file of examples/edge."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect

from tests.proxy.conftest import FAST, SECONDS, StartRouter, until_idle
from tests.support.backend import Backend
from tests.support.edges import KINDS, Edge, edge_before
from tests.support.foreign import find_module
from tests.support.h2load import load
from tests.support.scripted_routers import Refusing, Swallowing
from tests.support.until import until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.parametrize("kind", KINDS)]

REQUESTS = 1000
OWN_PAGES = [
    "/status",
    "/readyz",
    "/healthz",
    "//status",
    "/Status",
    "/%73tatus",
    "/v1/../status",
    "/v1/%2e%2e/status",
    "/v1/..%2fstatus",
    "/v1/./../status",
    "/v1/%2e%2e%2fstatus",
    "/v1/x/../../status",
]


@pytest_asyncio.fixture(loop_scope="module")
async def backend() -> AsyncIterator[Backend]:
    async with Backend() as backend:
        yield backend


@contextlib.asynccontextmanager
async def client_of(edge: Edge, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    find_module("h2")  # or httpx cannot speak HTTP/2
    async with httpx.AsyncClient(
        base_url=edge.url, http2=True, verify=edge.trust, trust_env=False, timeout=SECONDS, **settings
    ) as http:
        yield http


async def served(http: httpx.AsyncClient) -> None:
    """Wait until the edge has found a router that is ready."""

    async def is_served() -> bool:
        return (await http.get("/v1/models")).status_code == 200

    await until(is_served, "the edge passes on requests")


async def test_http_2_and_the_true_address_reach_the_router(
    kind: str, backend: Backend, start_router: StartRouter, tmp_path: Path
) -> None:
    router = await start_router(backend.url)
    claimed = {"X-Forwarded-For": "9.9.9.9", "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "http"}
    async with edge_before(kind, tmp_path, [router.address] * 2) as edge, client_of(edge) as http:
        await served(http)
        response = await http.post("/v1/x?a=b%20c", json={"a": 1}, headers=claimed)
        assert (response.status_code, response.http_version) == (200, "HTTP/2")
        got = response.json()
        assert (got["target"], got["body"].replace(" ", "")) == ("/v1/x?a=b%20c", '{"a":1}')
        headers: dict[str, str] = {}
        for name, value in got["headers"]:
            assert name not in headers, f"{name} twice"
            headers[name] = value
        host = f"127.0.0.1:{edge.port}"
        assert headers["host"] == headers["x-forwarded-host"] == host
        client, seen = headers["x-forwarded-for"].split(", ")  # the client's address, and the edge's
        assert seen == "127.0.0.1"
        assert client == "127.0.0.1" or kind == "envoy"  # which writes the machine's address for a loopback one
        assert "9.9.9.9" not in headers["x-forwarded-for"]
        assert headers["x-forwarded-proto"] == "https"
        for path, page in zip(
            OWN_PAGES, await asyncio.gather(*(raw_get(edge, path) for path in OWN_PAGES)), strict=True
        ):
            assert b"leader" not in page, path
            assert b"writable_age_seconds" not in page, path
            assert page.split()[1] in {b"400", b"404"}, (path, page)


async def raw_get(edge: Edge, path: str) -> bytes:
    """Request a path as it is spelled: httpx would resolve it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port, ssl=edge.trust)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        return await asyncio.wait_for(reader.read(), SECONDS)
    finally:
        writer.transport.abort()


async def test_each_event_arrives_before_the_next_is_sent(
    kind: str, backend: Backend, start_router: StartRouter, tmp_path: Path
) -> None:
    router = await start_router(backend.url)
    async with edge_before(kind, tmp_path, [router.address] * 2) as edge, client_of(edge) as http:
        await served(http)
        backend.events.put_nowait("0")  # nginx sends the head with the first event
        async with http.stream("GET", "/v1/events") as response, asyncio.timeout(SECONDS):
            lines = response.aiter_lines()
            for at in range(20):
                assert [await anext(lines), await anext(lines)] == [f"data: {at}", ""]
                backend.events.put_nowait(str(at + 1))
    await until_idle(router)


async def test_an_upload_is_passed_on_while_it_comes(
    kind: str, backend: Backend, start_router: StartRouter, tmp_path: Path
) -> None:
    router = await start_router(backend.url)
    reached = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield bytes(1000)
        await asyncio.wait_for(reached.wait(), SECONDS)
        for _ in range(200):
            yield bytes(16_000)

    async def is_at_router() -> bool:
        return bool((await router.status())["sessions"])

    async def watch() -> None:
        await until(is_at_router, "the router has a request whose body is not complete")
        reached.set()

    async with edge_before(kind, tmp_path, [router.address] * 2) as edge, client_of(edge) as http:
        await served(http)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(watch())
            response = await http.post("/v1/upload", content=body())
        assert response.json() == {"bytes": 1000 + 200 * 16_000}


async def test_a_websocket_may_be_silent_for_long(
    kind: str, backend: Backend, start_router: StartRouter, tmp_path: Path
) -> None:
    """All limits of the edge are two seconds, but that for WebSockets: it is the one that holds."""
    router = await start_router(backend.url)
    async with (
        edge_before(kind, tmp_path, [router.address] * 2, is_shortened=True) as edge,
        client_of(edge) as http,
    ):
        await served(http)
        url = f"{edge.url.replace('http', 'ws')}/v1/stream"
        async with connect(url, ssl=edge.trust, proxy=None, ping_interval=None) as client:
            for message in ("a text", bytes(300_000)):
                await client.send(message)
                assert await asyncio.wait_for(client.recv(), SECONDS) == message
            await asyncio.sleep(6.0)
            await client.send("still there")
            assert await asyncio.wait_for(client.recv(), SECONDS) == "still there"
        assert (await asyncio.wait_for(backend.closes.get(), SECONDS))[0] == 1000
        await until_idle(router)


async def test_a_client_that_leaves_frees_its_slot(
    kind: str, backend: Backend, start_router: StartRouter, tmp_path: Path
) -> None:
    router = await start_router(backend.url)
    async with edge_before(kind, tmp_path, [router.address] * 2) as edge:
        for is_http2 in (True, False):
            async with client_of(edge) as http:
                await served(http)
            backend.forget()
            async with httpx.AsyncClient(base_url=edge.url, http2=is_http2, verify=edge.trust, trust_env=False) as http:
                waiting = asyncio.create_task(http.post("/v1/wait", timeout=SECONDS))
                await until(lambda: backend.scopes, "the replica has the request")
                waiting.cancel()
                await asyncio.wait((waiting,))
            await until(backend.left.is_set, "the replica knows that the client has left")
            await until_idle(router)


async def test_no_request_is_lost_when_a_router_stops(
    kind: str, backend: Backend, start_router: StartRouter, tmp_path: Path
) -> None:
    staying = await start_router(backend.url)
    leaving = await start_router(backend.url, **FAST | {"grace_seconds": 20.0})
    (tmp_path / "body").write_bytes(b"x" * 100)
    async with edge_before(kind, tmp_path, [leaving.address, staying.address]) as edge, client_of(edge) as http:
        await served(http)
        backend.forget()
        begun = [asyncio.create_task(http.post("/v1/wait")) for _ in range(4)]
        await until(lambda: len(backend.scopes) == 4, "the replica has requests")
        assert (await leaving.status())["sessions"] > 0
        async with load(f"{edge.url}/v1/x", tmp_path / "body", requests=REQUESTS) as result:
            await until(lambda: len(backend.scopes) > 100, "requests are answered")
            leaving.stop.ask()
            assert len(backend.scopes) < REQUESTS - 200, "the load is not over"
            succeeded = await result
        assert succeeded == REQUESTS
        backend.go_on.set()
        assert [(await response).text for response in begun] == ["at last"] * 4
        await asyncio.wait_for(asyncio.shield(leaving.serving), SECONDS)  # without a session it stops by itself
        assert (await http.post("/v1/x")).status_code == 200
    await until_idle(staying)


async def test_a_router_that_cannot_be_reached_is_passed_over(
    kind: str, backend: Backend, start_router: StartRouter, tmp_path: Path
) -> None:
    router = await start_router(backend.url)
    async with (
        Refusing() as gone,
        edge_before(kind, tmp_path, [gone.address, router.address]) as edge,
        client_of(edge) as http,
    ):
        await served(http)
        for at in range(20):
            response = await http.post(f"/v1/{at}", content=b"x")
            assert (response.status_code, response.json()["body"]) == (200, "x")


async def test_a_request_that_may_have_begun_is_not_repeated(kind: str, tmp_path: Path) -> None:
    async with (
        Swallowing() as one,
        Swallowing() as two,
        edge_before(kind, tmp_path, [one.address, two.address]) as edge,
        client_of(edge) as http,
    ):
        await until(lambda: kind == "nginx" or (one.probes and two.probes), "both are probed")
        for at in range(1, 5):
            with contextlib.suppress(httpx.RemoteProtocolError):  # HAProxy resets an HTTP/2 stream
                response = await http.post(f"/v1/{at}", content=b"x" * 100)
                assert response.status_code in {502, 503}
        reached = Counter(one.requests + two.requests)
        assert set(reached.values()) == {1}, reached
