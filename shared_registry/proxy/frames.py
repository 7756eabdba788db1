"""WebSocket frames (RFC 6455, section 5): follows the frames in a stream of bytes, and writes the router's own. Pure.

The proxy passes on bytes as they come. It only reads the heads of the frames, and so knows at any time how many bytes
of the current frame are still to come, and where another frame may be inserted.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

from shared_registry.proxy.closing import Close, is_sendable

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
PROTOCOL_ERROR, TOO_BIG = 1002, 1009
INVALID_TEXT = 1007
NO_CODE = 1005
LONGEST_CONTROL_PAYLOAD = 125
_FINAL, _RESERVED, _OPCODE, _MASKED, _LENGTH = 0x80, 0x70, 0x0F, 0x80, 0x7F
_OPCODES = frozenset({CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG})
_MASK_BYTES = 4
_LONGEST_PAYLOAD = 2**63 - 1


class FrameError(Exception):
    """A frame that must not be passed on.

    Attributes:
        code: The close code that its sender receives.
        before: The bytes before the frame, which may be passed on.
        rest: The frame, as far as it was received, and what follows it.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.before = self.rest = b""


@dataclass(frozen=True, slots=True)
class FrameHead:
    """The head of a frame.

    Attributes:
        opcode: What the frame is.
        is_final: Whether it ends its message.
        length: The number of bytes of its payload.
        size: The number of bytes of the head itself.
        mask: The key by which the payload is masked; empty if it is not masked.
    """

    opcode: int
    is_final: bool
    length: int
    size: int
    mask: bytes


def read_head(data: bytes | bytearray, at: int, *, is_masked: bool) -> FrameHead | None:
    """Return the head of the frame that begins at an index; `None` if the head is not complete.

    Args:
        data: The bytes received.
        at: Where the frame begins.
        is_masked: Whether the frames of this direction are masked: those of clients are, those of servers are not.

    Raises:
        FrameError: The frame is malformed.
    """
    if len(data) < at + 2:
        return None
    first, second = data[at], data[at + 1]
    opcode, length, size = first & _OPCODE, second & _LENGTH, 2
    if first & _RESERVED or opcode not in _OPCODES:
        raise FrameError(PROTOCOL_ERROR, "a frame of an unknown kind")
    if bool(second & _MASKED) is not is_masked:
        raise FrameError(PROTOCOL_ERROR, "a frame that is masked where it must not be, or is not where it must be")
    if opcode & CLOSE and (length > LONGEST_CONTROL_PAYLOAD or not first & _FINAL):
        raise FrameError(PROTOCOL_ERROR, "a control frame that is too long or fragmented")
    if length > LONGEST_CONTROL_PAYLOAD:
        size += 2 if length == 126 else 8
        if len(data) < at + size:
            return None
        length = int.from_bytes(data[at + 2 : at + size], "big")
        if length > _LONGEST_PAYLOAD:
            raise FrameError(PROTOCOL_ERROR, "a frame with an impossible length")
    if is_masked:
        size += _MASK_BYTES
        if len(data) < at + size:
            return None
    return FrameHead(
        opcode, bool(first & _FINAL), length, size, bytes(data[at + size - 4 : at + size]) if is_masked else b""
    )


class FrameFollower:
    """Follows the frames of one direction of a session.

    Attributes:
        close: How this direction was closed; `None` before its close frame. Nothing may be passed on after that.
    """

    __slots__ = ("_held", "_is_in_message", "_is_masked", "_left", "_longest", "_message", "close")

    def __init__(self, *, is_masked: bool, longest: int) -> None:
        """Begin between two frames.

        Args:
            is_masked: Whether the frames of this direction are masked.
            longest: The most bytes of a message, over all its frames.
        """
        self.close: Close | None = None
        self._is_masked = is_masked
        self._longest = longest
        self._left = 0
        self._held = b""
        self._message = 0
        self._is_in_message = False

    @property
    def is_closed(self) -> bool:
        """Whether the close frame was received."""
        return self.close is not None

    @property
    def left(self) -> int:
        """How many bytes of the current frame are still to be passed on; 0 between two frames."""
        return self._left

    def allow_any_length(self) -> None:
        """Limit messages no more, because they are not passed on."""
        self._longest = sys.maxsize
        self._message = 0

    def follow(self, data: bytes) -> bytes:
        """Return the bytes to pass on. An incomplete head is held back, and so is the close frame, which sets `close`.

        Raises:
            FrameError: The data has a frame that must not be passed on.
        """
        if self._held:
            data, self._held = self._held + data, b""
        size, at = len(data), self._left
        if at > size:
            self._left = at - size
            return data
        while at < size:
            try:
                head = read_head(data, at, is_masked=self._is_masked)
                if head is not None:
                    self._count(head)
                if head is None or (head.opcode == CLOSE and size - at < head.size + head.length):
                    self._held, self._left = data[at:], 0
                    return data[:at]
                if head.opcode == CLOSE:
                    self.close = read_close(data[at + head.size : at + head.size + head.length], head.mask)
                    self._left = 0
                    return data[:at]
            except FrameError as error:
                error.before, error.rest, self._left = data[:at], data[at:], 0
                raise
            at += head.size + head.length
        self._left = at - size
        return data

    def _count(self, head: FrameHead) -> None:
        """Check that a frame may follow the earlier ones, and that its message is not too long."""
        if head.opcode & CLOSE:
            return
        if (head.opcode == CONTINUATION) is not self._is_in_message:
            raise FrameError(PROTOCOL_ERROR, "a fragment without its message, or a message within another")
        message = self._message + head.length
        if message > self._longest:
            raise FrameError(TOO_BIG, "the message is larger than max_frame_bytes")
        self._is_in_message = not head.is_final
        self._message = 0 if head.is_final else message


def frame(opcode: int, payload: bytes, *, is_masked: bool = False) -> bytes:
    """Return a frame that is a whole message, or a control frame."""
    length = len(payload)
    mask_bit = _MASKED if is_masked else 0
    if length <= LONGEST_CONTROL_PAYLOAD:
        head = bytes((_FINAL | opcode, mask_bit | length))
    elif length < 1 << 16:
        head = bytes((_FINAL | opcode, mask_bit | 126)) + length.to_bytes(2, "big")
    else:
        head = bytes((_FINAL | opcode, mask_bit | 127)) + length.to_bytes(8, "big")
    if not is_masked:
        return head + payload
    mask = os.urandom(_MASK_BYTES)
    return head + mask + unmasked(payload, mask)


def close_frame(close: Close, *, is_masked: bool = False) -> bytes:
    """Return a close frame."""
    payload = b"" if close.code is None else close.code.to_bytes(2, "big") + close.reason.encode()
    return frame(CLOSE, payload, is_masked=is_masked)


def read_close(payload: bytes, mask: bytes) -> Close:
    """Return the close that a close frame's payload means.

    Raises:
        FrameError: The payload is malformed, or its code is not allowed in a close frame.
    """
    payload = unmasked(payload, mask)
    if not payload:
        return Close(NO_CODE)
    code = int.from_bytes(payload[:2], "big")
    if len(payload) < 2 or not is_sendable(code):
        raise FrameError(PROTOCOL_ERROR, "a close frame without a valid code")
    try:
        return Close(code, payload[2:].decode())
    except UnicodeDecodeError as error:
        raise FrameError(INVALID_TEXT, "a close frame whose reason is not valid text") from error


def unmasked(payload: bytes, mask: bytes) -> bytes:
    """Return a payload with its mask applied, which masks it or removes the mask."""
    if not mask or not payload:
        return payload
    size = len(payload)
    key = (mask * (size // _MASK_BYTES + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")
