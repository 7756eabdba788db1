"""Ways to probe many replicas, for `probe_round` to compare: each an `HttpProbe` with what it keeps between rounds."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

import httpcore
import httpx

from shared_registry.probing import HttpProbe, HttpProber

CONCURRENCY = 128


@contextlib.asynccontextmanager
async def prober() -> AsyncIterator[HttpProbe]:
    async with HttpProber() as http_prober:
        yield http_prober


@contextlib.asynccontextmanager
async def shared_httpx() -> AsyncIterator[HttpProbe]:
    async with httpx.AsyncClient() as client:

        async def probe(url: str, *, timeout: float) -> tuple[float, str | None]:
            response = await client.get(url, timeout=timeout)
            return 0.0, None if response.status_code < 400 else f"HTTP {response.status_code}"

        yield probe


@contextlib.asynccontextmanager
async def httpx_per_origin() -> AsyncIterator[HttpProbe]:
    context = ssl.create_default_context()
    async with contextlib.AsyncExitStack() as stack:
        clients: dict[str, httpx.AsyncClient] = {}

        async def probe(url: str, *, timeout: float) -> tuple[float, str | None]:
            if url not in clients:
                client = httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(verify=context), trust_env=False)
                clients[url] = await stack.enter_async_context(client)
            response = await clients[url].get(url, timeout=timeout)
            return 0.0, None if response.status_code < 400 else f"HTTP {response.status_code}"

        yield probe


@contextlib.asynccontextmanager
async def httpcore_per_origin() -> AsyncIterator[HttpProbe]:
    connections: dict[str, httpcore.AsyncHTTPConnection] = {}

    async def probe(url: str, *, timeout: float) -> tuple[float, str | None]:
        target = httpcore.URL(url)
        if url not in connections:
            connections[url] = httpcore.AsyncHTTPConnection(target.origin)
        headers = [("Host", url.split("/")[2]), ("Accept", "*/*"), ("User-Agent", "benchmark")]
        async with asyncio.timeout(timeout):
            response = await connections[url].handle_async_request(httpcore.Request("GET", target, headers=headers))
            await response.aread()
            await response.aclose()
        return 0.0, None if response.status < 400 else f"HTTP {response.status}"

    yield probe
    for connection in connections.values():
        await connection.aclose()


CONTENDERS: dict[str, tuple[Callable[[], AbstractAsyncContextManager[HttpProbe]], int]] = {
    "prober": (prober, CONCURRENCY),
    "httpx": (shared_httpx, sys.maxsize),
    "httpx per origin": (httpx_per_origin, CONCURRENCY),
    "httpcore per origin": (httpcore_per_origin, CONCURRENCY),
}
"""Each with how many probes it has under way at most."""
