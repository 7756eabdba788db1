"""What a connection to a replica writes, and when. The transport is in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from shared_registry.http1.connection import ReplicaConnection
from shared_registry.http1.response import ReplicaBroke
from shared_registry.proxy.client import ClientConnection
from shared_registry.proxy.exchange import Exchange
from shared_registry.proxy.headers import CHUNKED
from shared_registry.proxy.limits import Limits
from shared_registry.proxy.site import Site

HEAD = b"POST / HTTP/1.1\r\n\r\n"
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class CountedWrites(asyncio.Transport):
    """Keeps each write, which costs a system call."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def writelines(self, pieces: Iterable[Any]) -> None:
        self.write(b"".join(pieces))

    def is_closing(self) -> bool:
        return False


@pytest.mark.parametrize(
    ("length", "opening", "later"),
    [(10, HEAD + b"first", b"later"), (CHUNKED, HEAD + b"5\r\nfirst\r\n", b"5\r\nlater\r\n")],
)
async def test_a_head_and_the_body_so_far_are_one_write(length: int, opening: bytes, later: bytes) -> None:
    request = Exchange(
        ClientConnection(Site(lambda _: None, Limits(60, 60))),
        "POST",
        b"/",
        "1.1",
        [],
        body_length=length,
        keep_alive=True,
    )
    connection, wire = ReplicaConnection(silence_seconds=60, first_byte_seconds=60), CountedWrites()
    connection.connection_made(wire)
    request.receive(b"first")
    exchanging = asyncio.create_task(connection.exchange(request, HEAD, request), name="exchange")
    await asyncio.sleep(0)
    assert wire.writes == [opening]
    request.receive(b"later")
    assert wire.writes == [opening, later]
    request.receive_end()
    connection.data_received(RESPONSE)
    await exchanging
    assert wire.writes[2:] == ([b"0\r\n\r\n"] if length == CHUNKED else [])
    assert connection.is_idle


async def test_a_body_that_meets_a_lost_connection_is_dropped() -> None:
    """In one turn of the event loop, before the task that serves the request learns of the loss."""

    class Closed(CountedWrites):
        is_closed = False

        def write(self, data: Any) -> None:
            if self.is_closed:
                raise RuntimeError("the handler is closed")  # as uvloop does
            super().write(data)

        def abort(self) -> None:
            self.is_closed = True

    client = ClientConnection(Site(lambda _: None, Limits(60, 60)))
    request = Exchange(client, "POST", b"/", "1.1", [], body_length=10, keep_alive=True)
    connection, wire = ReplicaConnection(silence_seconds=60, first_byte_seconds=60), Closed()
    connection.connection_made(wire)
    exchanging = asyncio.create_task(connection.exchange(request, HEAD, request))
    await asyncio.sleep(0)
    wire.is_closed = True
    connection.connection_lost(None)
    request.receive(b"first")
    request.receive_end()
    with pytest.raises(ReplicaBroke):
        await exchanging


async def test_a_failed_exchange_closes_its_connection_before_it_is_told() -> None:
    class Aborted(CountedWrites):
        is_aborted = False

        def abort(self) -> None:
            self.is_aborted = True

    ends: list[tuple[Exception | None, bool]] = []
    client = ClientConnection(Site(lambda _: None, Limits(60, 60)))
    request = Exchange(client, "POST", b"/", "1.1", [], body_length=10, keep_alive=True)
    connection, wire = ReplicaConnection(silence_seconds=60, first_byte_seconds=60), Aborted()
    connection.connection_made(wire)
    connection.begin(request, HEAD, request, lambda error: ends.append((error, wire.is_aborted)))
    connection.data_received(b"no HTTP\r\n\r\n")
    [(error, is_aborted)] = ends
    assert isinstance(error, ReplicaBroke)
    assert is_aborted
    assert not connection.is_reusable
    request.receive(b"more")
    assert wire.writes == [HEAD], "the body flows to no connection that has failed"
