"""Requests that a client sends before the response to an earlier one."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest

from tests.proxy.conftest import RunningRouter
from tests.proxy.test_framing import POST, connected, slots_are_free
from tests.support.backend import Backend
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

WAIT = b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n"
EVENTS = b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n"
NEXT = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"
BAD_BODY = b"POST /next HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"


@pytest.mark.parametrize("is_reset", [False, True])
@pytest.mark.parametrize("behind", [b"", NEXT, NEXT * 10], ids=["none", "one", "ten"])
@pytest.mark.parametrize("first", [WAIT, EVENTS], ids=["unanswered", "half answered"])
async def test_a_client_that_leaves_ends_all_its_requests(
    router: RunningRouter, backend: Backend, first: bytes, behind: bytes, is_reset: bool
) -> None:
    async with connected(router) as client:
        await client.send(first + behind)

        async def is_placed() -> bool:
            return bool((await router.status())["replicas"][0]["in_flight"])

        await until(is_placed, "the first is placed")
        if is_reset:
            linger = struct.pack("ii", 1, 0)
            client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        client.writer.transport.abort()
        await slots_are_free(router)
        await asyncio.wait_for(backend.left.wait(), 10)
    assert [scope["path"] for scope in backend.scopes if scope["path"] == "/next"] == []


async def test_a_wrong_request_ends_those_before_it(router: RunningRouter, backend: Backend) -> None:
    async with connected(router) as client:
        await client.send(WAIT + BAD_BODY)
        assert await client.rest() == b""
        await slots_are_free(router)


async def test_many_requests_at_once_are_answered_in_order(router: RunningRouter) -> None:
    async with connected(router) as client:
        await client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(100)))
        for number in range(100):
            assert b'"/%d?"' % number in (await client.response())[2]


@pytest.mark.parametrize("is_answered_first", [False, True])
async def test_a_trailer_closing_the_connection_leaves_no_request_unanswered(
    router: RunningRouter, is_answered_first: bool
) -> None:
    """The parser takes no further request after it; kept open, the connection would wait for nothing."""
    target = b"/answer?status=200" if is_answered_first else b"/upload"
    async with connected(router) as client:
        await client.send(POST.replace(b"/first", target) + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        if is_answered_first:
            assert (await client.response())[0] == 200
        await client.send(b"0\r\nConnection: close\r\n\r\n" + NEXT)
        if not is_answered_first:
            assert (await client.response())[2] == b'{"bytes":5}'
        assert await client.rest() == b""
