"""Chromium before a router, without an edge and behind each: fetch, EventSource and WebSocket, as pages use them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Route

from shared_registry.embedded.bound_process import BoundProcess
from shared_registry.model import ReplicaEndpoint
from tests.proxy.conftest import StartRouter, all_healthy, until_idle
from tests.support.backend import Backend
from tests.support.edges import KINDS, edge_before
from tests.support.foreign import find_program
from tests.support.until import until
from tests.support.webdriver import CHROMIUM_ARGUMENTS

pytestmark = pytest.mark.asyncio(loop_scope="module")

PAGES = Path(__file__).parents[2] / "support" / "pages"
SECONDS = 50.0
ARGUMENTS = [*CHROMIUM_ARGUMENTS, "--ignore-certificate-errors"]


class Site:
    """A replica's pages for the browser.

    Attributes:
        results: What the page reports.
        routes: The pages.
    """

    def __init__(self) -> None:
        self.results: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.routes = [
            Route("/v1/{page}.html", self._page),
            Route("/v1/events", self._stream),
            Route("/v1/next", self._next, methods=["POST"]),
            Route("/v1/results", self._report, methods=["POST"]),
        ]
        self._events: asyncio.Queue[int]

    async def _page(self, request: Request) -> Response:
        return FileResponse(PAGES / f"{request.path_params['page']}.html")

    async def _stream(self, request: Request) -> Response:
        self._events = events = asyncio.Queue[int]()
        events.put_nowait(1)

        async def lines() -> AsyncIterator[str]:
            while True:
                yield f"data: {await events.get()}\n\n"

        return StreamingResponse(lines(), media_type="text/event-stream")

    async def _next(self, request: Request) -> Response:
        self._events.put_nowait((await request.json())["number"])
        return Response()

    async def _report(self, request: Request) -> Response:
        self.results.set_result(await request.json())
        return Response()


@contextlib.contextmanager
def browser(url: str, folder: Path) -> Iterator[None]:
    """Open a page in a Chromium of its own for the block."""
    with (folder / "chromium.log").open("wb") as log:
        command = [find_program("chromium"), *ARGUMENTS, f"--user-data-dir={folder / 'profile'}", url]
        process = BoundProcess(command, cwd=folder, output=log)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # it leads a group of helpers
        process.kill()


@contextlib.asynccontextmanager
async def way(kind: str, address: tuple[str, int], folder: Path) -> AsyncIterator[str]:
    """Yield the url of an edge before a router, or of the router itself."""
    if kind == "no edge":
        yield f"http://{address[0]}:{address[1]}"
    else:
        async with edge_before(kind, folder, [address] * 2) as edge:
            yield edge.url


@pytest.mark.parametrize("kind", ["no edge", *KINDS])
async def test_a_page_streams_echoes_and_reads_refusals(kind: str, start_router: StartRouter, tmp_path: Path) -> None:
    site = Site()
    async with Backend(routes=site.routes) as backend:
        router = await start_router(backend.url, routes="[]")
        async with way(kind, router.address, tmp_path) as url, asyncio.timeout(SECONDS):
            with browser(f"{url}/v1/browser.html", tmp_path):
                results = await site.results
        assert results["streams"] == [f"data: {at}\n\n" for at in range(1, 6)]
        assert results["events"] == ["1", "2", "3", "4", "5"]
        assert results["echo"] == ["first", "text", 100_000, 4001, True]
        assert results["closed"] == [4002, "the replica says so", True]
        assert results["upload"] == [200, 100_000]
        assert results["refused"] == [403, "error"]
        assert results["protocols"] == ["http/1.1" if kind == "no edge" else "h2"]
        await until_idle(router)


@pytest.mark.parametrize("is_listed", [True, False])
async def test_a_full_fleet_is_readable_from_listed_origins(
    start_router: StartRouter, tmp_path: Path, *, is_listed: bool
) -> None:
    site = Site()
    async with Backend() as replica, Backend(routes=site.routes) as pages:
        endpoints = [ReplicaEndpoint(replica.url, primary=True, capacity=1)]
        origins = pages.url if is_listed else "https://app.example.com"
        router = await start_router(is_awaited=False, replicas=endpoints, routes="[]", cors_origins=origins)
        await until(lambda: all_healthy(router, 1), "the replica is healthy")
        holding = asyncio.create_task(router.http.post("/v1/wait"))
        await until(lambda: replica.scopes, "the only slot is taken")
        async with asyncio.timeout(SECONDS):
            with browser(f"{pages.url}/v1/other_origin.html?router={router.url}", tmp_path):
                results = await site.results
        if is_listed:
            status, code, message, retry_after = results["full"]
            assert (status, code) == (503, "gpu_unavailable")
            assert "full" in message
            assert int(retry_after) > 0
            assert results["models"] == [200, "GET"]
            assert results["session"] == ["gpu_unavailable", 1013]
        else:
            assert results["full"] == results["models"] == "TypeError: Failed to fetch"
            assert results["session"] == [1006]
        replica.go_on.set()
        assert (await holding).status_code == 200
        await until_idle(router)
