"""The limits of requests: the size of a body, the wait for a response, the whole, and the number of clients."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.proxy.conftest import RunningRouter, StartRouter
from tests.support.backend import Backend, RawBackend
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

MOST = 4096


@contextlib.asynccontextmanager
async def connected(router: RunningRouter) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(*router.address)
    try:
        yield reader, writer
    finally:
        writer.close()


async def no_slot_is_taken(router: RunningRouter) -> bool:
    return [one["in_flight"] for one in (await router.status())["replicas"]] == [0]


async def test_a_body_that_is_announced_too_long_takes_no_slot(start_router: StartRouter) -> None:
    async with Backend() as backend:
        router = await start_router(backend.url, max_body_bytes=MOST)
        async with connected(router) as (reader, writer):
            writer.write(b"POST /jobs HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 4097\r\n\r\n")
            answer = await reader.read()  # to the end: the connection closes
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"max_body_bytes" in answer
        assert backend.scopes == []
        assert (await router.http.post("/jobs", content=b"x" * MOST)).status_code == 200


async def test_a_body_that_grows_too_long_ends_with_413(start_router: StartRouter) -> None:
    async with Backend() as backend:
        router = await start_router(backend.url, max_body_bytes=MOST)
        async with connected(router) as (reader, writer):
            writer.write(b"POST /jobs HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
            for _ in range(2):
                writer.write(b"1000\r\n" + b"x" * 0x1000 + b"\r\n")
                await writer.drain()
            answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 413 ")
        await until(lambda: no_slot_is_taken(router), "the slot is free")
        assert [one["status"] for one in (await router.status())["replicas"]] == ["healthy"]


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 102 Processing\r\n\r\n"])
async def test_a_response_that_does_not_begin_is_given_up(start_router: StartRouter, sent: bytes) -> None:
    async def trickle(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        while True:
            await asyncio.sleep(0.05)
            writer.write(sent if sent.endswith(b"\r\n\r\n") else b"x-more: 1\r\n" if sent else b"")
            await writer.drain()

    async with RawBackend(trickle) as backend:
        router = await start_router(backend.url, first_byte_timeout_seconds=0.5)
        answer = await router.http.get("/slow", timeout=60)
        assert answer.status_code == 504
        await until(lambda: no_slot_is_taken(router), "the slot is free")


async def test_a_response_that_has_begun_may_pause_for_longer(start_router: StartRouter) -> None:
    async def pause(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\none")
        await asyncio.sleep(3.0)
        writer.write(b"two")

    async with RawBackend(pause) as backend:
        router = await start_router(backend.url, first_byte_timeout_seconds=2.0)
        assert (await router.http.get("/slow", timeout=60)).content == b"onetwo"


async def test_a_stream_without_end_is_broken_off_in_time(start_router: StartRouter) -> None:
    async def stream(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"1\r\nx\r\n")
            await writer.drain()
            await asyncio.sleep(0.05)

    async with RawBackend(stream) as backend:
        router = await start_router(backend.url, total_timeout_seconds=2.0)
        with pytest.raises(httpx.RemoteProtocolError):
            await router.http.post("/stream", timeout=60)
        await until(lambda: no_slot_is_taken(router), "the slot is free")
        assert [one["ejected_until"] for one in (await router.status())["replicas"]] == [None]


async def test_a_body_that_never_ends_is_answered_in_time(start_router: StartRouter) -> None:
    async with Backend() as backend:
        router = await start_router(backend.url, total_timeout_seconds=1.0)
        async with connected(router) as (reader, writer):
            writer.write(b"POST /upload HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
            reading = asyncio.ensure_future(reader.read())
            while not reading.done():
                writer.write(b"1\r\nx\r\n")
                await asyncio.sleep(0.05)
            assert (await reading).startswith(b"HTTP/1.1 504 ")
        await until(lambda: no_slot_is_taken(router), "the slot is free")


async def test_the_wait_for_a_slot_counts(start_router: StartRouter) -> None:
    router = await start_router(total_timeout_seconds=1.0, queue_timeout_seconds=60.0)
    answer = await router.http.post("/jobs", timeout=60)
    assert answer.status_code == 504
    assert "total_timeout_seconds" in answer.json()["message"]

    async def nobody_waits() -> bool:
        return bool((await router.status())["queue"]["depth"] == 0)

    await until(nobody_waits, "the request has left the queue")


async def test_a_client_above_the_limit_gets_only_own_pages(start_router: StartRouter) -> None:
    async with Backend() as backend:
        router = await start_router(backend.url, max_clients=2)
        async with httpx.AsyncClient(base_url=router.http.base_url, trust_env=False, timeout=60) as another:
            async with connected(router), connected(router):

                async def is_refused() -> bool:
                    return (await another.get("/who")).status_code == 503

                await until(is_refused, "there is no room")
                assert (await another.get("/healthz")).status_code == 200

            async def is_served() -> bool:
                async with httpx.AsyncClient(base_url=router.http.base_url, trust_env=False, timeout=60) as newcomer:
                    return (await newcomer.get("/who")).status_code == 200

            await until(is_served, "there is room again")
