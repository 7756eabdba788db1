"""Replicas that answer without end, too early, or not at all: their requests fail, and no other does."""

from __future__ import annotations

import asyncio

import pytest

from tests.proxy.conftest import SECONDS, StartRouter
from tests.proxy.test_framing import POST, Reader, Writer, connected, slots_are_free, tell
from tests.support.backend import RawBackend

pytestmark = pytest.mark.asyncio(loop_scope="module")

GET = b"GET /one HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize(
    "endless",
    [
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"X: y\r\n",
        b"\r\n",
    ],
    ids=["early hints", "continue", "headers", "empty lines"],
)
async def test_a_response_that_never_begins_is_given_up(start_router: StartRouter, endless: bytes) -> None:
    async def flood(head: bytes, reader: Reader, writer: Writer) -> None:
        if endless.startswith(b"X"):
            writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(endless * 100)
            await writer.drain()

    async with RawBackend(flood) as replica:
        router = await start_router(replica.url)
        async with connected(router) as client:
            await client.send(GET)
            assert (await client.response())[0] == 502
        await slots_are_free(router)


async def test_a_few_interim_responses_before_each_response_are_skipped(start_router: StartRouter) -> None:
    async def hint(head: bytes, reader: Reader, writer: Writer) -> None:
        for _ in range(20):
            writer.write(b"HTTP/1.1 103 Early Hints\r\nX: " + b"a" * 1000 + b"\r\n\r\n")
            await writer.drain()
            await asyncio.sleep(0)
        await tell(head, reader, writer)

    async with RawBackend(hint) as replica:
        router = await start_router(replica.url)
        async with connected(router) as client:
            for _ in range(10):  # over one connection, which counts anew for each
                await client.send(GET)
                assert (await client.response())[2] == b"GET /one|"


@pytest.mark.parametrize("is_reset", [True, False])
async def test_a_client_gone_within_an_early_response_frees_the_slot(
    start_router: StartRouter, *, is_reset: bool
) -> None:
    async def pour(head: bytes, reader: Reader, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"1000\r\n" + bytes(0x1000) + b"\r\n")
            await writer.drain()

    async with RawBackend(pour) as replica:
        router = await start_router(replica.url, on_lost="close")
        for _ in range(5):
            async with connected(router) as client:
                await client.send(POST + b"Content-Length: 1000000\r\n\r\n" + bytes(1000))
                await asyncio.wait_for(client.reader.readexactly(100_000), SECONDS)
                if not is_reset:
                    client.writer.write_eof()
        await slots_are_free(router)
