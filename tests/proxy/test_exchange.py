"""A client's connection in memory: cut at every byte, pipelined, slow, and never read."""

from __future__ import annotations

import asyncio
import random
import re
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from shared_registry.proxy.answers import Answer
from shared_registry.proxy.client import KEEP_ALIVE_SECONDS, LINGER_SECONDS, MOST_PIPELINED, ClientConnection
from shared_registry.proxy.exchange import Exchange
from shared_registry.proxy.limits import Limits
from shared_registry.proxy.site import Site
from tests.proxy.test_framing import BEHIND_A_REQUEST, HANDSHAKE, OFFERS, POST, STOLEN, WEBSOCKET
from tests.proxy.test_framing import test_an_ambiguous_request_ends_the_connection as ambiguous_in_framing
from tests.proxy.test_hostile import UPGRADE
from tests.proxy.test_hostile import test_an_ambiguous_request_is_refused as ambiguous_in_hostile

HEADER_SECONDS, SILENCE_SECONDS = 10.0, 300.0
LIMITS = Limits(HEADER_SECONDS, SILENCE_SECONDS, total_seconds=1000.0, body_bytes=100_000)
GET = b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n"
Serve = Callable[[Exchange], None]


class StallingWire(asyncio.Transport):
    """The transport of a client in memory. A client that is `stalled` reads nothing.

    Attributes:
        sent: What was written.
        end: How the connection was ended: "", "eof", "close", "abort".
    """

    def __init__(self) -> None:
        super().__init__()
        self.sent = bytearray()
        self.end = ""
        self.is_reading_allowed = True
        self.protocol: ClientConnection
        self.is_stalled = False
        self.is_writing_paused = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        raise AssertionError(protocol)

    def write(self, data: Any) -> None:
        assert self.end != "eof"
        if not self.end:
            self.sent += data
            if self.is_stalled and not self.is_writing_paused:
                self.is_writing_paused = True
                self.protocol.pause_writing()

    def writelines(self, pieces: Iterable[Any]) -> None:
        self.write(b"".join(pieces))

    def drain(self) -> None:
        """Let the client read everything that was written."""
        self.is_stalled = self.is_writing_paused = False
        self.protocol.resume_writing()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.end = "eof"

    def pause_reading(self) -> None:
        self.is_reading_allowed = False

    def resume_reading(self) -> None:
        self.is_reading_allowed = True

    def is_closing(self) -> bool:
        return self.end in ("close", "abort")

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        if not self.is_closing():
            self.end = "close"

    def abort(self) -> None:
        self.end = "abort"


class Client:
    """A connection, and the requests that it has begun to serve."""

    def __init__(self, serve: Serve) -> None:
        self.served: list[Exchange] = []
        self._serve = serve
        self.site = Site(self._begin, LIMITS)
        self.wire = StallingWire()
        self.connection = self.wire.protocol = ClientConnection(self.site)
        self.connection.connection_made(self.wire)
        self.now = self.connection.now()
        self.connection.now = lambda: self.now

    def _begin(self, exchange: Exchange) -> None:
        self.served.append(exchange)
        self._serve(exchange)

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            if not self.wire.is_closing() and piece:
                self.connection.data_received(piece)

    def pass_seconds(self, seconds: float) -> None:
        self.now += seconds
        self.connection.check(self.now)


class Body:
    """Takes a request's body, and answers with it at its end."""

    def __init__(self, exchange: Exchange) -> None:
        self.received = b""
        self.is_paused = False
        self.exchange = exchange
        if (body := exchange.flow_to(self)) is not None:
            self.send(body)
            self.end_request()

    def send(self, data: bytes) -> None:
        self.received += data

    def end_request(self) -> None:
        text = b"|".join((self.exchange.method.encode(), self.exchange.target, self.received))
        self.exchange.begin(200, [(b"content-length", b"%d" % len(text))])
        self.exchange.send(text)
        self.exchange.end()

    def pause_response(self) -> None:
        self.is_paused = True

    def resume_response(self) -> None:
        self.is_paused = False

    def check(self, now: float) -> None:
        pass


def echo(exchange: Exchange) -> None:
    if exchange.is_handshake:
        exchange.answer(Answer(426, {}))
    else:
        Body(exchange)


def hold(exchange: Exchange) -> None:
    """Leave the exchange to the test."""


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def requests_of(test: Any) -> list[bytes]:
    """Return the requests that a parametrized test sends."""
    [mark] = [mark for mark in test.pytestmark if mark.name == "parametrize"]
    return list(mark.args[1])


CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n"
HARMLESS = [
    GET % 1 + GET % 2,
    POST + b"Content-Length: %d\r\n\r\n" % len(STOLEN) + STOLEN + GET % 2,
    POST + CHUNKED + GET % 2,
    POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nConnection: close\r\n\r\n" + GET % 2,
    POST + b"Connection: close\r\nContent-Length: 5\r\n\r\nhello" + GET % 2,
    b"GET http://b/path?query#part HTTP/1.1\r\nHost: a\r\n\r\n" + GET % 2,
    b"GET /old HTTP/1.0\r\n\r\n" + GET % 2,
    b"GET /old HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + GET % 2,
    b"\r\n\r\n" + GET % 1 + b"\r\n" + GET % 2,
    POST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello" + GET % 2,
    HANDSHAKE,
    *(POST + offer + b"Content-Length: %d\r\n\r\n" % len(STOLEN) + STOLEN + GET % 2 for offer in OFFERS.values()),
    *(POST + offer + CHUNKED + GET % 2 for offer in OFFERS.values()),
    *(b"GET /1 HTTP/1.1\r\nHost: a\r\n" + offer + b"\r\n" + GET % 2 for offer in OFFERS.values()),
]
HOSTILE = [
    *requests_of(ambiguous_in_hostile),
    *requests_of(ambiguous_in_framing),
    *(GET % 1 + behind for behind in BEHIND_A_REQUEST if 2 < len(behind) < 1000),
    UPGRADE + b"Host: b\r\n\r\n",
    UPGRADE + b"Content-Length: 5\r\n\r\nhello\r\n",
    UPGRADE + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n"
    + WEBSOCKET
    + b"\r\n",
]


async def outcome(*pieces: bytes) -> tuple[bytes, str, list[bytes]]:
    """Return what was answered, how the connection ended, and the targets of the requests that were served."""
    client = Client(echo)
    for piece in pieces:
        client.send(piece)
        await settle()
    sent = bytes(client.wire.sent).replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
    sent = re.sub(rb"\r\nx-request-id: [0-9a-f-]+", b"", sent)
    return sent, client.wire.end, [exchange.target for exchange in client.served]


@pytest.mark.parametrize("request_bytes", [*HARMLESS, *HOSTILE], ids=lambda value: repr(value)[2:100])
async def test_a_request_cut_anywhere_is_answered_alike(request_bytes: bytes) -> None:
    whole = await outcome(request_bytes)
    in_bytes = await outcome(*(request_bytes[at : at + 1] for at in range(len(request_bytes))))
    # A request begins when the packet is read that has its head: not at all if what follows in that packet is refused,
    # and what is refused after it gets no answer of its own while it is under way.
    assert in_bytes[2][: len(whole[2])] == whole[2]
    for cut in range(1, len(request_bytes)):
        assert await outcome(request_bytes[:cut], request_bytes[cut:]) in (whole, in_bytes), request_bytes[:cut]


async def test_no_hostile_request_smuggles_another() -> None:
    for request in HOSTILE:
        _, end, served = await outcome(request)
        assert (end in ("close", "eof"), b"/stolen" in served, b"/smuggled" in served) == (True, False, False), request


# One after the other


async def test_a_connection_carries_a_thousand_requests() -> None:
    client = Client(echo)
    for number in range(1000):
        client.send(GET % number)
        await settle()
        assert client.wire.sent.endswith(b"GET|/%d|" % number)
        assert client.connection.is_kept_alive
        client.wire.sent.clear()
        client.pass_seconds(1.0)
    assert client.wire.end == ""


@pytest.mark.parametrize("seed", range(10))
async def test_pipelined_responses_keep_the_order_of_requests(seed: int) -> None:
    rng = random.Random(seed)
    client = Client(hold)
    count, unsent, answered = 60, deque(b"".join(GET % number for number in range(60))), 0
    while answered < count:
        if unsent and client.wire.is_reading_allowed and rng.random() < 0.5:
            client.send(bytes(unsent.popleft() for _ in range(min(len(unsent), rng.randint(1, 200)))))
        elif len(client.served) > answered:
            echo(client.served[answered])
            answered += 1
        assert len(client.served) <= answered + 1
        await settle()
    told = bytes(client.wire.sent).split(b"GET|/")[1:]
    assert [int(text.partition(b"|")[0]) for text in told] == list(range(count))


async def test_reading_pauses_behind_many_requests() -> None:
    client = Client(hold)
    for number in range(MOST_PIPELINED + 1):
        assert client.wire.is_reading_allowed
        client.send(GET % number)
    assert not client.wire.is_reading_allowed
    echo(client.served[0])
    assert client.wire.is_reading_allowed


# A client that does not read


async def test_a_stalled_clients_next_request_waits() -> None:
    client = Client(hold)
    client.send(GET % 1 + GET % 2)
    client.wire.is_stalled = True
    echo(client.served[0])
    await settle()
    assert len(client.served) == 1
    client.send(GET % 3)
    assert len(client.served) == 1
    client.wire.drain()
    await settle()
    assert len(client.served) == 2
    for number in (1, 2):
        echo(client.served[number])
        await settle()
    assert client.wire.sent.endswith(b"GET|/3|")


async def test_a_request_of_a_client_still_stalled_waits() -> None:
    client = Client(hold)
    client.send(GET % 1)
    client.wire.is_stalled = True
    echo(client.served[0])
    client.send(GET % 2)
    await settle()
    assert len(client.served) == 1
    client.wire.drain()
    await settle()
    assert len(client.served) == 2


async def test_endless_requests_that_are_not_read_are_bounded() -> None:
    client = Client(echo)
    client.wire.is_stalled = True
    for number in range(10_000):
        if not client.wire.is_reading_allowed:
            break
        client.send(GET % number)
        await settle()
    assert not client.wire.is_reading_allowed
    assert len(client.wire.sent) < 10_000
    count = len(client.served)
    assert count == 1


async def test_a_stalled_client_pauses_its_response() -> None:
    client = Client(hold)
    client.send(POST + b"Content-Length: 5\r\n\r\n")
    body = Body(client.served[0])
    client.wire.is_stalled = True
    client.served[0].begin(200, [])
    client.served[0].send(b"much")
    client.served[0].flush()
    assert body.is_paused
    client.wire.drain()
    assert not body.is_paused


# Time limits


async def test_a_slow_head_is_refused() -> None:
    for begun in (b"", b"G", b"GET / HTTP/1.1\r\nHost: a\r\nX:"):
        client = Client(echo)
        client.send(begun)
        client.pass_seconds(HEADER_SECONDS - 1)
        assert client.wire.end == ""
        client.pass_seconds(2.0)
        assert client.wire.sent.startswith(b"HTTP/1.1 408 ")
        assert client.wire.end == "eof"
        client.pass_seconds(LINGER_SECONDS + 1)
        assert client.wire.end == "close"


async def test_a_slow_second_head_is_refused() -> None:
    client = Client(echo)
    client.send(GET % 1)
    client.pass_seconds(HEADER_SECONDS + 1)
    client.send(b"GET / ")
    client.pass_seconds(HEADER_SECONDS - 1)
    assert client.wire.end == ""
    client.pass_seconds(2.0)
    assert b"HTTP/1.1 408 " in client.wire.sent


async def test_an_idle_connection_is_closed() -> None:
    client = Client(echo)
    client.send(GET % 1)
    client.pass_seconds(KEEP_ALIVE_SECONDS - 1)
    client.send(GET % 2)
    client.pass_seconds(KEEP_ALIVE_SECONDS - 1)
    client.send(b"\r\n\r\n")  # begins no request
    assert client.wire.end == ""
    client.pass_seconds(KEEP_ALIVE_SECONDS + 1)
    assert client.wire.end == "close"


async def test_a_silent_sender_of_a_body_is_ended() -> None:
    client = Client(hold)
    client.send(POST + b"Content-Length: 5\r\n\r\nhe")
    [exchange] = client.served
    exchange.server = task = asyncio.ensure_future(asyncio.sleep(60))
    Body(exchange)
    client.pass_seconds(SILENCE_SECONDS - 1)
    assert not task.cancelling()
    client.pass_seconds(2.0)
    assert exchange.refusal is not None
    assert exchange.refusal.status == 408
    await asyncio.wait([task])
    assert task.cancelled()


async def test_a_client_still_sending_can_read_the_last_response() -> None:
    client = Client(lambda exchange: exchange.answer(Answer(413, {})))
    client.send(POST + b"Connection: close\r\nContent-Length: 1000000\r\n\r\n" + bytes(1000))
    assert client.wire.sent.startswith(b"HTTP/1.1 413 ")
    assert client.wire.end == "eof"
    client.send(bytes(100_000))
    client.pass_seconds(LINGER_SECONDS - 1)
    assert client.wire.end == "eof"
    client.pass_seconds(2.0)
    assert client.wire.end == "close"


async def test_an_early_response_keeps_the_connection() -> None:
    client = Client(lambda exchange: exchange.answer(Answer(413, {})))
    client.send(POST + b"Content-Length: 10\r\n\r\nhello")
    client.send(b"hello" + GET % 2)
    await settle()
    assert bytes(client.wire.sent).count(b"HTTP/1.1 413 ") == 2
    assert [exchange.target for exchange in client.served] == [b"/first", b"/2"]


# Requests read ahead


async def test_many_requests_in_one_packet_cost_little() -> None:
    client = Client(hold)
    packet = GET % 1 * (256 * 1024 // len(GET % 1))
    client.send(packet)
    assert len(client.connection._queue) < 1000
    answered = 0
    while len(client.served) > answered:
        echo(client.served[answered])
        answered += 1
        await settle()
    assert answered == packet.count(b"GET")


async def test_nothing_is_written_to_a_client_that_has_left() -> None:
    """A transport that has ended refuses to be written to."""
    client = Client(hold)
    client.send(GET % 1 + GET % 2)
    client.connection.connection_lost(None)
    client.wire.end = "eof"
    echo(client.served[0])
    await settle()
    assert (bytes(client.wire.sent), len(client.served)) == (b"", 1)


async def test_a_head_is_not_slow_while_nothing_is_read() -> None:
    client = Client(hold)
    client.send(b"".join(GET % number for number in range(MOST_PIPELINED + 1)) + b"GET /last HTTP/1.1\r\n")
    assert not client.wire.is_reading_allowed
    client.pass_seconds(HEADER_SECONDS + 1)
    for number in range(MOST_PIPELINED + 1):
        echo(client.served[number])
        await settle()
    client.pass_seconds(HEADER_SECONDS - 1)
    client.send(b"Host: a\r\n\r\n")
    await settle()
    assert client.served[-1].target == b"/last"
    assert client.wire.end == ""
