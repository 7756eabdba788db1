"""What the quick reader of responses recognizes means the same to h11; so does what comes in any pieces."""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import Any

import h11
import pytest

from shared_registry.probing.connection import ProbeFailure, Response, WholeRequest
from shared_registry.probing.kept import KeptConnection
from shared_registry.probing.own_trouble import OwnTrouble
from shared_registry.probing.plain_response import read_plain

REQUEST = WholeRequest("GET", "/health", [("Host", "replica.test")])
PLAIN = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 \r\ncontent-length:0\r\n\r\n",
    b"HTTP/1.1 503 Service Unavailable\r\nserver: x\r\nCONTENT-LENGTH: \t 4 \r\ndate: Sun\r\n\r\nbusy",
    b"HTTP/1.1 404 -\r\nX-Odd_name!: a:b=c\r\nContent-Length: 5\r\n\r\n\r\n\r\n\n",
    b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 1\r\n\r\n-",
    b"HTTP/1.1 200 OK\r\nServer: nginx\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nConnection:Keep-Alive \r\nKeep-Alive: timeout=5\r\nContent-Length: 2\r\n\r\nok",
]
WHOLE = [
    *PLAIN,
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nConnection: keep-alive, close\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
]
BROKEN = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",  # h11 takes it
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\n Content-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTCPCP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"\r\n\r\n",
]


def by_h11(data: bytes) -> tuple[int, bytes] | None:
    """Return the status and the body of a whole response; `None` if h11 refuses it, or finds it unfinished."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "replica.test")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    status, body = 0, b""
    try:
        while True:
            event = connection.next_event()
            if event in (h11.NEED_DATA, h11.PAUSED):
                return None
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                return None if connection.trailing_data[0] else (status, body)
    except h11.RemoteProtocolError:
        return None


class Wire:
    """A transport that keeps what is written, and notes its end."""

    def __init__(self) -> None:
        self.is_aborted = False
        self.protocol: Any = None

    def set_protocol(self, protocol: asyncio.Protocol) -> None:
        self.protocol = protocol

    def switch_to(self, protocol: asyncio.Protocol) -> Wire:
        self.protocol = protocol
        return self

    def write(self, data: bytes) -> None:
        pass

    def is_closing(self) -> bool:
        return self.is_aborted

    def abort(self) -> None:
        self.is_aborted = True


def read_in_pieces(pieces: list[bytes]) -> list[Response | ProbeFailure | OwnTrouble]:
    wire = Wire()
    kept = KeptConnection(wire.switch_to, "127.0.0.1", 80, exchanges=1)
    found: list[Response | ProbeFailure | OwnTrouble] = []
    kept.begin(REQUEST, found.append)
    for piece in pieces:
        if not wire.is_aborted:
            kept.data_received(piece)
    return found


@pytest.mark.parametrize("data", PLAIN)
def test_plain_responses_are_recognized(data: bytes) -> None:
    assert read_plain(data) == by_h11(data) is not None


@pytest.mark.parametrize("data", [*WHOLE, *BROKEN])
def test_what_is_recognized_means_the_same_to_h11(data: bytes) -> None:
    """Also of a part of it, and where something follows."""
    for end in range(len(data) + 1):
        for found in (data[:end], data[:end] + b"x", data[:end] + data):
            plain = read_plain(found)
            assert plain is None or plain == by_h11(found), found


def test_random_changes_are_never_recognized_otherwise_than_by_h11() -> None:
    rng = random.Random(5)
    recognized = 0
    for _ in range(20_000):
        data = bytearray(rng.choice(WHOLE))
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(data))
            data[at : at + rng.randint(0, 2)] = rng.choice(
                (b"", b"\r\n", b"\0", b" ", b":", b"7", b"\xff", b"\t", b"A")
            )
        plain = read_plain(bytes(data))
        recognized += plain is not None
        assert plain is None or plain == by_h11(bytes(data)), bytes(data)
    assert recognized > 100


@pytest.mark.parametrize("data", WHOLE)
def test_a_response_means_the_same_in_any_two_pieces(data: bytes) -> None:
    expected = by_h11(data)
    assert expected is not None
    for end in range(1, len(data)):
        (found,) = read_in_pieces([data[:end], data[end:]])
        assert isinstance(found, Response)
        assert (found.status, found.body) == expected, end
    (found,) = read_in_pieces([bytes([one]) for one in data])
    assert (found.status, found.body) == expected if isinstance(found, Response) else found


@pytest.mark.parametrize("data", BROKEN)
def test_no_broken_response_succeeds_in_any_two_pieces(data: bytes) -> None:
    for end in range(1, len(data) + 1):
        found = read_in_pieces([piece for piece in (data[:end], data[end:]) if piece])
        assert not any(isinstance(one, Response) for one in found), end


def test_what_follows_a_response_unasked_closes_the_connection() -> None:
    for extra in (b"x", PLAIN[0]):
        for pieces in itertools.product(([PLAIN[0] + extra], [PLAIN[0], extra])):
            wire = Wire()
            kept = KeptConnection(wire.switch_to, "127.0.0.1", 80, exchanges=1)
            found: list[Any] = []
            kept.begin(REQUEST, found.append)
            for piece in pieces[0]:
                kept.data_received(piece)
            assert [one.body for one in found] == [b"ok"]
            assert not kept.is_idle
