"""One HTTP/1.1 connection to one replica, as a probe needs it. h11 does the parsing.

Why neither httpx nor httpcore here. A shared httpx pool is quadratic in the number of origins. httpcore connections
held one per replica are not, and were measured, but leave three things that a probe cannot accept: a TLS handshake
that is cancelled keeps its socket open; a surplus response is taken for the answer to the next request, and every
verdict after it is one probe late; closing is asynchronous, so a cancelled probe may not get to it. h11 is the parser
under both.

Not promised: addresses of a host name are tried in the system's order, one after the other, as the routers' own
connections do; HTTP/2 is not spoken.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
from typing import NamedTuple, cast

import h11

from shared_registry.probing.own_trouble import own_trouble

BODY_LIMIT = 64 * 1024
"""Bytes of a response body that are read; the same bounds its headers."""

_END_OF_REQUEST = h11.EndOfMessage()
_ERRNO = re.compile(r"\[Errno (\d+)\]")


class ProbeFailure(Exception):
    """A probe that failed; its text is for operators, and may hold whatever the replica sent."""


class Unanswered(ProbeFailure):
    """The connection ended before a byte of an answer came. On one used before, that says nothing about the replica."""


class Response(NamedTuple):
    """What a replica answered. Where the body was longer than `BODY_LIMIT`, that much of it."""

    status: int
    body: bytes
    is_truncated: bool = False


class ProbeConnection(asyncio.Protocol):
    """A connection that carries one exchange at a time.

    Every method but `exchange` is synchronous, so that a cancelled probe can always finish cleaning up. After an
    exchange that did not end well, cancellation included, `is_idle` is false and all that is left is `abort()`.
    """

    def __init__(self) -> None:
        self._parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=BODY_LIMIT)
        self._transport: asyncio.Transport
        self._waiter: asyncio.Future[None] | None = None
        self._lost: OSError | None = None
        self._has_heard = False

    @classmethod
    async def open(cls, host: str, port: int, context: ssl.SSLContext | None) -> ProbeConnection:
        """Connect, with TLS where a context is given. Cancelled, it leaves no socket behind.

        Raises:
            ProbeFailure: There is no connection to be had.
            OwnTrouble: This router could not try.
        """
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(
                cls, host, port, ssl=context, server_hostname=host if context else None
            )
        except (OSError, UnicodeError, RuntimeError) as error:
            if (trouble := own_trouble(error, url=f"//{f'[{host}]' if ':' in host else host}:{port}")) is not None:
                raise trouble from error
            if isinstance(error, RuntimeError):
                raise
            raise ProbeFailure(f"ConnectError: {reason_of(error)}") from error
        return connection

    @property
    def is_idle(self) -> bool:
        """Whether the next exchange may use it, as far as is known here."""
        return self._parser.our_state is h11.IDLE and not self._transport.is_closing()

    def abort(self) -> None:
        """Close it at once. An exchange in progress fails. Twice is harmless."""
        self._transport.abort()

    async def exchange(self, request: h11.Request) -> Response:
        """Send a request and return the response to it. It knows no time limit: the caller has one.

        Raises:
            Unanswered: The connection ended before a byte came; where it was kept from before, a fresh one may well do.
            ProbeFailure: What came is no HTTP, or the connection broke within it.
            OwnTrouble: It broke because of this router.
        """
        self._has_heard = False
        try:
            self._transport.write(self._parser.send(request) + self._parser.send(_END_OF_REQUEST))
            return await self._receive()
        except (h11.RemoteProtocolError, OSError) as error:
            raise own_trouble(error) or self._failure(error) from error

    async def _receive(self) -> Response:
        status, body = 0, bytearray()
        while True:
            event = self._parser.next_event()
            if event is h11.NEED_DATA:
                await self._more()
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > BODY_LIMIT:
                    return Response(status, bytes(body[:BODY_LIMIT]), is_truncated=True)
            elif isinstance(event, h11.EndOfMessage):
                self._make_idle()
                return Response(status, bytes(body))

    def _make_idle(self) -> None:
        surplus, _ = self._parser.trailing_data
        if self._parser.our_state is h11.DONE and self._parser.their_state is h11.DONE and not surplus:
            self._parser.start_next_cycle()

    async def _more(self) -> None:
        if self._lost is not None:
            raise self._lost
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _failure(self, error: h11.RemoteProtocolError | OSError) -> ProbeFailure:
        if isinstance(error, OSError):
            text = f"ReadError: {reason_of(error)}"
        elif self._has_heard:
            text = f"RemoteProtocolError: {error}"
        else:
            text = "RemoteProtocolError: server disconnected without sending a response"
        return ProbeFailure(text) if self._has_heard else Unanswered(text)

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport: there is a connection."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Feed the parser. What nobody asked for ends the connection: it must not answer the next request."""
        if self._parser.our_state is h11.IDLE:
            self.abort()
            return
        self._has_heard = True
        self._parser.receive_data(data)
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        """Note the end of the connection, and why; the end of what the replica sends ends it, too."""
        if error is None:
            self._parser.receive_data(b"")
        else:
            self._lost = error if isinstance(error, OSError) else ConnectionError(str(error))
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def reason_of(error: Exception) -> str:
    """Return why a connection failed, in the operating system's words, without addresses and numbers."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {(error.reason or str(error)).replace('_', ' ').lower()}"
    if isinstance(error, socket.gaierror):
        return str(error.strerror or error).lower()
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    # Several addresses, several errors: asyncio joins their texts and drops their numbers.
    reasons = dict.fromkeys(os.strerror(int(number)).lower() for number in _ERRNO.findall(str(error)))
    return ", ".join(reasons) or str(error) or type(error).__name__
