"""The client's side of a WebSocket session before the session begins: the handshake, the wait, and the failure.

A client that has to wait for a slot is accepted before it has a replica, and receives its position in the queue. The
messages that it sends meanwhile are kept, up to a limit. Above it nothing is read, so that TCP slows the client down.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
from collections.abc import Sequence
from typing import Any, cast

from shared_registry.http1.fields import lines
from shared_registry.proxy import closing, frames
from shared_registry.proxy.client import EARLY_BYTES
from shared_registry.proxy.closing import Close
from shared_registry.proxy.exchange import Exchange
from shared_registry.proxy.frames import FrameError
from shared_registry.proxy.headers import REQUEST_ID
from shared_registry.proxy.trial import Trial
from shared_registry.proxy.tunnel import CLOSE_SECONDS, Tunnel, failure

KEPT_BYTES = 1024 * 1024
"""The size of kept messages above which no more is read from a waiting client. One message may exceed it."""
REPEAT_SECONDS = 1.0
"""How often the position is sent again while nothing is read. Only sending then shows that the client has left."""
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY_BYTES = 16


def handshake_key(exchange: Exchange) -> bytes | None:
    """Return the key of a WebSocket handshake; `None` if the handshake is not valid."""
    keys = [value for name, value in exchange.fields if name == b"sec-websocket-key"]
    versions = [value for name, value in exchange.fields if name == b"sec-websocket-version"]
    if len(keys) != 1 or versions != [b"13"]:
        return None
    try:
        is_valid = len(base64.b64decode(keys[0], validate=True)) == _KEY_BYTES
    except binascii.Error:
        return None
    return keys[0] if is_valid else None


def accept_of(key: bytes) -> bytes:
    """Return the value of `Sec-WebSocket-Accept` for a key."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def offered_subprotocols(fields: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
    """Return the subprotocols that a handshake offers."""
    values = (value for name, value in fields if name == b"sec-websocket-protocol")
    return [name for value in values for part in value.split(b",") if (name := part.strip())]


class WebSocketClient(asyncio.Protocol):
    """One client, from its handshake until its session begins or fails.

    If the client leaves before that, the task that serves it is cancelled.

    Attributes:
        is_accepted: Whether the handshake is complete, and so the subprotocol is chosen: by a replica, or the first one
            that the client offers.
    """

    __slots__ = (
        "_chosen",
        "_connection",
        "_exchange",
        "_first",
        "_is_blocked",
        "_is_closed",
        "_is_owed",
        "_is_paused",
        "_kept",
        "_key",
        "_longest",
        "_loop",
        "_message",
        "_ping",
        "_position",
        "_received",
        "_timer",
        "_transport",
        "_trial",
        "_tunnel",
        "is_accepted",
    )

    def __init__(self, exchange: Exchange, key: bytes, *, longest: int) -> None:
        """Take over the connection. Nothing is sent yet.

        Args:
            exchange: The client's handshake.
            key: The handshake's key.
            longest: The most bytes of a message.
        """
        self.is_accepted = False
        self._exchange = exchange
        self._connection = exchange.client
        self._key = key
        self._longest = longest
        self._loop = asyncio.get_running_loop()
        self._kept = bytearray()
        self._first: asyncio.Future[bytes] | None = None
        self._message = bytearray()
        self._position: tuple[int, int] | None = None
        self._is_owed = False
        self._ping: bytes | None = None
        self._is_blocked = False
        self._is_paused = False
        self._is_closed = False
        self._trial: Trial | None = None
        self._chosen: bytes | None = None
        self._tunnel: Tunnel | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._transport, early = self._connection.take_over(self)
        self._received = bytearray(early)
        self._connection.tunnel = self._stop

    # Before the session

    @property
    def subprotocols(self) -> list[bytes]:
        """The subprotocols from which a replica may choose."""
        if not self.is_accepted:
            return offered_subprotocols(self._exchange.fields)
        return [] if self._chosen is None else [self._chosen]

    def accept(self) -> None:
        """Accept the client without a replica's answer, unless it was accepted before."""
        if self.is_accepted:
            return
        fields = [(b"sec-websocket-accept", accept_of(self._key))]
        if chosen := self.subprotocols[:1]:
            fields.append((b"sec-websocket-protocol", chosen[0]))
        self._switch(fields)
        # So that it is known when a slow client has received it all. With 0, TLS would always count as full.
        self._transport.set_write_buffer_limits(high=1)
        self._read()

    async def first_message(self) -> bytes:
        """Return the payload of the client's first message. The message is kept for the replica as well."""
        self._first = self._loop.create_future()
        self._read()
        return await self._first

    def set_position(self, position: int, depth: int) -> None:
        """Send the client its position in the queue, counted from 1. A slow client receives only the latest one."""
        self._exchange.note_position(position, depth)
        self.accept()
        self._position = position, depth
        self._is_owed = self._is_blocked
        if not self._is_blocked:
            self._send_position()

    def fail(self, code: str, message: str, close_code: int, *, is_retryable: bool = True) -> None:
        """End the session with an error frame and a close frame."""
        self._exchange.note_refusal(f"WebSocket {close_code} {code}", message)
        self._exchange.note_end("refused", error=code, close_code=close_code)
        if self._tunnel is not None:
            last = failure(code, message, close_code, is_retryable=is_retryable)
            self._tunnel.end(last, Close(closing.GOING_AWAY, code))
            return
        self.accept()
        self._close_with(failure(code, message, close_code, is_retryable=is_retryable))

    # The session

    def try_out(self, trial: Trial, replica_fields: Sequence[tuple[bytes, bytes]]) -> None:
        """Begin a session at a replica that may turn out to be busy. `end_trial` or `begin` must follow.

        The client's messages are passed on and kept as well.

        Args:
            trial: The replica's side.
            replica_fields: The headers of the replica's answer to pass on, unless the client was accepted before.
        """
        self._cancel_timer()
        if not self.is_accepted:
            self._switch(replica_fields)
        self._trial = trial
        if self._kept:
            trial.send(bytes(self._kept))
        self._read()

    def end_trial(self) -> None:
        """Keep the client's messages for another replica."""
        self._trial = None

    def begin(self, replica_fields: Sequence[tuple[bytes, bytes]], tunnel: Tunnel, replica: asyncio.Transport) -> None:
        """Begin the session: accept the client with the replica's answer, unless it was accepted before.

        What was received before the session is passed on.

        Args:
            replica_fields: The headers of the replica's answer to pass on.
            tunnel: The session.
            replica: The connection to the replica, whose protocol is the tunnel's side.
        """
        self._cancel_timer()
        tunnel.begin(self._transport, replica)
        if not self.is_accepted:
            self._switch(replica_fields)
        self._transport.set_write_buffer_limits()
        self._exchange.become_session()
        self._tunnel = tunnel
        self._transport.set_protocol(tunnel.client)
        if self._is_blocked:
            tunnel.client.pause_writing()
        sent = bytes(self._kept) if self._trial is not None else b""
        early = bytes(self._received if sent else self._kept + self._received)
        self._trial = None
        del self._kept, self._received, self._message  # from now on only the tunnel receives
        if sent:
            tunnel.client.note_sent(sent)
        if early:
            tunnel.client.data_received(early)
        if self._is_paused and not self._transport.is_closing():
            self._is_paused = False
            self._transport.resume_reading()

    # What the event loop calls

    def data_received(self, data: bytes) -> None:
        """Keep data, and read the frames in it if the handshake is complete."""
        self._received += data
        if self.is_accepted:
            self._read()
        elif len(self._received) > EARLY_BYTES:
            self._exchange.note_end("client_error")
            self._transport.abort()

    def eof_received(self) -> bool | None:
        """Close the connection."""
        return None

    def connection_lost(self, error: Exception | None) -> None:
        """Cancel the task that serves the client."""
        self._cancel_timer()
        if self._trial is not None:
            self._trial.end(closing.for_replica(Close(None)))
        self._connection.connection_lost(error)

    def pause_writing(self) -> None:
        """Send no position, because the client has not received the last one."""
        self._is_blocked = True

    def resume_writing(self) -> None:
        """Answer the latest ping, and send the latest position."""
        self._is_blocked = False
        if self._ping is not None:
            ping, self._ping = self._ping, None
            self._answer_ping(ping)
        if self._is_owed:
            self._is_owed = False
            self._send_position()

    # Inside

    def _switch(self, fields: Sequence[tuple[bytes, bytes]]) -> None:
        self.is_accepted = True
        self._exchange.note_status(101)
        self._chosen = dict(fields).get(b"sec-websocket-protocol")
        head = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n%b\r\n"
        if not self._transport.is_closing():
            self._transport.write(head % lines((*fields, (REQUEST_ID, self._exchange.request_id))))

    def _answer_ping(self, payload: bytes) -> None:
        """Answer a ping. A client that does not read is only answered the latest one (RFC 6455, section 5.5.3)."""
        if self._is_blocked:
            self._ping = payload
        elif not self._is_closed and not self._transport.is_closing():
            self._transport.write(frames.frame(frames.PONG, payload))

    def _send_position(self) -> None:
        if self._position is None or self._is_closed or self._transport.is_closing():
            return
        position, depth = self._position
        document: dict[str, Any] = {"type": "queue_status", "position": position, "queue_depth": depth}
        self._transport.write(frames.frame(frames.TEXT, json.dumps(document).encode()))

    def _read(self) -> None:
        """Read the frames that are complete: answer pings, keep messages, and notice the close frame."""
        data, at = self._received, 0
        try:
            while (head := frames.read_head(data, at, is_masked=True)) is not None:
                if len(self._message) + head.length > self._longest:
                    raise FrameError(frames.TOO_BIG, "the message is larger than max_frame_bytes")
                end = at + head.size + head.length
                if end > len(data):
                    break
                if self._trial is not None and head.opcode == frames.CLOSE:
                    self._trial.decide(is_taken=True)  # the close frame is the tunnel's to pass on
                    break
                self._take(head, bytes(data[at:end]))
                at = end
        except FrameError as error:
            at = len(data)
            self._exchange.note_refusal(f"WebSocket {error.code}", str(error))
            self._exchange.note_end("client_error", close_code=error.code)
            self._close_with(frames.close_frame(Close(error.code, str(error))))
            self._exchange.leave()
        del data[:at]
        most = KEPT_BYTES + (self._longest if self._is_first_due else 0)
        if len(self._kept) + len(data) > most and not self._is_paused and not self._is_closed:
            self._is_paused = True
            self._transport.pause_reading()
            self._repeat()

    @property
    def _is_first_due(self) -> bool:
        """Whether the first message is waited for. So much more is kept that it arrives whole."""
        return self._first is not None and not self._first.done()

    def _take(self, head: frames.FrameHead, data: bytes) -> None:
        payload = data[head.size :]
        if head.opcode == frames.CLOSE:
            self._end(frames.read_close(payload, head.mask))
        elif self._is_closed or head.opcode == frames.PONG:
            return
        elif head.opcode == frames.PING:
            self._answer_ping(frames.unmasked(payload, head.mask))
        else:
            self._kept += data
            if self._trial is not None:
                self._trial.send(data)
            if self._is_first_due:
                self._message += frames.unmasked(payload, head.mask)
                if head.is_final:
                    cast("asyncio.Future[bytes]", self._first).set_result(bytes(self._message))
                    self._message.clear()

    def _end(self, close: Close) -> None:
        """The client has closed: answer, and end."""
        if not self._is_closed:
            self._is_closed = True
            code = frames.NO_CODE if close.code is None else close.code
            answer = Close(None) if code == frames.NO_CODE else close
            self._transport.write(frames.close_frame(answer))
            self._exchange.note_end("client_closed", close_code=code)
            self._exchange.leave()
        self._transport.close()

    def _close_with(self, last: bytes) -> None:
        """Send the last frames, and close the connection when the client has answered, or after `CLOSE_SECONDS`."""
        if self._is_closed or self._transport.is_closing():
            return
        self._is_closed = True
        self._transport.write(last)
        self._cancel_timer()
        self._timer = self._loop.call_later(CLOSE_SECONDS, self._transport.abort)
        if self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()
        self._kept = bytearray()

    def _repeat(self) -> None:
        """Send the position again from time to time while nothing is read."""
        self._cancel_timer()
        self._timer = self._loop.call_later(REPEAT_SECONDS, self._repeat)
        if not self._is_blocked:
            self._send_position()

    def _stop(self, code: int, reason: str) -> None:
        """End the session, because the router stops."""
        if self._tunnel is not None:
            if not self._tunnel.is_ending:  # the client need not answer before the task is cancelled
                self._exchange.note_end("router_stopped", close_code=code)
            self._tunnel.end(frames.close_frame(Close(code, reason)), Close(code, reason))
            return
        if self._trial is not None:
            self._trial.end(Close(code, reason))
        self._exchange.note_end("router_stopped", close_code=code if self.is_accepted else None)
        self._exchange.leave()
        if self.is_accepted:
            self._close_with(frames.close_frame(Close(code, reason)))
        else:
            self._transport.close()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
