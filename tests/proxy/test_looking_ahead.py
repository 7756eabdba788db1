"""Clients that misbehave while the router looks for the model in their bodies."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from shared_registry import RouterConfig
from shared_registry.embedded import EmbeddedServer
from tests.proxy.conftest import FAST, SECONDS, RunningRouter, running_router
from tests.support.backend import Backend
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

HEAD = b"POST /jobs HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n"
CHUNKED = b"POST /jobs HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"


@contextlib.asynccontextmanager
async def by_model(server: EmbeddedServer, namespace: str, **settings: Any) -> AsyncIterator[RunningRouter]:
    """Run a router with one pool, for the model `m`."""
    async with Backend() as backend:
        pools = [{"name": namespace, "replicas": [backend.url], "models": ["m"]}]
        config = RouterConfig(**{"redis_url": server.url, "pools": pools, **FAST, **settings})
        async with running_router(config) as router:

            async def is_healthy() -> bool:
                pool = (await router.status())["pools"][namespace]
                return [one["status"] for one in pool["replicas"]] == ["healthy"]

            await until(is_healthy, "the pool is healthy")
            yield router


async def answer_to(router: RunningRouter, *sent: bytes) -> bytes:
    """Send something, and return all that comes until the router closes the connection."""
    reader, writer = await asyncio.open_connection(*router.address)
    try:
        for one in sent:
            writer.write(one)
            await writer.drain()
        async with asyncio.timeout(SECONDS):
            return await reader.read()
    finally:
        writer.close()


async def test_a_body_may_grow_too_long_before_its_model(server: EmbeddedServer, namespace: str) -> None:
    async with by_model(server, namespace, max_body_bytes=4096) as router:
        answer = await answer_to(router, CHUNKED + b'2000\r\n{"x":"' + b"x" * 0x1FFA)
        assert answer.startswith(b"HTTP/1.1 413 ")


async def test_a_body_announced_too_long_is_not_asked_for(server: EmbeddedServer, namespace: str) -> None:
    async with by_model(server, namespace, max_body_bytes=4096) as router:
        answer = await answer_to(router, HEAD.replace(b"1000\r\n", b"9000\r\nexpect: 100-continue\r\n"))
        assert answer.startswith(b"HTTP/1.1 413 ")


async def test_a_model_that_never_comes_ends_with_408(server: EmbeddedServer, namespace: str) -> None:
    async with by_model(server, namespace, response_timeout_seconds=0.5) as router:
        assert (await answer_to(router, HEAD + b'{"mod')).startswith(b"HTTP/1.1 408 ")
        assert (await answer_to(router, HEAD)).startswith(b"HTTP/1.1 408 ")


async def test_the_total_time_includes_the_search_for_the_model(server: EmbeddedServer, namespace: str) -> None:
    async with by_model(server, namespace, total_timeout_seconds=1.0) as router:
        assert (await answer_to(router, HEAD + b'{"mod')).startswith(b"HTTP/1.1 504 ")


async def test_a_body_in_tiny_chunks_holds_up_nobody(server: EmbeddedServer, namespace: str) -> None:
    """Its pieces are read once each, however many there are."""
    body = json.dumps({"prompt": 'x\\"' * 33_000, "model": "m"}).encode()
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    async with by_model(server, namespace) as router:
        answer = await answer_to(router, CHUNKED[:-2] + b"connection: close\r\n\r\n" + chunks)
        assert answer.startswith(b"HTTP/1.1 200 ")
