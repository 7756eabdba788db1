"""A connection to a replica. It sends and receives at the same time, each with flow control."""

from __future__ import annotations

import asyncio
import functools
import math
import select
import socket
import ssl
from collections.abc import Callable
from typing import Protocol, cast

from shared_registry.http1 import unread
from shared_registry.http1.response import Receiver, ReplicaBroke, ResponseReader

_LAST_CHUNK = b"0\r\n\r\n"
OnEnd = Callable[[Exception | None], None]
"""Is told of the end of an exchange: with the error if it has failed."""


class ReplicaClosed(ReplicaBroke):
    """The connection ended before the response was complete. `__cause__` is the system's error, if there was one."""


class ReplicaSilent(Exception):
    """The replica sent nothing, or accepted no data, for too long."""


class Request(Protocol):
    """A request whose head is sent already, or is sent now."""

    @property
    def method(self) -> str:
        """The request's method."""

    @property
    def is_chunked(self) -> bool:
        """Whether the body is sent in chunks."""

    @property
    def is_harmless(self) -> bool:
        """Whether it may be sent again although it may have been read."""

    def flow_to(self, sink: ReplicaConnection) -> bytes | None:
        """Send the body to a connection from now on, by `send` and `end_request`.

        Returns:
            The whole body, if it is known and short. Then it is sent by the connection itself; `None` otherwise.
        """

    def flow_nowhere(self) -> None:
        """Send the body to no connection any more."""

    def hold(self) -> None:
        """Send no more of the body for now."""

    def release(self) -> None:
        """Send the body again."""


class ReplicaConnection(asyncio.Protocol):
    """A connection that carries one exchange at a time.

    `abort()` is allowed at any time.

    Attributes:
        is_used: Whether the connection has carried an exchange before.
        has_received: Whether any data was received in this exchange.
        is_unread: Whether the request was certainly not read, after an exchange on a reused connection has failed.
        after_switch: What was received after the response 101; `None` unless the connection has switched protocols.
        generation: Counts how often its pool's settings for connections had changed when it was opened.
    """

    __slots__ = (
        "_acknowledged_at_first",
        "_active_at",
        "_first_byte_seconds",
        "_idle_since",
        "_is_chunked",
        "_is_paused",
        "_is_request_complete",
        "_is_tls",
        "_loop",
        "_lost",
        "_on_end",
        "_opening",
        "_poll",
        "_receiver",
        "_request",
        "_response",
        "_sent_bytes",
        "_sent_bytes_before",
        "_silence_seconds",
        "_socket",
        "_stuck_since",
        "_transport",
        "after_switch",
        "generation",
        "has_received",
        "is_unread",
        "is_used",
    )

    def __init__(self, *, silence_seconds: float = math.inf, first_byte_seconds: float = math.inf) -> None:
        self.is_used = False
        self.has_received = False
        self.is_unread = False
        self.after_switch: bytes | None = None
        self.generation = 0
        self._silence_seconds = silence_seconds
        self._first_byte_seconds = first_byte_seconds
        self._loop = asyncio.get_running_loop()
        self._response = ResponseReader()
        self._transport: asyncio.Transport
        self._socket: socket.socket | None = None
        self._is_tls = False
        self._lost: ReplicaClosed | None = None
        self._on_end: OnEnd | None = None
        self._receiver: Receiver | None = None
        self._request: Request | None = None
        self._opening: list[bytes] | None = None
        self._poll: select.poll | None = None
        self._is_chunked = False
        self._is_request_complete = False
        self._is_paused = False
        self._stuck_since: float | None = None
        self._active_at = 0.0
        self._idle_since = 0.0
        self._sent_bytes = 0
        self._sent_bytes_before: int | None = None
        self._acknowledged_at_first: int | None = None

    @classmethod
    async def open(
        cls,
        host: str,
        port: int,
        context: ssl.SSLContext | None,
        *,
        server_name: str,
        silence_seconds: float = math.inf,
        first_byte_seconds: float = math.inf,
    ) -> ReplicaConnection:
        """Connect, with TLS if a context is given. If it is cancelled, it leaves no socket open.

        Args:
            host: A name or an IP address.
            port: The port.
            context: For TLS; `None` for none.
            server_name: The name that the replica's certificate must have.
            silence_seconds: How long the replica may send nothing, or accept nothing, within an exchange; see `check`.
            first_byte_seconds: How long the replica may take to begin its response.

        Raises:
            OSError: The connection could not be established.
        """
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: cls(silence_seconds=silence_seconds, first_byte_seconds=first_byte_seconds),
            host,
            port,
            ssl=context,
            server_hostname=server_name if context else None,
        )
        return connection

    @property
    def socket(self) -> socket.socket:
        """The connection's socket, to set options of it."""
        return cast("socket.socket", self._socket)

    @property
    def tls(self) -> ssl.SSLObject | None:
        """The connection's TLS, if it has any."""
        return cast("ssl.SSLObject | None", self._transport.get_extra_info("ssl_object"))

    @property
    def status(self) -> int | None:
        """The status of the last response; `None` before its head."""
        return self._response.status

    @property
    def is_idle(self) -> bool:
        """Whether the connection can carry another exchange, as far as this side knows."""
        return (
            self._response.may_carry_more
            and self._on_end is None
            and self._lost is None
            and not self._transport.is_closing()
        )

    @property
    def is_reusable(self) -> bool:
        """Whether another exchange may follow at once.

        Not so after a response that has no body by its nature. If a replica sent a body nevertheless, a moment later,
        it would be taken for the response to the next request.
        """
        return self.is_idle and not self._response.is_void

    def is_fresh(self, longest_idle_seconds: float) -> bool:
        """Return whether the connection can carry another exchange, and the last one has not ended long ago.

        If the socket has something still to be read, it is unrequested data or the end of the connection.
        """
        if not self._response.may_carry_more or self._transport.is_closing():  # then it has ended, or is ending
            return False
        if self._loop.time() - self._idle_since >= longest_idle_seconds:
            return False
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self._transport.get_extra_info("socket"), select.POLLIN)
        return not self._poll.poll(0)

    async def exchange(self, request: Request, head: bytes, receiver: Receiver, *, is_upgrade: bool = False) -> None:
        """Do what `begin()` begins, and return at its end. If it raises, or is cancelled, the connection is closed.

        Raises:
            ReplicaClosed: The connection ended before that.
            ReplicaBroke: The replica did not answer with valid HTTP.
            ReplicaSilent: The replica sent nothing, or accepted nothing of the request, for too long.
        """
        ended: asyncio.Future[None] = self._loop.create_future()
        self.begin(request, head, receiver, functools.partial(_settle, ended), is_upgrade=is_upgrade)
        try:
            await ended
        except BaseException:
            self.give_up()
            raise

    def begin(
        self, request: Request, head: bytes, receiver: Receiver, on_end: OnEnd, *, is_upgrade: bool = False
    ) -> None:
        """Send a request, and receive its response from now on.

        Args:
            request: The request. Its body flows to this connection.
            head: The head to send, which belongs to `request`.
            receiver: Takes the response. Interim responses are skipped.
            on_end: Called once, later than this returns: with `None` when the response was received whole, or when the
                protocol was switched; with the error when the exchange has failed, and the connection is closed. It
                must not raise.
            is_upgrade: Whether the request offers an upgrade.

        Raises:
            ReplicaClosed: The connection has ended already. Nothing was sent, and `on_end` is not called.
        """
        if self._lost is not None or self._transport.is_closing():
            self.has_received, self.is_unread = False, True
            raise self._lost or ReplicaClosed("it closed the connection")
        self._on_end = on_end
        self._receiver = receiver
        self._request = request
        self.has_received = self.is_unread = self._is_request_complete = False
        self._stuck_since = self._sent_bytes_before = None
        self._is_chunked = request.is_chunked
        self._active_at = self._loop.time()
        if self.is_used and not self._is_tls and not request.is_harmless:
            self._sent_bytes_before = self._sent_bytes
        self._response.begin(receiver, is_head_request=request.method == "HEAD", is_upgrade=is_upgrade)
        try:
            # The head is sent together with what was received of the body, because each write costs a system call.
            self._opening = opening = [head]
            body = request.flow_to(self)
            self._opening = None
            if body is None:
                data = b"".join(opening)
            else:
                self._is_request_complete = True
                data = head + body
            self._sent_bytes += len(data)
            self._transport.write(data)
        except BaseException:
            self.give_up()
            raise

    def give_up(self) -> None:
        """Close the connection, and end the exchange under way, if there is one. Its `on_end` is not called."""
        self._on_end = None
        self._close()

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
        self._write(b"%x\r\n%b\r\n" % (len(data), data) if self._is_chunked else data)

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
            is_begun = self._response.is_begun
            seconds = self._silence_seconds if is_begun else self._first_byte_seconds
            if now - self._active_at > seconds:
                self._fail(ReplicaSilent(f"{'nothing' if is_begun else 'no response'} for {seconds:g} s"))

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)
        self._socket = transport.get_extra_info("socket")
        self._is_tls = transport.get_extra_info("ssl_object") is not None
        if not self._is_tls:
            self._acknowledged_at_first = unread.acknowledged(self._socket)

    def data_received(self, data: bytes) -> None:
        """Read a piece of the response, and pass it on."""
        response, receiver = self._response, self._receiver
        if receiver is None:
            response.may_carry_more = False  # nothing was requested
            self._transport.abort()
            return
        self.has_received = True
        try:
            self.after_switch = response.feed(data)
            if self.after_switch is None:
                if response.is_complete:
                    self._complete(receiver)
                    return
                receiver.flush()
        except Exception as error:  # noqa: BLE001  of the receiver, whatever it is
            self._fail(error)
            return
        if self.after_switch is not None:
            self._succeed()
        elif response.is_begun:
            self._active_at = self._loop.time()

    def eof_received(self) -> bool:
        """End a body whose end is the end of the connection. Keep the connection if a reset may still follow."""
        if self._response.end_with_connection() and self._receiver is not None:
            self._complete(self._receiver)
        if self._receiver is None or self.has_received or self._sent_bytes_before is None:
            return False
        self._wait_for_reset(self._loop.time() + unread.SECONDS)
        return True

    def connection_lost(self, error: Exception | None) -> None:
        """Record the end of the connection. An exchange under way has failed."""
        self._lost = ReplicaClosed(str(error) if error else "it closed the connection")
        self._lost.__cause__ = error
        if isinstance(error, BrokenPipeError) and self._sent_bytes_before is not None and not self.has_received:
            self._settle_unread()  # this error, and no other one, means that the end came before the reset
        self._fail(self._lost)

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

    # Inside

    def _write(self, data: bytes) -> None:
        if self._opening is not None:
            self._opening.append(data)
        elif self._lost is None:  # otherwise uvloop raises; the task learns of the loss in the next turn
            self._sent_bytes += len(data)
            self._transport.write(data)

    def _complete(self, receiver: Receiver) -> None:
        try:
            receiver.end()
        except Exception as error:  # noqa: BLE001  of the receiver, whatever it is
            self._fail(error)
        else:
            self._succeed()

    def _succeed(self) -> None:
        """End the exchange. The connection may carry another one if the request was sent whole."""
        on_end = self._on_end
        if not self._is_request_complete:
            self._response.may_carry_more = False
        self.is_used = True
        self._idle_since = self._loop.time()
        self._end()
        if on_end is not None:
            on_end(None)

    def _fail(self, error: Exception) -> None:
        """End the exchange under way, if there is one, by an error."""
        on_end, self._on_end = self._on_end, None
        self._response.may_carry_more = False
        if on_end is not None:
            self._close()
            on_end(error)

    def _close(self) -> None:
        self._response.may_carry_more = False
        self._transport.abort()
        self._end()

    def _end(self) -> None:
        """Let go of the request and of who receives the response."""
        request, self._request = self._request, None
        self._on_end = self._receiver = self._opening = None
        if request is not None:
            request.flow_nowhere()
        if self._is_paused:
            self._is_paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def _settle_unread(self) -> bool:
        """Note whether the request was certainly not read. Return whether that is settled."""
        acknowledged = unread.acknowledged(self._socket)
        if acknowledged is None or self._acknowledged_at_first is None or self._sent_bytes_before is None:
            return True
        # If less than what was sent before is acknowledged, it is unknown how much of this request has arrived.
        is_received = acknowledged - self._acknowledged_at_first != self._sent_bytes_before
        self.is_unread = not is_received and unread.was_reset(self._socket)
        return is_received or self.is_unread

    def _wait_for_reset(self, until: float) -> None:
        """Close the connection as soon as it is settled whether the request was read, or at a time."""
        if self._settle_unread() or self._loop.time() > until:
            self._transport.abort()
        elif not self._transport.is_closing():
            self._loop.call_later(unread.POLL_SECONDS, self._wait_for_reset, until)


def _settle(ended: asyncio.Future[None], error: Exception | None) -> None:
    """Let the coroutine of an exchange go on, unless it was cancelled."""
    if ended.done():
        return
    if error is None:
        ended.set_result(None)
    else:
        ended.set_exception(error)
