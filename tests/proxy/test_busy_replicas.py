"""A busy replica is no broken one: its requests go to another replica while there is one."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from shared_registry.proxy.retry_budget import EACH_SECOND, SHARE
from tests.proxy.conftest import StartRouter, until_idle
from tests.proxy.test_framing import Reader, Writer, body_of, tell
from tests.support.backend import Backend, RawBackend

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY = b"x" * 60_000


def busy(status: int) -> RawBackend:
    async def refuse(head: bytes, reader: Reader, writer: Writer) -> None:
        await body_of(head, reader)
        writer.write(b"HTTP/1.1 %d Busy\r\nRetry-After: 7\r\nContent-Length: 4\r\n\r\nbusy" % status)

    return RawBackend(refuse)


@contextlib.asynccontextmanager
async def pair(status: int) -> AsyncIterator[tuple[RawBackend, RawBackend]]:
    async with busy(status) as first, RawBackend(tell) as second:
        yield first, second


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_another_replica_takes_the_request(start_router: StartRouter, status: int, method: str) -> None:
    async with pair(status) as (first, second):
        router = await start_router(first.url, second.url)
        content = BODY if method == "POST" else None
        response = await router.http.request(method, "/x", content=content)
        assert (response.status_code, response.content) == (200, method.encode() + b" /x|" + (content or b""))
        assert (len(first.heads), len(second.heads)) == (1, 1)
        await until_idle(router)
        replica = (await router.status())["replicas"][0]
        assert (replica["status"], replica["consecutive_failures"]) == ("healthy", 0)


async def test_a_body_too_large_to_be_kept_is_sent_once(start_router: StartRouter) -> None:
    async with pair(503) as (first, second):
        router = await start_router(first.url, second.url)
        response = await router.http.post("/x", content=BODY * 20)
        assert (response.status_code, response.content, response.headers["retry-after"]) == (503, b"busy", "7")
        assert second.heads == []


async def test_the_only_replica_says_itself_that_it_is_busy(start_router: StartRouter) -> None:
    async with busy(429) as first:
        router = await start_router(first.url)
        response = await router.http.post("/x", content=b"hello")
        assert (response.status_code, response.content, response.headers["retry-after"]) == (429, b"busy", "7")


async def test_where_all_are_busy_the_client_may_retry(start_router: StartRouter) -> None:
    async with busy(503) as first, busy(429) as second:
        router = await start_router(first.url, second.url)
        response = await router.http.post("/x", content=b"hello")
        assert response.status_code == 503
        assert "busy" in response.text
        assert int(response.headers["retry-after"]) >= 1
        assert (len(first.heads), len(second.heads)) == (1, 1)


async def test_retries_are_bounded_by_their_budget(start_router: StartRouter) -> None:
    async with pair(503) as (first, second):
        router = await start_router(first.url, second.url)
        began = time.monotonic()
        responses = await asyncio.gather(*[router.http.post("/x", content=b"hello") for _ in range(200)])
        took = time.monotonic() - began
        refused = [response.status_code for response in responses].count(503)
        retries = len(first.heads) - refused
        assert 10 <= retries <= EACH_SECOND + 200 * SHARE + took * EACH_SECOND + 1


async def test_a_begun_response_is_never_sent_again(start_router: StartRouter) -> None:
    async with Backend() as first, RawBackend(tell) as second:
        router = await start_router(first.url, second.url)
        response = await router.http.get("/answer?status=404&body=whole")
        assert (response.status_code, response.text, second.heads) == (404, "whole", [])
