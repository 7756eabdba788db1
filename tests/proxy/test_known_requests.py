"""A request that arrives whole, with a head that was received before, means what it meant when it was parsed."""

from __future__ import annotations

from typing import Any

import pytest

from shared_registry.proxy.answers import Answer
from shared_registry.proxy.client import MOST_PIPELINED
from shared_registry.proxy.exchange import Exchange
from tests.proxy.test_exchange import GET, HARMLESS, HOSTILE, LIMITS, Client, echo, hold, outcome, settle
from tests.proxy.test_framing import POST, STOLEN

pytestmark = pytest.mark.asyncio

BODY = b"Content-Length: 5\r\n\r\nhello"
PLAIN = [
    b"GET /known?a=%2e HTTP/1.1\r\nHost: a\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    POST + b"Content-Type: text/plain\r\n" + BODY,
    POST + b"X-Request-Id: mine\r\nX-Forwarded-For: 10.0.0.1\r\n" + BODY,
    POST + b"Expect: 100-continue\r\nAccept: a\r\n" + BODY,
    POST + b"Content-Length: 0\r\n\r\n",
    b"POST /known HTTP/1.0\r\nConnection: keep-alive\r\n" + BODY,
]
NEVER_KNOWN = {
    "chunks": POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "the last of its connection": POST + b"Connection: close\r\n" + BODY,
    "the last of an old client": b"POST /known HTTP/1.0\r\n" + BODY,
    "an offer": POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\n" + BODY,
    "a whole url": b"POST http://b/known HTTP/1.1\r\nHost: a\r\n" + BODY,
    "an empty line before it": b"\r\n" * 2 + POST + BODY,
    "two in one packet": POST + BODY + POST + BODY,
    "a long head": POST + b"X: " + b"x" * 2048 + b"\r\n" + BODY,
}


class Deaf:
    """In place of a parser that reads nothing."""

    def feed_data(self, data: bytes) -> None:
        raise AssertionError(data)


def shown(exchange: Exchange) -> list[Any]:
    names = ("method", "target", "version", "body_length", "has_body", "is_chunked", "keep_alive", "is_received")
    return [list(exchange.fields), *(getattr(exchange, name) for name in (*names, "expects_continue", "is_held_back"))]


async def make_known(request: bytes) -> None:
    for _ in range(2):
        await outcome(request)


async def begun(request: bytes, *, is_parsed: bool) -> Client:
    client = Client(hold)
    if not is_parsed:
        client.connection._parser = Deaf()  # type: ignore[assignment]
    client.send(request)
    await settle()
    return client


@pytest.mark.parametrize("request_bytes", PLAIN)
async def test_a_known_request_means_the_same_unparsed(request_bytes: bytes) -> None:
    parsed = await begun(request_bytes, is_parsed=True)
    await make_known(request_bytes)
    known = await begun(request_bytes, is_parsed=False)
    assert shown(known.served[0]) == shown(parsed.served[0])
    for client in (parsed, known):
        echo(client.served[0])
    assert known.wire.sent.count(b"hello") == request_bytes.count(b"hello")
    assert (await outcome(request_bytes)) == (await outcome(request_bytes[:40], request_bytes[40:]))


@pytest.mark.parametrize("request_bytes", NEVER_KNOWN.values(), ids=NEVER_KNOWN)
async def test_other_requests_are_parsed_each_time(request_bytes: bytes) -> None:
    first = await outcome(request_bytes)
    await make_known(request_bytes)
    with pytest.raises(AssertionError):
        await begun(request_bytes, is_parsed=False)
    assert await outcome(request_bytes) == first


@pytest.mark.parametrize("request_bytes", [*HARMLESS, *HOSTILE], ids=lambda value: repr(value)[2:100])
async def test_known_requests_change_no_answer(request_bytes: bytes) -> None:
    """Each request is sent behind one with a known head, and then once more."""
    known, first = GET % 7, await outcome(request_bytes)
    for _ in range(4):
        assert await outcome(request_bytes) == first
        sent, end, served = await outcome(known, request_bytes)
        assert sent.partition(b"GET|/7|")[2] == first[0]
        assert (end, served) == (first[1], [b"/7", *first[2]])


@pytest.mark.parametrize(
    ("before", "targets"),
    [
        (POST + b"Content-Length: %d\r\n\r\n" % len(STOLEN), [b"/first"]),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(STOLEN), []),
        (b"GET /first HTTP/1.1\r\nX: ", [b"/first"]),
        (b"GET /first HTTP/1.1\r\nHost: a\r\n", []),
        (b"\r\n", [b"/stolen"]),
        (b"GET /first HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", [b"/first"]),
    ],
)
async def test_only_the_beginning_of_a_request_is_recognized(before: bytes, targets: list[bytes]) -> None:
    await make_known(STOLEN)
    client = Client(echo)
    client.send(before, STOLEN)
    await settle()
    received = [exchange.target for exchange in client.served if exchange.is_received]
    assert received == targets
    assert b"|/stolen" not in client.wire.sent or targets == [b"/stolen"]


async def test_a_request_in_two_packets_is_never_known() -> None:
    """The first packet has a whole request before the beginning of the second one."""
    for number in range(5):
        client = Client(echo)
        client.send(GET % 1 + b"GET /%d" % number, b" HTTP/1.1\r\nHost: a\r\n\r\n")
        await settle()
        assert [exchange.target for exchange in client.served] == [b"/1", b"/%d" % number]


async def test_the_rest_of_a_body_answered_early_is_no_request() -> None:
    await make_known(STOLEN)
    client = Client(hold)
    client.send(POST + b"Content-Length: %d\r\n\r\n" % len(STOLEN * 2) + STOLEN)
    client.served[0].answer(Answer(200, {}))
    client.send(STOLEN, GET % 1)
    await settle()
    assert [exchange.target for exchange in client.served] == [b"/first", b"/1"]


async def test_known_requests_are_read_ahead_up_to_the_limit() -> None:
    await make_known(GET % 1)
    client = Client(hold)
    for _ in range(MOST_PIPELINED + 1):
        assert client.wire.is_reading_allowed
        client.send(GET % 1)
    assert not client.wire.is_reading_allowed


async def test_a_known_request_waits_for_the_one_before() -> None:
    await make_known(GET % 2)
    client = Client(hold)
    client.send(GET % 1, GET % 2, GET % 3)
    assert [exchange.target for exchange in client.served] == [b"/1"]
    for number in range(3):
        echo(client.served[number])
        await settle()
    assert [exchange.target for exchange in client.served] == [b"/1", b"/2", b"/3"]


async def test_a_known_request_may_exceed_a_lower_limit() -> None:
    request = POST + b"Content-Length: 9\r\n\r\n" + b"x" * 9
    await make_known(request)
    client = Client(hold)
    client.site.limits = type(LIMITS)(LIMITS.header_seconds, LIMITS.silence_seconds, body_bytes=8)
    client.connection._parser = Deaf()  # type: ignore[assignment]
    client.send(request)
    assert client.served[0].refusal is not None
    assert client.served[0].refusal.status == 413
