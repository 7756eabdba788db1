"""The probe of a WebSocket: the handshake, then a ping that the replica must answer.

The handshake alone is not enough: a replica may accept a WebSocket and close it at once.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import struct
from collections.abc import Sequence

from shared_registry.http1.connection import ReplicaConnection
from shared_registry.http1.response import SWITCHING_PROTOCOLS
from shared_registry.probing.connection import BODY_LIMIT, ProbeFailure, Response, WholeRequest, broken, exchange
from shared_registry.probing.text import shown

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
_OPCODES = frozenset({_TEXT, _CONTINUATION, _BINARY, _CLOSE, _PING, _PONG})
_FINAL, _RESERVED, _MASKED = 0x80, 0x70, 0x80
_LONGEST_CONTROL_FRAME = 125
_NORMAL_CLOSURE = struct.pack("!H", 1000)


async def probe_websocket(connection: ReplicaConnection, target: str, headers: Sequence[tuple[str, str]]) -> str | None:
    """Open a WebSocket, and return why it does not work; `None` if the replica has answered a ping.

    The connection cannot be used afterwards.

    Args:
        connection: A new connection.
        target: The request's target.
        headers: The request's headers, without those of the handshake.

    Raises:
        ProbeFailure: The connection broke, or the replica sent something else than WebSocket frames.
        OwnTrouble: The connection broke for a reason of this router's own.
    """
    key = base64.b64encode(os.urandom(16))
    handshake = [
        *((name, text) for name, text in headers if name.lower() != "connection"),
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", key.decode()),
    ]
    response = await exchange(connection, WholeRequest("GET", target, handshake), is_upgrade=True)
    if (error := _refusal(response, key)) is not None:
        return error
    stream = _Stream(connection)
    payload = os.urandom(8)
    stream.write(_frame(_PING, payload))
    error = await _until_pong(stream, payload)
    if error is None:
        stream.write(_frame(_CLOSE, _NORMAL_CLOSURE))
    return error


class _Stream(asyncio.Protocol):
    """The bytes of a connection that has switched to WebSocket."""

    def __init__(self, connection: ReplicaConnection) -> None:
        self._received = bytearray(connection.after_switch or b"")
        self._more = asyncio.Event()
        self._lost: Exception | None = None
        self._transport = connection.switch_to(self)
        self._is_ended = self._transport.is_closing()  # it may have ended before the switch

    def write(self, data: bytes) -> None:
        """Send bytes, unless the connection has ended."""
        if not self._transport.is_closing():
            self._transport.write(data)

    async def read(self) -> bytes:
        """Return the bytes that have arrived, at least one; empty bytes at the end.

        Raises:
            ProbeFailure: The connection broke.
            OwnTrouble: The connection broke for a reason of this router's own.
        """
        while not self._received and not self._is_ended:
            self._more.clear()
            await self._more.wait()
        if not self._received and self._lost is not None:
            raise broken(self._lost) from self._lost
        data = bytes(self._received)
        self._received.clear()
        return data

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._more.set()

    def connection_lost(self, error: Exception | None) -> None:
        self._is_ended, self._lost = True, error
        self._more.set()


def _refusal(response: Response, key: bytes) -> str | None:
    if response.status != SWITCHING_PROTOCOLS:
        return f"HTTP {response.status}, expected a WebSocket (HTTP 101)"
    headers = dict(response.headers)
    if headers.get(b"upgrade", b"").lower() != b"websocket":
        return "WebSocket: the response upgrades to something else"
    accept = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())
    if headers.get(b"sec-websocket-accept") != accept:
        return "WebSocket: the response has a wrong Sec-WebSocket-Accept"
    return None


async def _until_pong(stream: _Stream, payload: bytes) -> str | None:
    """Read frames until the answer to the ping. Messages before it are passed over."""
    received, total = bytearray(), 0
    while True:
        while (frame := _take_frame(received)) is not None:
            opcode, data = frame
            if opcode == _PONG and data == payload:
                return None
            if opcode == _CLOSE:
                return f"WebSocket: closed by the replica{_reason(data)}"
        if total > BODY_LIMIT:
            return f"WebSocket: no answer to a ping in the first {BODY_LIMIT} bytes"
        data = await stream.read()
        if not data:
            return "WebSocket: the connection ended without an answer to a ping"
        received += data
        total += len(data)


def _take_frame(received: bytearray) -> tuple[int, bytes] | None:
    """Take the first frame from what was received; `None` if it is not complete."""
    if len(received) < 2:
        return None
    first, second = received[0], received[1]
    opcode, length, start = first & 0xF, second, 2
    is_control = opcode >= _CLOSE
    if first & _RESERVED or second & _MASKED or opcode not in _OPCODES:
        raise ProbeFailure("WebSocket: the replica sent an invalid frame")
    if is_control and (length > _LONGEST_CONTROL_FRAME or not first & _FINAL):
        raise ProbeFailure("WebSocket: the replica sent an invalid frame")
    if length > _LONGEST_CONTROL_FRAME:
        start = 4 if length == 126 else 10
        if len(received) < start:
            return None
        length = int.from_bytes(received[2:start])
    if len(received) < start + length:
        return None
    data = bytes(received[start : start + length])
    del received[: start + length]
    return opcode, data


def _frame(opcode: int, payload: bytes) -> bytes:
    mask = os.urandom(4)
    masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
    return bytes([_FINAL | opcode, _MASKED | len(payload)]) + mask + masked


def _reason(data: bytes) -> str:
    if len(data) < 2:
        return ""
    text = data[2:].decode(errors="replace")
    return f" with {int.from_bytes(data[:2])}" + (f" {shown(text)}" if text else "")
