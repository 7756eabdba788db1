"""A client that waits for its session: what it is told however slowly it reads, and what is kept of what it sends."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterable

import pytest
from starlette.types import Message

from shared_registry.proxy import websocket_client
from shared_registry.proxy.websocket_client import WebSocketClient
from tests.support.until import until

GONE = {"type": "websocket.disconnect", "code": 1005}


class Wire:
    """Between a client and its router; takes what is sent only while it is `open`."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.open = asyncio.Event()
        self.open.set()
        self.is_gone = False
        self.queue: asyncio.Queue[Message] = asyncio.Queue()
        self.begun = 0

    async def send(self, message: Message) -> None:
        self.begun += 1
        await self.open.wait()
        if self.is_gone:
            raise OSError
        self.sent.append(message)

    def client(self, offered: Iterable[str] = ()) -> WebSocketClient:
        return WebSocketClient({"subprotocols": list(offered)}, self.queue.get, self.send)

    def positions(self) -> list[int]:
        frames = [json.loads(message["text"]) for message in self.sent if message["type"] == "websocket.send"]
        return [frame["position"] for frame in frames]


async def settle() -> None:
    """Let all that can go on do so."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_who_reads_slowly_is_told_the_latest_only() -> None:
    wire = Wire()
    client = wire.client(["v2", "v1"])
    async with client.attended():
        client.set_position(9, 9)
        assert (client.subprotocols, wire.sent) == (["v2"], [])  # decided at once, told by another task
        await settle()
        wire.open.clear()
        for position in range(8, 0, -1):
            client.set_position(position, 9)
            await settle()
        wire.open.set()
        await settle()
        await client.begin("v1", [])
    assert wire.sent[0] == {"type": "websocket.accept", "subprotocol": "v2"}
    assert wire.positions() == [9, 8, 1]
    assert [message["type"] for message in wire.sent].count("websocket.accept") == 1


@pytest.mark.parametrize("is_stalled", [True, False])
async def test_a_stalled_client_does_not_hold_back_its_own_session(*, is_stalled: bool) -> None:
    wire = Wire()
    client = wire.client()
    async with client.attended():
        client.set_position(2, 2)
        await settle()
        if is_stalled:
            wire.open.clear()
        client.set_position(1, 2)
        await settle()
        async with asyncio.timeout(30):
            await client.begin(None, [])
        await wire.queue.put({"type": "websocket.receive", "text": "hello"})
        assert (await client.receive())["text"] == "hello"
    wire.open.set()
    await client.send("answer")
    assert [message.get("text") for message in wire.sent][-1] == "answer"
    assert len(wire.sent) == (3 if is_stalled else 4)


async def test_a_session_that_begins_at_once_is_accepted_as_its_replica_wants() -> None:
    wire = Wire()
    client = wire.client(["v2", "v1"])
    async with client.attended():
        assert client.subprotocols == ["v2", "v1"]
        await client.begin("v1", [(b"a", b"b")])
    assert wire.sent == [{"type": "websocket.accept", "subprotocol": "v1", "headers": [(b"a", b"b")]}]


async def test_one_that_was_told_in_the_last_moment_is_accepted_all_the_same() -> None:
    wire = Wire()
    client = wire.client(["v2", "v1"])
    async with client.attended():
        client.set_position(1, 1)  # and served before anybody could tell it
        await client.begin("v2", [(b"a", b"b")])
    assert wire.sent == [{"type": "websocket.accept", "subprotocol": "v2"}]


@pytest.mark.parametrize("has_sent_first", [True, False])
async def test_who_leaves_ends_the_wait(*, has_sent_first: bool) -> None:
    wire = Wire()
    client = wire.client()
    has_ended = False
    async with asyncio.timeout(30), client.attended():
        client.set_position(1, 1)
        if has_sent_first:
            await wire.queue.put({"type": "websocket.receive", "bytes": b"x"})
        await wire.queue.put(GONE)
        try:
            await asyncio.Event().wait()
        finally:
            has_ended = True
    assert has_ended


async def test_one_that_cannot_be_told_any_more_is_gone() -> None:
    wire = Wire()
    client = wire.client()
    async with asyncio.timeout(30), client.attended():
        wire.is_gone = True
        client.set_position(1, 1)
        await asyncio.Event().wait()


async def test_other_failures_are_not_swallowed() -> None:
    client = Wire().client()
    with pytest.raises(ExceptionGroup) as caught:
        async with client.attended():
            raise RuntimeError
    assert caught.group_contains(RuntimeError)


async def test_nothing_follows_the_end() -> None:
    """There is news of the line, just when the wait fails."""
    wire = Wire()
    client = wire.client()
    async with client.attended():
        client.set_position(1, 1)
        await settle()
        client.set_position(1, 2)
        await client.fail("gpu_unavailable", "why", 1013)
        await settle()
    assert [message["type"] for message in wire.sent[-2:]] == ["websocket.send", "websocket.close"]
    assert json.loads(wire.sent[-2]["text"])["type"] == "error"


async def test_who_sends_too_much_before_it_stands_anywhere_is_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_client, "KEPT_BYTES", 10)
    wire = Wire()
    client = wire.client()
    await client.accept()
    async with client.attended():
        wire.queue.put_nowait({"type": "websocket.receive", "text": "too much"})
        await settle()
        await client.begin(None, [])
    assert [message["type"] for message in wire.sent] == ["websocket.accept"]
    assert (await client.receive())["text"] == "too much"


async def test_what_is_kept_is_bounded_also_in_small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_client, "KEPT_BYTES", 4096)
    monkeypatch.setattr(websocket_client, "REPEAT_SECONDS", 0.01)
    wire = Wire()
    client = wire.client()
    messages: list[Message] = [{"type": "websocket.receive", "text": ""} for _ in range(1000)]
    async with client.attended():
        client.set_position(3, 3)
        for message in messages:
            wire.queue.put_nowait(message)
        await settle()
        kept = 1000 - wire.queue.qsize()
        assert 1 < kept <= 4096 / sys.getsizeof("") + 1
        await until(lambda: len(wire.positions()) > 3)  # again and again, to learn that it is gone
        assert set(wire.positions()) == {3}
        await client.begin(None, [])
    assert [await client.receive() for _ in messages] == messages
