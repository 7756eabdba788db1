"""An HTTP/1.1 connection to a replica. It sends and receives at the same time, each with flow control."""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
from typing import Protocol, cast

import httptools

from shared_registry.proxy import tcp, unread
from shared_registry.proxy.exchange import Exchange
from shared_registry.proxy.headers import Headers, malformed

LONGEST_HEAD = 64 * 1024
"""The most bytes of a response's head, or of a body's framing between two pieces of it."""
WITHOUT_BODY = frozenset({204, 304})
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
_LAST_CHUNK = b"0\r\n\r\n"
_SWITCHING_PROTOCOLS = 101


class ReplicaBroke(Exception):
    """The connection ended, or the replica sent something that is not valid HTTP."""


class ReplicaSilent(Exception):
    """The replica sent nothing, or accepted no data, for too long."""


class Receiver(Protocol):
    """Takes a response."""

    def begin(self, status: int, fields: Headers) -> None:
        """The head was received, with names in lower case. If this raises, the exchange fails with that exception."""

    def send(self, data: bytes) -> None:
        """A piece of the body was received."""

    def flush(self) -> None:
        """No more was received for now."""

    def end(self) -> None:
        """The response is complete."""


class ReplicaConnection(asyncio.Protocol):
    """A connection that carries one exchange at a time.

    `abort()` is allowed at any time.

    Attributes:
        is_used: Whether the connection has carried an exchange before.
        has_received: Whether any data was received in this exchange.
        is_unread: Whether the request was certainly not read, after an exchange on a reused connection has failed.
        status: The status of the last response; `None` before the first.
        after_switch: What was received after the response 101; `None` unless the connection has switched protocols.
        generation: Counts how often its pool's settings for connections had changed when it was opened.
    """

    __slots__ = (
        "_acknowledged",
        "_active_at",
        "_answered",
        "_fields",
        "_first_byte_seconds",
        "_has_begun",
        "_has_framing",
        "_idle_since",
        "_is_chunked",
        "_is_complete",
        "_is_head_request",
        "_is_interim",
        "_is_paused",
        "_is_request_complete",
        "_is_tls",
        "_is_upgrade",
        "_is_void",
        "_loop",
        "_lost",
        "_may_carry_more",
        "_opening",
        "_parser",
        "_poll",
        "_receiver",
        "_request",
        "_silence_seconds",
        "_socket",
        "_stuck_since",
        "_transport",
        "_unread_bytes",
        "after_switch",
        "generation",
        "has_received",
        "is_unread",
        "is_used",
        "status",
    )

    def __init__(self, *, silence_seconds: float, first_byte_seconds: float) -> None:
        self.is_used = False
        self.has_received = False
        self.is_unread = False
        self.status: int | None = None
        self._idle_since = 0.0
        self.after_switch: bytes | None = None
        self.generation = 0
        self._silence_seconds = silence_seconds
        self._first_byte_seconds = first_byte_seconds
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport
        self._lost: str | None = None
        self._answered: asyncio.Future[None] | None = None
        self._receiver: Receiver | None = None
        self._request: Exchange | None = None
        self._may_carry_more = True
        self._poll: select.poll | None = None
        self._opening: list[bytes] | None = None
        self._is_paused = False
        self._is_upgrade = False
        self._is_head_request = False
        self._is_chunked = False
        self._is_request_complete = False
        self._stuck_since: float | None = None
        self._fields: list[tuple[bytes, bytes]] = []
        self._has_begun = False
        self._has_framing = False
        self._is_interim = False
        self._is_void = False
        self._is_complete = False
        self._unread_bytes = 0
        self._active_at = 0.0
        self._acknowledged: int | None = None
        self._socket: socket.socket | None = None
        self._is_tls = False

    @classmethod
    async def open(
        cls,
        host: str,
        port: int,
        context: ssl.SSLContext | None,
        options: list[tcp.SocketOption],
        *,
        server_name: str,
        silence_seconds: float,
        first_byte_seconds: float,
    ) -> ReplicaConnection:
        """Connect, with TLS if a context is given. If it is cancelled, it leaves no socket open.

        Raises:
            OSError: The connection could not be established.
        """
        loop = asyncio.get_running_loop()
        transport, connection = await loop.create_connection(
            lambda: cls(silence_seconds=silence_seconds, first_byte_seconds=first_byte_seconds),
            host,
            port,
            ssl=context,
            server_hostname=server_name if context else None,
        )
        tcp.apply(options, transport.get_extra_info("socket"))
        return connection

    @property
    def is_idle(self) -> bool:
        """Whether the connection can carry another exchange, as far as this side knows."""
        return (
            self._may_carry_more and self._answered is None and self._lost is None and not self._transport.is_closing()
        )

    @property
    def idle_seconds(self) -> float:
        """How long ago the last exchange has ended."""
        return self._loop.time() - self._idle_since

    @property
    def has_unread(self) -> bool:
        """Whether the socket has data that was not requested, or the end of the connection, still to be read."""
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self._transport.get_extra_info("socket"), select.POLLIN)
        return bool(self._poll.poll(0))

    async def exchange(self, request: Exchange, head: bytes, receiver: Receiver, *, is_upgrade: bool = False) -> None:
        """Send a request, and return when the response was received whole, or when the protocol was switched.

        If it raises, or is cancelled, the connection is closed.

        Args:
            request: The request. Its body flows to this connection.
            head: The head to send, which belongs to `request`.
            receiver: Takes the response. Interim responses are skipped.
            is_upgrade: Whether the request offers an upgrade.

        Raises:
            ReplicaBroke: The connection ended before that, or the replica did not answer with valid HTTP.
            ReplicaSilent: The replica sent nothing, or accepted nothing of the request, for too long.
        """
        if self._lost is not None or self._transport.is_closing():
            self.has_received, self.is_unread = False, True
            raise ReplicaBroke(self._lost or "it closed the connection")
        self._answered = self._loop.create_future()
        self._receiver = receiver
        self._request = request
        self._begin(request, is_upgrade=is_upgrade)
        if self.is_used and not self._is_tls and not request.is_harmless:
            self._acknowledged = unread.acknowledged(self._socket)
        try:
            self._open_with(head, request)
            await self._answered
        except BaseException:
            self._may_carry_more = False
            self._transport.abort()
            raise
        finally:
            request.flow_nowhere()
            self._answered = self._receiver = self._request = None
            if self._is_paused:
                self._is_paused = False
                self._transport.resume_reading()
        if not self._is_request_complete:
            self._may_carry_more = False
        self.is_used = True
        self._idle_since = self._loop.time()

    def switch_to(self, protocol: asyncio.Protocol) -> asyncio.Transport:
        """Hand the transport to another protocol, after the response 101."""
        self._transport.set_protocol(protocol)
        return self._transport

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()

    # What a request's body calls

    def send(self, data: bytes) -> None:
        """Send a piece of the request's body."""
        if self._is_chunked:
            self._write(b"%x\r\n" % len(data), data, b"\r\n")
        else:
            self._write(data)

    def end_request(self) -> None:
        """End the request. From now on the time limit applies to the wait for the response."""
        if self._is_chunked:
            self._write(_LAST_CHUNK)
        self._is_request_complete = True
        self._active_at = self._loop.time()

    def pause_response(self) -> None:
        """Receive nothing, because the client does not read."""
        if not self._is_paused and not self._transport.is_closing():
            self._is_paused = True
            self._transport.pause_reading()

    def resume_response(self) -> None:
        """Receive again."""
        if self._is_paused:
            self._is_paused = False
            self._active_at = self._loop.time()
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def check(self, now: float) -> None:
        """Fail if the replica has accepted nothing, or sent nothing, for too long. A part of a head is nothing.

        While the request is being sent, the replica may send nothing for any time: the sender is limited instead.
        """
        if self._stuck_since is not None and now - self._stuck_since > self._silence_seconds:
            self._fail(ReplicaSilent("it does not take the request"))
        elif self._is_request_complete and not self._is_paused:
            seconds = self._silence_seconds if self._has_begun else self._first_byte_seconds
            if now - self._active_at > seconds:
                self._fail(ReplicaSilent(f"{'nothing' if self._has_begun else 'no response'} for {seconds:g} s"))

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)
        self._socket = transport.get_extra_info("socket")
        self._is_tls = transport.get_extra_info("ssl_object") is not None

    def data_received(self, data: bytes) -> None:
        """Parse a piece of the response, and pass it on."""
        receiver = self._receiver
        if receiver is None or self._answered is None or self._answered.done():
            self._may_carry_more = False  # nothing was requested
            self._transport.abort()
            return
        self.has_received = True
        if self._has_begun:
            self._active_at = self._loop.time()
        self._unread_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as pause:
            self._switch(data[pause.args[0] :])
            return
        except httptools.HttpParserError as error:
            context = error.__context__
            if isinstance(error, httptools.HttpParserCallbackError) and isinstance(context, Exception):
                self._fail(context)
            else:
                self._fail(ReplicaBroke(str(error)))
            return
        if self._unread_bytes > LONGEST_HEAD:
            self._fail(ReplicaBroke("the head of its response is too long"))
        else:
            receiver.flush()
        if self._is_complete:
            self._complete()

    def eof_received(self) -> bool:
        """End a body whose end is the end of the connection. Keep the connection if a reset may still follow."""
        self._may_carry_more = False
        if self._receiver is not None and self._has_begun and not self._has_framing and not self._is_void:
            self._complete()
        if self._answered is None or self._answered.done() or self.has_received or self._acknowledged is None:
            return False
        self._wait_for_reset(self._loop.time() + unread.SECONDS)
        return True

    def connection_lost(self, error: Exception | None) -> None:
        """Record the end of the connection. An exchange under way has failed."""
        self._lost = str(error) if error else "it closed the connection"
        if isinstance(error, BrokenPipeError) and self._acknowledged is not None and not self.has_received:
            self._settle_unread()  # this error, and no other one, means that the end came before the reset
        self._may_carry_more = False
        self._fail(ReplicaBroke(self._lost))

    def pause_writing(self) -> None:
        """Read no more of the request's body from the client."""
        self._stuck_since = self._loop.time()
        if self._request is not None:
            self._request.hold()

    def resume_writing(self) -> None:
        """Read the body again."""
        self._stuck_since = None
        if self._request is not None:
            self._request.release()

    # What the parser calls

    def on_message_begin(self) -> None:
        """Begin a head. Nothing may follow a complete response."""
        if self._is_complete:
            self._may_carry_more = False
        self._fields = []
        self._is_interim = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header, and drop a trailer."""
        if not self._has_begun:
            self._fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Pass on the head, unless the response is an interim one. All interim responses count as one head."""
        status = self._parser.get_status_code()
        if self._is_complete or self._is_void:
            return
        if status == _SWITCHING_PROTOCOLS:
            if not self._is_upgrade:
                raise ReplicaBroke("it has switched protocols without being asked to")
        elif 100 <= status < 200:
            self._is_interim = True
            return
        elif not 200 <= status <= 599:
            raise ReplicaBroke(f"it answered with status {status}")
        if name := malformed(self._fields):
            raise ReplicaBroke(f"the value of {name.decode()} has control characters")
        self._unread_bytes = 0
        self._begin_response(status)

    def on_body(self, body: bytes) -> None:
        """Pass on a piece of the body."""
        self._unread_bytes = 0
        if not self._is_complete and self._receiver is not None and not self._is_void:
            self._receiver.send(body)

    def on_message_complete(self) -> None:
        """End the response, unless it is an interim one."""
        if self._is_interim:
            return
        self._unread_bytes = 0
        if not self._is_upgrade_accepted:
            self._is_complete = True
            if not self._parser.should_keep_alive():
                self._may_carry_more = False

    # Inside

    @property
    def _is_upgrade_accepted(self) -> bool:
        return self._is_upgrade and self.status == _SWITCHING_PROTOCOLS

    def _begin(self, request: Exchange, *, is_upgrade: bool) -> None:
        self.has_received = self.is_unread = False
        self._acknowledged = None
        self.status = None
        self._is_upgrade = is_upgrade
        self._is_head_request = request.method == "HEAD"
        self._is_chunked = request.is_chunked
        self._is_request_complete = False
        self._is_complete = self._has_begun = self._is_void = self._is_interim = False
        self._has_framing = True
        self._stuck_since = None
        self._fields = []
        self._unread_bytes = 0
        self._active_at = self._loop.time()

    def _open_with(self, head: bytes, request: Exchange) -> None:
        """Send the head together with what was received of the body, because each write costs a system call."""
        self._opening = [head]
        request.flow_to(self)
        opening, self._opening = self._opening, None
        self._transport.write(b"".join(opening))

    def _write(self, *pieces: bytes) -> None:
        if self._opening is not None:
            self._opening += pieces
        elif self._lost is None:  # otherwise uvloop raises; the task learns of the loss in the next turn
            self._transport.writelines(pieces)

    def _begin_response(self, status: int) -> None:
        self.status = status
        self._has_begun = True
        self._active_at = self._loop.time()
        self._has_framing = False
        for name, value in self._fields:
            if name == b"transfer-encoding" and value.lower() != b"chunked":
                raise ReplicaBroke("the transfer encoding of its response is not chunked")
            self._has_framing = self._has_framing or name in _FRAMING
        cast("Receiver", self._receiver).begin(status, self._fields)
        if self._is_head_request or status in WITHOUT_BODY:
            # If a replica sent a body nevertheless, a moment later, it would be taken for the next response.
            self._may_carry_more = False
            self._is_void = self._is_complete = True

    def _complete(self) -> None:
        if self._answered is not None and not self._answered.done():
            cast("Receiver", self._receiver).end()
            self._answered.set_result(None)

    def _switch(self, rest: bytes) -> None:
        self.after_switch = rest
        del self._parser  # the two refer to each other, and would stay until a garbage collection
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(None)

    def _settle_unread(self) -> bool:
        """Note whether the request was certainly not read. Return whether that is settled."""
        is_received = unread.acknowledged(self._socket) != self._acknowledged
        self.is_unread = not is_received and unread.was_reset(self._socket)
        return is_received or self.is_unread

    def _wait_for_reset(self, until: float) -> None:
        """Close the connection as soon as it is settled whether the request was read, or at a time."""
        if self._settle_unread() or self._loop.time() > until:
            self._transport.abort()
        elif not self._transport.is_closing():
            self._loop.call_later(unread.POLL_SECONDS, self._wait_for_reset, until)

    def _fail(self, error: Exception) -> None:
        self._may_carry_more = False
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(error)
