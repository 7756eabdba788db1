"""Reads replicas' responses from the bytes of a connection, and refuses those that may be understood in two ways.

The parser is llhttp (`httptools`). What it lets through is refused here: other protocols and versions of HTTP, transfer
encodings other than chunked, control characters in headers, and heads that do not end. A response with a known head
is not parsed again; see `known_heads`.
"""

from __future__ import annotations

import functools
import re
from typing import Protocol

import httptools

from shared_registry.http1.fields import WITHOUT_BODY, Headers, malformed, name_of
from shared_registry.http1.known_heads import KnownHeads

LONGEST_HEAD = 64 * 1024
"""The most bytes of a response's head, or of a body's framing between two pieces of it."""
KNOWN_HEADS, LONGEST_KNOWN = 256, 1024
"""How many heads are remembered, and the longest of them: within a second, a server sends equal ones."""
SWITCHING_PROTOCOLS = 101

_FIRST_BYTE = b"H"[0]
_END_OF_HEAD = b"\r\n\r\n"
_FIELD = re.compile(rb"\r\n([^:\r\n]+):[ \t]*([^\r\n]*)")
"""A header's line in a head that the parser has accepted. To be called for each header would take the parser longer."""
_VERSIONS = frozenset({"1.0", "1.1"})


Meaning = tuple[int, Headers]
"""What a head means: the status, and the headers with names in lower case."""


class ReplicaBroke(Exception):
    """The connection ended, or the replica sent something that is not valid HTTP. The text has the reason."""


class Receiver(Protocol):
    """Takes a response."""

    def begin(self, status: int, fields: Headers) -> None:
        """The head was received, with names in lower case. If this raises, the exchange fails with that exception."""

    def send(self, data: bytes) -> None:
        """A piece of the body was received. If this raises, the exchange fails with that exception."""

    def flush(self) -> None:
        """No more was received for now."""

    def end(self) -> None:
        """The response is complete."""


class ResponseReader:
    """Reads one response after the other. Interim responses are skipped.

    Attributes:
        status: The status of the response; `None` until its head is complete.
        is_begun: Whether the head of the response is complete.
        is_complete: Whether the response is complete. A switch to another protocol does not count as one.
        is_void: Whether the response has no body because of its status or the request's method. If a replica sent a
            body nevertheless, a moment later, it would be taken for the next response.
        may_carry_more: Whether a further response may follow on the connection.
    """

    __slots__ = (
        "_has_framing",
        "_head",
        "_is_head_request",
        "_is_interim",
        "_is_upgrade",
        "_meaning",
        "_parser",
        "_receiver",
        "_unread_bytes",
        "is_begun",
        "is_complete",
        "is_void",
        "may_carry_more",
        "status",
    )

    def __init__(self) -> None:
        self.status: int | None = None
        self.is_begun = False
        self.is_complete = False
        self.is_void = False
        self.may_carry_more = True
        self._parser = httptools.HttpResponseParser(self)
        self._receiver: Receiver
        self._head = b""
        self._has_framing = False
        self._is_head_request = False
        self._is_interim = False
        self._is_upgrade = False
        self._meaning: tuple[int, Meaning] | None = None
        self._unread_bytes = 0

    def begin(self, receiver: Receiver, *, is_head_request: bool, is_upgrade: bool) -> None:
        """Expect a response.

        Args:
            receiver: Takes the response.
            is_head_request: Whether the request's method is HEAD.
            is_upgrade: Whether the request offers another protocol.
        """
        if self.is_void:  # the parser may still expect the body, because it does not know the request's method
            self._parser = httptools.HttpResponseParser(self)
        self.status = None
        self.is_begun = self.is_complete = self.is_void = self._is_interim = False
        self._receiver = receiver
        self._is_head_request = is_head_request
        self._is_upgrade = is_upgrade
        self._head = b""
        self._meaning = None
        self._has_framing = True
        self._unread_bytes = 0

    def feed(self, data: bytes) -> bytes | None:
        """Read a piece of the response.

        Returns:
            What follows the response 101, in another protocol; `None` as long as the protocol stays HTTP.

        Raises:
            ReplicaBroke: The response is refused.
            Exception: The receiver has raised it.
        """
        is_first = not self._unread_bytes and not self.is_begun
        if is_first:
            if not (self._is_head_request or self._is_upgrade) and (known := _known_heads.find(data)) is not None:
                self._pass_on(*known)
                return None
            if data[0] != _FIRST_BYTE:
                raise ReplicaBroke("illegal status line")  # the parser would take RTSP as well
        if not self.is_begun:
            self._head += data
        self._unread_bytes += len(data)
        failure: Exception | None = None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as pause:
            del self._parser  # the two refer to each other, and would stay until a garbage collection
            return data[pause.args[0] :]
        except httptools.HttpParserError as error:
            failure = self._failure(error)
        if failure is not None:
            raise failure
        if self._unread_bytes > LONGEST_HEAD:
            raise ReplicaBroke("the head of its response is too long")
        if is_first and self._meaning is not None and self.is_complete and not self.is_void and self.may_carry_more:
            _known_heads.add(data, *self._meaning)
        return None

    def end_with_connection(self) -> bool:
        """The connection has ended. Return whether this completes the response, because nothing else tells its end."""
        self.may_carry_more = False
        return self.is_begun and not self._has_framing and not self.is_void

    # What the parser calls

    def on_message_begin(self) -> None:
        """Begin a head. Nothing may follow a complete response."""
        if self.is_complete:
            self.may_carry_more = False
        self._is_interim = False

    def on_headers_complete(self) -> None:
        """Pass on the head, unless the response is an interim one. All interim responses count as one head."""
        status = self._parser.get_status_code()
        if self.is_complete or self.is_void:
            return
        if self._parser.get_http_version() not in _VERSIONS or status < 100:
            raise ReplicaBroke("illegal status line")
        if status == SWITCHING_PROTOCOLS:
            if not self._is_upgrade:
                raise ReplicaBroke("it has switched protocols without being asked to")
        elif status < 200:
            self._is_interim = True
            self._head = self._head[self._head.find(_END_OF_HEAD) + len(_END_OF_HEAD) :]
            return
        head, self._head = self._head[: self._head.find(_END_OF_HEAD)], b""
        is_usual = (
            len(head) <= LONGEST_KNOWN and status != SWITCHING_PROTOCOLS
        )  # the answer to each handshake is another
        fields = (_known_fields if is_usual else _fields_of)(head)
        self._unread_bytes = 0
        self.status = status
        self.is_begun = True
        is_encoded = b"transfer-encoding" in map(name_of, fields)
        length = None if is_encoded else dict(fields).get(b"content-length")
        self._has_framing = is_encoded or length is not None
        if length is not None and length.isdigit():
            self._meaning = int(length), (status, fields)
        if is_encoded and not _is_chunked(fields):
            raise ReplicaBroke("the transfer encoding of its response is not chunked")
        self._receiver.begin(status, fields)
        if self._is_head_request or status in WITHOUT_BODY:
            self.is_void = self.is_complete = True
            if not self._parser.should_keep_alive():
                self.may_carry_more = False

    def on_body(self, body: bytes) -> None:
        """Pass on a piece of the body."""
        self._unread_bytes = 0
        if self.is_void:
            self.may_carry_more = False
        elif not self.is_complete:
            self._receiver.send(body)

    def on_message_complete(self) -> None:
        """End the response, unless it is an interim one."""
        if self._is_interim:
            return
        self._unread_bytes = 0
        if self.status == SWITCHING_PROTOCOLS and not self.is_complete:
            if not self._parser.should_upgrade():
                raise ReplicaBroke("its response 101 does not name the new protocol")
        else:
            self.is_complete = True
            if not self._parser.should_keep_alive():
                self.may_carry_more = False

    # Inside

    def _pass_on(self, meaning: Meaning, body: bytes) -> None:
        """Pass on a whole response with a known head."""
        self.status, fields = meaning
        self.is_begun = True
        self._receiver.begin(self.status, fields)
        if body:
            self._receiver.send(body)
        self.is_complete = True

    def _failure(self, error: httptools.HttpParserError) -> Exception | None:
        """Return what has failed when the parser has raised an error."""
        if isinstance(error, httptools.HttpParserCallbackError) and isinstance(error.__context__, Exception):
            return error.__context__
        if self.is_complete:
            self.may_carry_more = False  # what follows the response is no response, and answers no request
            return None
        if self.is_begun:
            return ReplicaBroke(f"illegal chunk: {error}")
        if isinstance(error, httptools.HttpParserInvalidStatusError) or self._parser.get_status_code() < 100:
            return ReplicaBroke("illegal status line")
        return ReplicaBroke(f"illegal header line: {error}")


def _fields_of(head: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """Return the headers of a head that the parser has accepted, with names in lower case.

    Args:
        head: The head, without the end of its last line.

    Raises:
        ReplicaBroke: The value of one has control characters.
    """
    found = _FIELD.findall(head)
    fields = tuple([(name.lower(), value) for name, value in found])
    if name := malformed(fields):
        raise ReplicaBroke(f"the value of {name.decode()} has control characters")
    return fields


_known_heads: KnownHeads[Meaning] = KnownHeads(KNOWN_HEADS, LONGEST_KNOWN)
_known_fields = functools.lru_cache(KNOWN_HEADS)(_fields_of)


def _is_chunked(fields: Headers) -> bool:
    return all(value.lower() == b"chunked" for name, value in fields if name == b"transfer-encoding")
