"""Clients of HTTP/1.0: they know neither chunks nor kept connections."""

from __future__ import annotations

import asyncio

import pytest

from tests.proxy.conftest import RunningRouter, StartRouter
from tests.proxy.test_framing import Reader, Writer, connected
from tests.support.backend import Backend, RawBackend

pytestmark = pytest.mark.asyncio(loop_scope="module")

GET = b"GET /answer HTTP/1.0\r\n\r\n"


def replying(*pieces: bytes, is_broken: bool = False) -> RawBackend:
    async def reply(head: bytes, reader: Reader, writer: Writer) -> None:
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.02)
        writer.transport.abort() if is_broken else writer.close()

    return RawBackend(reply)


@pytest.mark.parametrize(
    "pieces",
    [
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"3\r\none\r\n", b"3\r\ntwo\r\n", b"0\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\n\r\n", b"one", b"two"],
        [b"HTTP/1.0 200 OK\r\n\r\none", b"two"],
    ],
    ids=["chunks", "until the connection ends", "an old replica"],
)
@pytest.mark.parametrize("field", [b"", b"Connection: keep-alive\r\n"])
async def test_a_response_of_unknown_length_ends_with_the_connection(
    start_router: StartRouter, pieces: list[bytes], field: bytes
) -> None:
    async with replying(*pieces) as replica:
        router = await start_router(replica.url)
        async with connected(router) as client:
            await client.send(GET.replace(b"\r\n\r\n", b"\r\n" + field + b"\r\n"))
            head, _, body = (await client.rest()).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK\r\nx-request-id: ")
            assert head.endswith(b"\r\nconnection: close")
            assert head.count(b"\r\n") == 2
            assert body == b"onetwo"


@pytest.mark.parametrize(
    "pieces",
    [
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"3\r\none\r\n"],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n", b"x\r\n"],
    ],
    ids=["cut off", "no chunk"],
)
async def test_a_response_that_breaks_off_never_looks_complete(start_router: StartRouter, pieces: list[bytes]) -> None:
    async with replying(*pieces, is_broken=True) as replica:
        router = await start_router(replica.url)
        async with connected(router) as client:
            await client.send(GET)
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(client.reader.read(), 10)


async def test_a_known_length_is_kept_for_http_1_0(router: RunningRouter, backend: Backend) -> None:
    async with connected(router) as client:
        await client.send(b"GET /answer?status=200&body=whole HTTP/1.0\r\n\r\n")
        head, _, body = (await client.rest()).partition(b"\r\n\r\n")
        assert b"content-length: 5" in head
        assert body == b"whole"


@pytest.mark.parametrize("status", [204, 304])
async def test_a_response_without_body_stays_without_body(router: RunningRouter, backend: Backend, status: int) -> None:
    async with connected(router) as client:
        await client.send(b"GET /answer?status=%d HTTP/1.0\r\n\r\n" % status)
        assert (await client.rest()).endswith(b"connection: close\r\n\r\n")
