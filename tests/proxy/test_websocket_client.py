"""A client that waits for its session: what it receives however slowly it reads, and what is kept of what it sends."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from shared_registry.proxy import websocket_client
from shared_registry.proxy.client import ClientConnection
from shared_registry.proxy.closing import Close
from shared_registry.proxy.exchange import Exchange
from shared_registry.proxy.frames import close_frame
from shared_registry.proxy.limits import Limits
from shared_registry.proxy.site import Site
from shared_registry.proxy.tunnel import Tunnel
from shared_registry.proxy.websocket_client import WebSocketClient, accept_of
from tests.support.until import until

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + KEY + b"\r\n"
)
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\n"


class Wire(asyncio.Transport):
    """A connection in memory; its peer reads only while it is `open`.

    Attributes:
        sent: What the peer has read.
        unread: What was written and not read.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sent = bytearray()
        self.unread = bytearray()
        self.protocol: Any = None
        self.is_open = True
        self.is_reading_paused = False
        self._is_closing = False
        self._high = 64 * 1024
        self._is_writing_paused = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = 64 * 1024 if high is None else high
        self._flow()

    def write(self, data: Any) -> None:
        if not self._is_closing:
            self.unread += data
            self._flow()

    def writelines(self, pieces: Any) -> None:
        self.write(b"".join(pieces))

    def can_write_eof(self) -> bool:
        return False

    def pause_reading(self) -> None:
        assert not self.is_reading_paused
        self.is_reading_paused = True

    def resume_reading(self) -> None:
        self.is_reading_paused = False

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            asyncio.get_running_loop().call_soon(lambda: self.protocol.connection_lost(None))

    abort = close

    def stall(self) -> None:
        self.is_open = False

    def read_again(self) -> None:
        self.is_open = True
        self._flow()

    def _flow(self) -> None:
        if self.is_open:
            self.sent += self.unread
            self.unread.clear()
        if len(self.unread) > self._high and not self._is_writing_paused:
            self._is_writing_paused = True
            self.protocol.pause_writing()
        elif len(self.unread) <= self._high // 4 and self._is_writing_paused and self.is_open:
            self._is_writing_paused = False
            self.protocol.resume_writing()


class Waiting:
    """A client whose handshake was received, and the task that serves it."""

    def __init__(self, *, offered: bytes = b"", early: bytes = b"", longest: int = 2**20) -> None:
        self.wire = Wire()
        self.served: list[Exchange] = []
        connection = ClientConnection(Site(self._begin, Limits(60, 60)))
        self.wire.protocol = connection
        connection.connection_made(self.wire)
        self._longest = longest
        protocols = b"Sec-WebSocket-Protocol: " + offered + b"\r\n" if offered else b""
        connection.data_received(HANDSHAKE + protocols + b"\r\n" + early)
        [exchange] = self.served
        self.client = WebSocketClient(exchange, KEY, longest=longest)

    def _begin(self, exchange: Exchange) -> None:
        self.served.append(exchange)
        self.task = asyncio.get_running_loop().create_task(asyncio.sleep(60))
        exchange.server = self.task

    @property
    def is_cancelled(self) -> bool:
        """Whether the task that serves the client has been cancelled."""
        return self.task.cancelled()

    def receive(self, data: bytes) -> None:
        """Let the client send, unless nothing is read from it."""
        assert not self.wire.is_reading_paused
        self.wire.protocol.data_received(data)

    def begin(self, fields: list[tuple[bytes, bytes]] | None = None) -> Wire:
        """Begin the session, and return the connection to its replica."""
        self.tunnel = Tunnel(longest=self._longest, request_id=b"1", on_client_lost=lambda _: None)
        replica = Wire()
        replica.protocol = self.tunnel.replica
        self.client.begin(fields or [(b"sec-websocket-accept", accept_of(KEY))], self.tunnel, replica)
        return replica

    @property
    def head(self) -> bytes:
        return bytes(self.wire.sent).partition(b"\r\n\r\n")[0]

    @property
    def frames(self) -> list[Frame]:
        return frames_in(bytes(self.wire.sent).partition(b"\r\n\r\n")[2], is_masked=False)

    @property
    def positions(self) -> list[int]:
        texts = [json.loads(bytes(frame.data)) for frame in self.frames if frame.opcode is Opcode.TEXT]
        return [text["position"] for text in texts if text["type"] == "queue_status"]


def frames_in(data: bytes, *, is_masked: bool) -> list[Frame]:
    reader = StreamReader()
    reader.feed_data(data)
    found = []
    while reader.buffer:
        parsing = Frame.parse(reader.read_exact, mask=is_masked)
        with pytest.raises(StopIteration) as stopped:
            next(parsing)
        found.append(stopped.value.value)
    return found


def sent(opcode: Opcode, data: bytes = b"", *, is_final: bool = True) -> bytes:
    """Return a frame of a client."""
    return Frame(opcode, data, is_final).serialize(mask=True)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


# Positions


async def test_a_slow_reader_receives_only_the_latest_position() -> None:
    waiting = Waiting(offered=b"v2, v1")
    waiting.client.set_position(9, 9)
    waiting.wire.stall()
    for position in range(8, 0, -1):
        waiting.client.set_position(position, 9)
    waiting.wire.read_again()
    assert waiting.positions == [9, 8, 1]
    waiting.begin()
    assert waiting.head.count(SWITCH) == bytes(waiting.wire.sent).count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("is_stalled", [True, False])
async def test_a_stalled_client_does_not_delay_its_session(*, is_stalled: bool) -> None:
    waiting = Waiting()
    waiting.client.set_position(2, 2)
    if is_stalled:
        waiting.wire.stall()
    waiting.client.set_position(1, 2)
    replica = waiting.begin()
    hello = sent(Opcode.TEXT, b"hello")
    waiting.receive(hello)
    assert bytes(replica.sent) == hello
    waiting.wire.read_again()
    waiting.tunnel.replica.data_received(b"\x82\x06answer")
    assert waiting.frames[-1].data == b"answer"
    assert waiting.positions == [2, 1]


async def test_a_stalled_client_receives_no_old_position_in_its_session() -> None:
    waiting = Waiting()
    waiting.client.set_position(3, 3)
    waiting.wire.stall()
    waiting.client.set_position(2, 3)
    waiting.client.set_position(1, 3)
    waiting.begin()
    waiting.tunnel.replica.data_received(b"\x82\x06answer")
    waiting.wire.read_again()
    assert (waiting.positions, waiting.frames[-1].data) == ([3, 2], b"answer")


async def test_a_stalled_clients_replica_is_not_read_until_it_reads() -> None:
    waiting = Waiting()
    waiting.client.accept()
    waiting.wire.stall()
    waiting.client.set_position(1, 1)
    replica = waiting.begin()
    assert replica.is_reading_paused
    waiting.wire.read_again()
    assert not replica.is_reading_paused


# The handshake


async def test_an_immediate_session_is_accepted_as_its_replica_wants() -> None:
    waiting = Waiting(offered=b"v2,, v1 ")
    assert waiting.client.subprotocols == [b"v2", b"v1"]
    waiting.begin([(b"sec-websocket-protocol", b"v1"), (b"a", b"b")])
    assert waiting.head.startswith(SWITCH)
    assert b"\r\nsec-websocket-protocol: v1\r\na: b\r\n" in waiting.head


async def test_a_waiting_client_is_accepted_with_its_first_subprotocol() -> None:
    waiting = Waiting(offered=b"v2, v1")
    waiting.client.set_position(1, 1)
    assert waiting.client.subprotocols == [b"v2"]
    assert b"sec-websocket-protocol: v2" in waiting.head
    assert b"sec-websocket-accept: " + accept_of(KEY) in waiting.head
    waiting.begin([(b"sec-websocket-protocol", b"v2"), (b"a", b"b")])
    assert b"a: b" not in waiting.wire.sent


async def test_bytes_sent_with_the_handshake_are_passed_on() -> None:
    hello, more = sent(Opcode.TEXT, b"hello"), sent(Opcode.TEXT, b"more")
    for is_accepted in (True, False):
        waiting = Waiting(early=hello + more[:3])
        if is_accepted:
            waiting.client.set_position(1, 1)
        replica = waiting.begin()
        waiting.receive(more[3:])
        assert bytes(replica.sent) == hello + more


async def test_endless_bytes_before_the_answer_end_the_connection() -> None:
    waiting = Waiting()
    for _ in range(100):
        if not waiting.wire.is_closing():
            waiting.receive(bytes(1000))
    assert waiting.wire.is_closing()
    await settle()
    assert waiting.is_cancelled


# What a client sends while it waits


async def test_pings_are_answered_while_waiting() -> None:
    waiting = Waiting(early=sent(Opcode.PING, b"early"))
    waiting.client.set_position(1, 1)
    for piece in sent(Opcode.PING, b"ping"):
        waiting.receive(bytes((piece,)))
    waiting.receive(sent(Opcode.PONG, b"unasked"))
    pongs = [frame.data for frame in waiting.frames if frame.opcode is Opcode.PONG]
    assert pongs == [b"early", b"ping"]
    assert bytes(waiting.begin().sent) == b""  # they were answered, and are not for the replica


async def test_pongs_for_a_stalled_client_are_bounded() -> None:
    waiting = Waiting()
    waiting.client.set_position(1, 1)
    waiting.wire.stall()
    for number in range(1000):
        waiting.receive(sent(Opcode.PING, b"%d" % number))
    assert len(waiting.wire.unread) < 1000
    waiting.wire.read_again()
    assert [frame.data for frame in waiting.frames if frame.opcode is Opcode.PONG][-1] == b"999"


@pytest.mark.parametrize(("code", "answered"), [(1000, 1000), (3001, 3001), (None, None)])
async def test_a_client_that_closes_while_waiting_is_answered(code: int | None, answered: int | None) -> None:
    waiting = Waiting()
    waiting.client.set_position(1, 1)
    waiting.receive(close_frame(Close(code, "" if code is None else "done"), is_masked=True))
    waiting.client.set_position(1, 2)
    await settle()
    last = waiting.frames[-1]
    assert last.opcode is Opcode.CLOSE
    assert last.data[:2] == (b"" if answered is None else answered.to_bytes(2, "big"))
    assert waiting.is_cancelled
    assert waiting.wire.is_closing()


async def test_a_client_that_leaves_ends_the_wait() -> None:
    waiting = Waiting()
    waiting.client.set_position(1, 1)
    waiting.receive(sent(Opcode.TEXT, b"x"))
    waiting.wire.close()
    await settle()
    assert waiting.is_cancelled


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (sent(Opcode.BINARY, bytes(101)), 1009),
        (sent(Opcode.BINARY, bytes(101))[:10], 1009),
        (Frame(Opcode.TEXT, b"no mask").serialize(mask=False), 1002),
        (b"\xff\xff" + bytes(20), 1002),
        (b"\x89\xfe\x00\x7e" + bytes(4), 1002),
        (b"\x88\x81" + bytes(5), 1002),
        (b"\x88\x82" + bytes(6), 1002),
    ],
    ids=["too large", "the head of one too large", "no mask", "nonsense", "long ping", "half a code", "code 0"],
)
async def test_a_bad_frame_ends_the_wait(frame: bytes, code: int) -> None:
    waiting = Waiting(longest=100)
    waiting.client.set_position(1, 1)
    waiting.receive(frame)
    await settle()
    last = waiting.frames[-1]
    assert (last.opcode, last.data[:2]) == (Opcode.CLOSE, code.to_bytes(2, "big"))
    assert waiting.is_cancelled
    waiting.client.set_position(2, 2)
    assert waiting.frames[-1] == last
    waiting.receive(close_frame(Close(1000), is_masked=True))
    assert waiting.wire.is_closing()


async def test_nothing_follows_the_end() -> None:
    waiting = Waiting()
    waiting.client.set_position(1, 1)
    waiting.wire.stall()
    waiting.client.set_position(1, 2)
    waiting.client.set_position(1, 3)
    waiting.client.fail("gpu_unavailable", "why", 1013)
    waiting.client.set_position(1, 4)
    waiting.receive(sent(Opcode.PING, b"ping") + sent(Opcode.TEXT, b"hello"))
    waiting.wire.read_again()
    await settle()
    error, close = waiting.frames[-2:]
    assert json.loads(bytes(error.data))["code"] == "gpu_unavailable"
    assert (close.opcode, close.data[:2]) == (Opcode.CLOSE, (1013).to_bytes(2, "big"))


async def test_a_client_that_never_answers_the_close_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_client, "CLOSE_SECONDS", 0.01)
    waiting = Waiting()
    waiting.client.fail("gpu_unavailable", "why", 1013)
    await until(waiting.wire.is_closing)


# What is kept of it


@pytest.mark.parametrize("size", [0, 1, 1000])
async def test_kept_messages_are_bounded_and_all_arrive(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(websocket_client, "KEPT_BYTES", 4096)
    monkeypatch.setattr(websocket_client, "REPEAT_SECONDS", 0.01)
    waiting = Waiting()
    waiting.client.set_position(3, 3)
    messages = [sent(Opcode.TEXT, bytes(size)) for _ in range(1000)]
    unsent = iter(messages)
    received = b""
    while not waiting.wire.is_reading_paused:
        received += (message := next(unsent))
        waiting.receive(message)
    assert 4096 < len(received) <= 4096 + len(messages[0])
    await until(lambda: len(waiting.positions) > 3)  # again and again, to learn that the client has gone
    assert set(waiting.positions) == {3}
    replica = waiting.begin()
    for message in unsent:
        waiting.receive(message)
    assert bytes(replica.sent) == b"".join(messages)
    count = len(waiting.positions)
    await asyncio.sleep(0.05)  # longer than a position takes to be repeated
    assert len(waiting.positions) == count


async def test_an_excessive_client_without_a_position_receives_no_position(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_client, "KEPT_BYTES", 10)
    waiting = Waiting()
    waiting.client.accept()
    waiting.receive(message := sent(Opcode.TEXT, b"too much"))
    assert waiting.wire.is_reading_paused
    replica = waiting.begin()
    assert (waiting.frames, bytes(replica.sent)) == ([], message)


# The first message, by which a session may be named


@pytest.mark.parametrize("fragments", [1, 3])
async def test_the_first_message_is_read_and_kept(fragments: int) -> None:
    waiting = Waiting()
    waiting.client.accept()
    reading = asyncio.ensure_future(waiting.client.first_message())
    await settle()
    stream = b""
    for at in range(fragments):
        opcode = Opcode.CONT if at else Opcode.TEXT
        stream += sent(opcode, b"part %d;" % at, is_final=at == fragments - 1)
    second = sent(Opcode.TEXT, b"the second")
    waiting.receive(sent(Opcode.PING, b"before") + stream + second)
    assert await reading == b"".join(b"part %d;" % at for at in range(fragments))
    assert bytes(waiting.begin().sent) == stream + second


async def test_a_first_message_may_be_larger_than_what_is_kept() -> None:
    waiting = Waiting(longest=8 * 2**20)
    waiting.client.accept()
    reading = asyncio.ensure_future(waiting.client.first_message())
    await settle()
    message = sent(Opcode.BINARY, bytes(5 * 2**20))
    for at in range(0, len(message), 2**16):
        waiting.receive(message[at : at + 2**16])
    assert len(await reading) == 5 * 2**20
    assert waiting.wire.is_reading_paused
    assert bytes(waiting.begin().sent) == message


async def test_fragments_of_a_first_message_are_limited_together() -> None:
    waiting = Waiting(longest=3 * 2**20)
    waiting.client.accept()
    reading = asyncio.ensure_future(waiting.client.first_message())
    await settle()
    waiting.receive(sent(Opcode.BINARY, bytes(2 * 2**20), is_final=False))
    waiting.receive(sent(Opcode.CONT, bytes(2 * 2**20)))
    await settle()
    assert waiting.frames[-1].data[:2] == (1009).to_bytes(2, "big")
    assert waiting.is_cancelled
    reading.cancel()


async def test_empty_fragments_of_a_first_message_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_client, "KEPT_BYTES", 4096)
    waiting = Waiting(longest=4096)
    waiting.client.accept()
    reading = asyncio.ensure_future(waiting.client.first_message())
    await settle()
    waiting.receive(sent(Opcode.TEXT, is_final=False))
    for _ in range(10_000):
        if waiting.wire.is_reading_paused:
            break
        waiting.receive(sent(Opcode.CONT, is_final=False))
    assert waiting.wire.is_reading_paused
    reading.cancel()
