"""An HTTP/1.1 connection to a replica for probes. The parser is h11.

httpx and httpcore, which also use h11, do not fit. The time that a shared httpx pool needs is quadratic in the number
of origins. One httpcore connection for each replica was measured and is fast enough, but has three defects for probes.
A cancelled TLS handshake leaves its socket open. A surplus response is taken for the response to the next request, so
that every later result belongs to the probe before. Closing is asynchronous, so a cancelled probe may not complete it.

Not promised: the addresses of a host name are tried one after the other, in the system's order, like those of the
routers' own connections, so one that does not respond uses up the time limit. HTTP/2 is not supported.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
from collections.abc import Sequence
from typing import NamedTuple, cast

import h11

from shared_registry.probing.own_trouble import own_trouble

BODY_LIMIT = 64 * 1024
"""The most bytes that are read of a response's body. The same limit applies to its headers."""

SWITCHING_PROTOCOLS = 101

_END_OF_REQUEST = h11.EndOfMessage()
_ERRNO = re.compile(r"\[Errno (\d+)\]")


class ProbeFailure(Exception):
    """A probe has failed. The text is for operators, and may contain any text that the replica sent."""


class Unanswered(ProbeFailure):
    """The connection ended before any byte of a response. On a reused connection this is no failure of the replica."""


class Response(NamedTuple):
    """A replica's response. If the body is longer than `BODY_LIMIT`, it is cut to that length.

    A response with the status 101 accepts another protocol, and comes with its headers.
    """

    status: int
    body: bytes
    is_truncated: bool = False
    headers: Sequence[tuple[bytes, bytes]] = ()


class ProbeConnection(asyncio.Protocol):
    """A connection that carries one exchange at a time.

    Every method except `open` and `exchange` is synchronous, so that a cancelled probe can always clean up. After an
    exchange that failed or was cancelled, `is_idle` is false, and the connection can only be aborted.

    Attributes:
        address: The IP address of the replica.
        exchanges: How many exchanges have begun.
    """

    def __init__(self) -> None:
        self.address = ""
        self.exchanges = 0
        self._parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=BODY_LIMIT)
        self._transport: asyncio.Transport
        self._waiter: asyncio.Future[None] | None = None
        self._lost: OSError | None = None
        self._has_heard = False
        self._switched: bytearray | None = None
        self._is_ended = False

    @classmethod
    async def open(
        cls, addresses: Sequence[str], port: int, context: ssl.SSLContext | None, server_name: str
    ) -> ProbeConnection:
        """Connect to the first address that accepts. If it is cancelled, it leaves no socket open.

        Args:
            addresses: IP addresses, at least one.
            port: The port.
            context: For TLS; `None` for none.
            server_name: The name that the replica's certificate must have.

        Raises:
            ProbeFailure: The connection could not be established.
            OwnTrouble: This router could not try to connect, for a reason of its own.
        """
        errors: list[Exception] = []
        for address in addresses:
            try:
                return await cls._connect(address, port, context, server_name)
            except (OSError, UnicodeError, RuntimeError) as error:
                errors.append(error)
                if isinstance(error, ssl.SSLError | RuntimeError):
                    break
        failure = errors[0] if len(errors) == 1 else ExceptionGroup("no address accepts a connection", errors)
        url = f"//{f'[{address}]' if ':' in address else address}:{port}"
        if (trouble := own_trouble(failure, url=url)) is not None:
            raise trouble from failure
        if isinstance(errors[-1], RuntimeError):
            raise errors[-1]
        raise ProbeFailure(f"ConnectError: {reason_of(failure)}") from failure

    @classmethod
    async def _connect(
        cls, address: str, port: int, context: ssl.SSLContext | None, server_name: str
    ) -> ProbeConnection:
        _, connection = await asyncio.get_running_loop().create_connection(
            cls, address, port, ssl=context, server_hostname=server_name if context else None
        )
        connection.address = address
        return connection

    @property
    def is_idle(self) -> bool:
        """Whether the connection can carry another exchange, as far as this side knows."""
        return self._parser.our_state is h11.IDLE and not self._transport.is_closing()

    def abort(self) -> None:
        """Close the connection at once. An exchange in progress fails. Twice is harmless."""
        self._transport.abort()

    async def exchange(self, request: h11.Request, body: bytes = b"") -> Response:
        """Send a request and return its response. There is no time limit here; the caller must set one.

        After the status 101, `read` and `write` carry the other protocol.

        Raises:
            Unanswered: The connection ended before any byte of a response. After a reused connection, a new one may
                succeed.
            ProbeFailure: The response is not valid HTTP, or the connection broke within it.
            OwnTrouble: The connection broke for a reason of this router's own.
        """
        self._has_heard = False
        self.exchanges += 1
        try:
            data = self._parser.send(request) + (self._parser.send(h11.Data(data=body)) if body else b"")
            self._transport.write(data + self._parser.send(_END_OF_REQUEST))
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
            elif isinstance(event, h11.InformationalResponse) and event.status_code == SWITCHING_PROTOCOLS:
                self._switched = bytearray(self._parser.trailing_data[0])
                return Response(SWITCHING_PROTOCOLS, b"", headers=tuple(event.headers))
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > BODY_LIMIT:
                    return Response(status, bytes(body[:BODY_LIMIT]), is_truncated=True)
            elif isinstance(event, h11.EndOfMessage):
                self._make_idle()
                return Response(status, bytes(body))

    def write(self, data: bytes) -> None:
        """Send bytes of the other protocol."""
        self._transport.write(data)

    async def read(self) -> bytes:
        """Return the bytes of the other protocol that have arrived, at least one; empty bytes at the end.

        Raises:
            ProbeFailure: The connection broke.
            OwnTrouble: The connection broke for a reason of this router's own.
        """
        switched = self._switched
        if switched is None:
            raise RuntimeError("the connection still carries HTTP")
        try:
            while not switched and not self._is_ended:
                await self._more()
        except OSError as error:
            raise own_trouble(error) or ProbeFailure(f"ReadError: {reason_of(error)}") from error
        data = bytes(switched)
        switched.clear()
        return data

    def close_after(self, data: bytes) -> None:
        """Send the last bytes, and close the connection once they are sent."""
        self._transport.write(data)
        self._transport.close()

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

    # Callbacks of the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Pass data to the parser. Abort if no request was sent: the data must not be taken for the next response."""
        if self._switched is not None:
            self._switched += data
            self._wake()
            return
        if self._parser.our_state is h11.IDLE:
            self.abort()
            return
        self._has_heard = True
        self._parser.receive_data(data)
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        """Record the end of the connection, and its error. The connection also ends if the replica closes its side."""
        self._is_ended = True
        if error is not None:
            self._lost = error if isinstance(error, OSError) else ConnectionError(str(error))
        elif self._switched is None:
            self._parser.receive_data(b"")
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def reason_of(error: Exception) -> str:
    """Return the reason why a connection failed, in the operating system's words, without addresses and numbers."""
    if isinstance(error, ExceptionGroup):
        return ", ".join(dict.fromkeys(reason_of(one) for one in error.exceptions))
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {(error.reason or str(error)).replace('_', ' ').lower()}"
    if isinstance(error, socket.gaierror):
        return str(error.strerror or error).lower()
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    # If several addresses have failed, asyncio raises one error with the joined texts and without an errno.
    reasons = dict.fromkeys(os.strerror(int(number)).lower() for number in _ERRNO.findall(str(error)))
    return ", ".join(reasons) or str(error) or type(error).__name__
