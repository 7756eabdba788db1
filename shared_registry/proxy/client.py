"""A client's HTTP/1.1 connection: its requests one after the other, and the responses in the same order.

The parser is llhttp in strict mode. Three more rules ensure that no byte of one request can be taken for a part of
another:

- The parser skips the body of a request that offers an upgrade. If that is not a WebSocket handshake, the offer is
  ignored, and the request is parsed again without it.
- If something on a connection cannot be parsed, the connection ends. Nothing is written into a response under way.
- A handshake is only accepted as the first thing on an idle connection.

A request that arrives whole, with a head that the parser has seen before, means the same again; see `known_heads`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import cast

import httptools

from shared_registry.http1.fields import Headers, lines
from shared_registry.proxy.access_log import AccessLog
from shared_registry.proxy.exchange import Exchange, reset
from shared_registry.proxy.forwarding import plain_address
from shared_registry.proxy.headers import (
    AmbiguousRequest,
    is_websocket_handshake,
    origin_form,
)
from shared_registry.proxy.limits import Limits
from shared_registry.proxy.refusals import BAD, FULL, TOO_LONG, TOO_SLOW, Refusal
from shared_registry.proxy.request_head import LONGEST_KNOWN, KnownRequest, RequestHead, known_head, known_requests
from shared_registry.proxy.site import Site

PIECE_BYTES, BODY_PIECE_BYTES = 4 * 1024, 64 * 1024
"""How much of what was received is parsed at once, in heads and in bodies: a packet can hold thousands of requests."""
LONGEST_HEAD = 64 * 1024
"""The most bytes of a request's line and headers together, or of a body's framing between two pieces of it."""
MOST_PIPELINED = 16
"""The most requests under way or read ahead. With more, reading pauses, and the client's departure is not noticed."""
KEEP_ALIVE_SECONDS = 65
"""How long an idle client connection is kept. Load balancers keep theirs for less time, so that they close it first."""
EARLY_BYTES = 64 * 1024
"""The most bytes that a client may send before its handshake is answered. RFC 6455 does not allow it to send any."""
MOST_JOINED = 16 * 1024
"""How many bytes of several pieces are copied, so that one piece is written."""
LINGER_SECONDS = 2.0
"""How long a client that is still sending may take to read the response, before its connection is closed."""
logger = logging.getLogger(__name__)


class _Unacceptable(Exception):
    """Raised in a callback of the parser to refuse a request; the parser turns it into an error of its own."""


class ClientConnection(asyncio.Protocol):
    """One client connection.

    The time for a request's head starts with the connection, and for each further request with its first byte.

    Attributes:
        site: What the connections of the listener have in common.
        address: The address from which the connection came; `None` if it has none.
        proxies: The proxies whose word about their clients is believed.
        is_trusted: Whether the connection came from one of them.
        scheme: "http" or "https".
        is_guest: Whether there is no room for this client; see `Acceptor`.
        is_held: Whether the request's body is not read, because the replica does not take it.
        is_paused: Whether nothing is read from the client.
        loop: The event loop of the connection.
        tunnel: Ends the WebSocket session, if the connection carries one. Called with a close code and a reason.
    """

    __slots__ = (
        "_begun",
        "_deadline",
        "_early",
        "_fields",
        "_incoming",
        "_is_blocked",
        "_is_in_head",
        "_is_lingering",
        "_is_lost",
        "_is_refused",
        "_is_waiting_for_head",
        "_parser",
        "_queue",
        "_refusal",
        "_target",
        "_transport",
        "_unparsed",
        "_unread_bytes",
        "_was_used",
        "address",
        "is_guest",
        "is_held",
        "is_paused",
        "is_trusted",
        "loop",
        "now",
        "proxies",
        "scheme",
        "site",
        "tunnel",
    )

    def __init__(self, site: Site, *, is_guest: bool = False) -> None:
        self.site = site
        self.address: str | None = None
        self.proxies = site.proxies
        self.is_trusted = False
        self.scheme = site.scheme
        self.is_guest = is_guest
        self._is_lost = False
        self.tunnel: Callable[[int, str], None] | None = None
        self.loop = asyncio.get_running_loop()
        self.now = self.loop.time
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self._queue: list[Exchange] = []
        self._incoming: Exchange | None = None
        self._target = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._unread_bytes = 0
        self._deadline = 0.0
        self._is_in_head = False
        self._is_waiting_for_head = True
        self._is_refused = False
        self._is_lingering = False
        self.is_paused = False
        self.is_held = False
        self._is_blocked = False
        self._was_used = False
        self._begun: Exchange | None = None
        self._unparsed = b""
        self._early: bytes
        self._refusal = BAD

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the timer for the first head."""
        self._transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.address = plain_address(str(peer[0]))
            self.is_trusted = self.proxies.trusts(self.address)
        self.site.clients.add(self)
        self._expect_head()

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002
        """End the requests under way."""
        self._is_lost = True
        self.site.clients.discard(self)
        for exchange in self._queue:
            exchange.leave()
        self._parser = None
        self._unparsed = b""

    def data_received(self, data: bytes) -> None:
        """Parse data, unless the connection was refused. Count the bytes that complete no head and no body piece."""
        if self._is_refused:
            return
        if self._parser is None:
            self._keep_early(data)
            return
        if self._unparsed:
            self._unparsed += data
            return
        is_first = not (self._queue or self._incoming or self._is_in_head or self._unread_bytes)
        if is_first and (known := known_requests.find(data)) is not None:
            self._begin_known(*known)
            return
        if not self._is_waiting_for_head and not self._queue and not self._incoming:
            self._expect_head()
        try:
            (self._read_and_learn if is_first else self._read)(data)
        except httptools.HttpParserError as error:
            if isinstance(error, httptools.HttpParserCallbackError) and not _is_refusal(error):
                logger.exception("http: a request could not be processed")
                self.abort()
            self._refuse(self._refusal)
            self._begin_first()
            return
        self._begin_first()
        if self._is_waiting_for_head and not self._is_in_head and self._was_used:
            self._expect_nothing()  # bytes that begin no request, such as empty lines
        if self._incoming is not None or len(self._queue) > 1:
            self.update_reading()

    def eof_received(self) -> bool | None:
        """Close the connection: a client that sends no more is taken to have left."""
        return None

    def pause_writing(self) -> None:
        """Receive no more of the response from the replica, and begin no other request."""
        self._is_blocked = True
        if self._queue:
            self._queue[0].pause_response()

    def resume_writing(self) -> None:
        """Receive the response again, or begin the next request."""
        self._is_blocked = False
        if self._queue:
            self._queue[0].resume_response()
            self._begin_first()

    # What the parser calls

    def on_message_begin(self) -> None:
        """Start the timer for a further request's head."""
        self._is_in_head = True
        self._target = b""
        self._fields = []
        if not self._is_waiting_for_head:
            self._expect_head()

    def on_url(self, url: bytes) -> None:
        """Keep a piece of the request's target."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header. Drop a trailer, which could otherwise add a header that the checks of the head refuse."""
        if self._is_in_head:
            self._fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Stop the timer and begin the request, unless it is refused, or must be parsed again without its upgrade."""
        parser = self._parser
        if self._is_refused or parser is None:
            raise _Unacceptable
        self._is_waiting_for_head = self._is_in_head = False
        unread, self._unread_bytes = self._unread_bytes, 0
        if unread > PIECE_BYTES and self._is_head_too_long():
            self._refusal = TOO_LONG
            raise _Unacceptable
        method, version = parser.get_method().decode("ascii"), parser.get_http_version()
        try:
            # The heads of handshakes are not remembered: each has another key.
            is_usual = unread <= LONGEST_KNOWN and not parser.should_upgrade()
            head = (known_head if is_usual else RequestHead)(tuple(self._fields), version)
            fields: Headers = head.fields
            if method != "CONNECT":
                self._target, fields = origin_form(self._target, fields)
        except AmbiguousRequest as error:
            raise _Unacceptable from error
        if parser.should_upgrade():
            self._fields = list(fields)
            self._consider_offer(method, version, has_body=head.body_length != 0)
            return
        self._incoming = exchange = Exchange(
            self,
            method,
            self._target,
            version,
            fields,
            body_length=head.body_length,
            keep_alive=parser.should_keep_alive(),
        )
        exchange.head = head
        self._target = b""
        self._queue.append(exchange)

    def on_body(self, body: bytes) -> None:
        """Pass on a piece of the body."""
        self._unread_bytes = 0
        if self._incoming is not None:
            self._incoming.receive(body)

    def on_message_complete(self) -> None:
        """End the request, unless it offers an upgrade. End the connection if it can carry no further request."""
        self._unread_bytes = 0
        parser, exchange = self._parser, self._incoming
        if parser is None or exchange is None or parser.should_upgrade():
            return
        self._incoming = None
        if not parser.should_keep_alive():
            exchange.keep_alive = False  # a trailer may cause this as well; the parser reads nothing more then
        exchange.receive_end()
        if exchange.is_over and not self._queue:
            self._finish(exchange)

    # What exchanges call

    @property
    def limits(self) -> Limits:
        """The limits of the connection."""
        return self.site.limits

    def write(self, data: bytes) -> None:
        """Write bytes of the response under way."""
        if self._transport is not None and not self._is_lost:
            self._transport.write(data)

    def write_all(self, pieces: list[bytes]) -> None:
        """Write pieces of the response under way. To join small ones costs less than to write them one by one."""
        if self._transport is None or self._is_lost:
            return
        if sum(map(len, pieces)) <= MOST_JOINED:
            self._transport.write(b"".join(pieces))
        else:
            self._transport.writelines(pieces)

    def end_exchange(self, exchange: Exchange) -> None:
        """Begin the next request after a response has ended, or end the connection."""
        if self._queue and self._queue[0] is exchange:
            del self._queue[0]
        if exchange.is_received or not exchange.keep_alive:
            self._finish(exchange)
        else:
            self._expect_nothing()  # but the rest of the request's body, which is dropped
        if self.is_paused or self._unparsed:
            self.update_reading()

    def close(self) -> None:
        """Close the connection after everything that was written."""
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        """Close the connection in a way that the client cannot take for a normal end."""
        if self._transport is not None:
            reset(self._transport)

    def hold(self) -> None:
        """Read nothing until `release()`."""
        self.is_held = True
        self.update_reading()

    def release(self) -> None:
        """Read again."""
        self.is_held = False
        self.update_reading()

    def update_reading(self) -> None:
        """Pause reading while nothing more can be taken, and resume it afterwards."""
        is_full = self.is_held or len(self._queue) > MOST_PIPELINED
        for exchange in self._queue:
            is_full = is_full or exchange.is_congested
        if self._unparsed and not is_full:
            self.loop.call_soon(self._read_on)
            return
        if is_full == self.is_paused or self._transport is None or self._transport.is_closing():
            return
        self.is_paused = is_full
        if is_full:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()
            if self._is_waiting_for_head:
                self._expect_head()  # the rest of it could not arrive meanwhile

    # What the server calls

    @property
    def is_connected(self) -> bool:
        """Whether the connection was handed to this protocol, even if it is closed by now."""
        return self._transport is not None

    @property
    def is_over(self) -> bool:
        """Whether the connection is closed or being closed."""
        return self._is_lost or (self._transport is not None and self._transport.is_closing())

    @property
    def is_idle(self) -> bool:
        """Whether no request and no session is under way."""
        return self.is_connected and not self._queue and not self._unparsed and self.tunnel is None

    @property
    def is_kept_alive(self) -> bool:
        """Whether the connection has carried a request, is idle, and has received nothing of a further request."""
        if self._transport is None or self._is_waiting_for_head or not self._was_used or not self.is_idle:
            return False
        return not self._transport.is_closing() and self._transport.get_write_buffer_size() == 0

    def end_after_response(self) -> None:
        """Close the connection after the response under way, or after the next one."""
        for exchange in self._queue:
            exchange.keep_alive = False

    def stop(self, close_code: int) -> None:
        """End a WebSocket session with a close code, and close a connection that is idle."""
        if self.tunnel is not None:
            self.tunnel(close_code, "")
        elif not self._queue:
            self.close()

    def check(self, now: float) -> None:
        """Apply the time limits. Called periodically."""
        if self.tunnel is not None:
            return
        if self._is_lingering:
            if now > self._deadline:
                self.close()
            return
        if self._queue:
            self._queue[0].check(now)
        if self._is_waiting_for_head:
            if now > self._deadline and not self.is_paused:
                self._refuse(TOO_SLOW)
        elif not self._queue and now > self._deadline:
            self.close()

    def abort(self) -> None:
        """Close the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def take_over(self, protocol: asyncio.Protocol) -> tuple[asyncio.Transport, bytes]:
        """Hand the transport to another protocol, which must call `connection_lost` when it is lost.

        Returns:
            The transport, and what was received after the handshake.
        """
        transport = cast("asyncio.Transport", self._transport)
        transport.set_protocol(protocol)
        early, self._early = self._early, b""
        return transport, early

    # Inside

    def _begin_known(self, known: KnownRequest, body: bytes) -> None:
        """Begin a request with a known head, which was received whole. The parser does not see it."""
        self._is_waiting_for_head = False
        head = known.head
        exchange = Exchange(
            self, known.method, known.target, known.version, head.fields, body_length=len(body), keep_alive=True
        )
        exchange.head = head
        self._queue.append(exchange)
        exchange.receive_whole(body)
        self._begin_first()

    def _read_and_learn(self, data: bytes) -> None:
        """Parse data between two requests. If it is one plain request, and others may follow, remember its head."""
        parser = self._parser
        self._read(data)
        if parser is not self._parser or self._incoming is not None or len(self._queue) != 1:
            return
        (exchange,) = self._queue
        head = exchange.head
        if head is None or exchange.fields is not head.fields or not exchange.keep_alive:
            return
        known = KnownRequest(exchange.method, exchange.target, exchange.version, head)
        known_requests.add(data, head.body_length, known)  # nothing in chunks, because no body has that length

    def _read(self, data: bytes) -> None:
        """Parse data piece by piece, until it is refused or so many requests are read ahead that the rest must wait."""
        rest: bytes | memoryview = data if len(data) <= PIECE_BYTES else memoryview(data)
        while rest and self._parser is not None and not self._is_refused:
            if len(self._queue) > MOST_PIPELINED:
                self._unparsed = bytes(rest)
                return
            piece = rest[: PIECE_BYTES if self._incoming is None else BODY_PIECE_BYTES]
            self._unread_bytes += len(piece)
            try:
                self._parser.feed_data(piece)
            except httptools.HttpParserUpgrade as pause:
                rest = rest[pause.args[0] :]
                if self._incoming is not None:  # a handshake
                    self._hand_over(bytes(rest))
                    return
                self._read_again()
            else:
                rest = rest[len(piece) :]
            if self._unread_bytes > LONGEST_HEAD:
                self._refuse(TOO_LONG)

    def _read_on(self) -> None:
        """Parse what had to wait."""
        data, self._unparsed = self._unparsed, b""
        if data:
            self.data_received(data)

    def _is_head_too_long(self) -> bool:
        return len(self._target) + sum(len(name) + len(value) + 4 for name, value in self._fields) > LONGEST_HEAD

    def _consider_offer(self, method: str, version: str, *, has_body: bool) -> None:
        """Accept or refuse a request that offers an upgrade, or asks for a tunnel.

        Raises:
            _Unacceptable: The request is refused.
        """
        is_handshake = is_websocket_handshake(self._fields, method=method, http_version=version)
        if is_handshake and self.is_guest:
            self._refusal = FULL
            raise _Unacceptable
        if method == "CONNECT" or (is_handshake and (has_body or self._queue)):
            raise _Unacceptable
        if is_handshake:
            self._incoming = Exchange(
                self, method, self._target, version, self._fields, body_length=0, keep_alive=False, is_handshake=True
            )
        else:
            self._fields = [pair for pair in self._fields if pair[0] != b"upgrade"]
            self._target = b" ".join((method.encode(), self._target, b"HTTP/" + version.encode()))

    def _read_again(self) -> None:
        """Parse a head again without its offer of an upgrade, with a new parser that expects the body."""
        head = b"%b\r\n%b\r\n" % (self._target, lines(self._fields))
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(head)

    def _hand_over(self, data: bytes) -> None:
        """Begin a WebSocket session; `data` was received after the handshake."""
        exchange = cast("Exchange", self._incoming)
        self._incoming = self._parser = None
        self._target, self._fields = b"", []
        self._early = b""
        self._keep_early(data)
        self._queue.append(exchange)

    def _keep_early(self, data: bytes) -> None:
        """Keep what a client sends after its handshake until another protocol takes over."""
        self._early += data
        if len(self._early) > EARLY_BYTES:
            self._queue[0].note_end("client_error")
            self.abort()

    def _begin_first(self) -> None:
        """Begin the oldest request, unless it has begun already.

        While the client does not read, none begins: its response would be buffered without a limit.
        """
        exchange = self._queue[0] if self._queue else None
        if exchange is None or exchange is self._begun or self._is_blocked or self._is_lost:
            return
        self._begun = exchange
        self._was_used = True
        if self.site.is_stopping or self.is_guest:
            exchange.keep_alive = False
        self.site.begin(exchange)

    def _finish(self, exchange: Exchange) -> None:
        """Go on after a response: with the next request, by waiting for one, or by closing the connection."""
        if not exchange.keep_alive or (self._is_refused and not self._queue):
            for later in self._queue:
                later.leave()
            self._queue.clear()
            self._close_politely(exchange)
        elif self._queue:
            self.loop.call_soon(self._begin_first)
        elif not self._is_waiting_for_head:
            self._deadline = self.now() + KEEP_ALIVE_SECONDS

    def _close_politely(self, exchange: Exchange) -> None:
        """Close the connection. A client that is still sending would miss the response if it were closed at once."""
        self._is_refused = True
        if exchange.is_received or exchange.is_held_back:
            self.close()
        else:
            self._linger()

    def _linger(self) -> None:
        """Send the end of what was written. Read and drop what still comes, until the client or `check()` closes.

        A connection that is closed while bytes wait to be read is reset, and the client may lose what was written.
        """
        transport = cast("asyncio.Transport", self._transport)
        self._is_lingering = True
        self._deadline = self.now() + LINGER_SECONDS
        if transport.can_write_eof():  # with TLS the client finds the end of the response by its length
            transport.write_eof()
        if self.is_paused:
            self.is_paused = False
            transport.resume_reading()

    def _expect_head(self) -> None:
        self._is_waiting_for_head = True
        self._deadline = self.now() + self.site.limits.header_seconds

    def _expect_nothing(self) -> None:
        self._is_waiting_for_head = False
        self._deadline = self.now() + KEEP_ALIVE_SECONDS

    def _refuse(self, refusal: Refusal) -> None:
        """Read nothing more, and end the connection.

        The refusal is sent if the client can relate it to its request: no other response is under way or due.
        """
        if self._is_refused:
            return
        self._is_refused = True
        self._is_waiting_for_head = False
        body_of, self._incoming = self._incoming, None
        request_id, is_sent = self.site.ids.new() if body_of is None else body_of.request_id, False
        self.site.refusals.note(refusal.kind, refusal.message, request_id, self.now())
        if body_of is not None:
            body_of.note_end("refused", error=refusal.code)
        if body_of is not None and (len(self._queue) != 1 or self._queue[0].is_begun or body_of.is_over):
            self._end_queue()
            self.close()  # the response to this request, or to one before it, is under way
        elif body_of is None and self._queue:
            self._queue[-1].keep_alive = False  # these requests are complete, and still get their responses
        elif self._transport is not None and not self._transport.is_closing():
            is_sent = True
            if body_of is not None:
                body_of.note_status(refusal.status)
            self._end_queue()
            self._transport.write(refusal.response(request_id))
            self._linger()
        if body_of is None and self.site.access_log is not None:
            self._log_refusal(refusal, request_id, is_sent=is_sent)

    def _log_refusal(self, refusal: Refusal, request_id: bytes, *, is_sent: bool) -> None:
        """Write the line of a request that could not be read."""
        method = None
        if self._target and self._parser is not None:
            method = self._parser.get_method().decode("ascii")
        log = cast("AccessLog", self.site.access_log)
        log.write_refusal(refusal, request_id, self.address, is_sent=is_sent, method=method, target=self._target)

    def _end_queue(self) -> None:
        for exchange in self._queue:
            exchange.leave()
            exchange.is_over = True
        self._queue.clear()


def _is_refusal(error: Exception) -> bool:
    """Return whether an error of the parser came from a refusal in one of its callbacks."""
    return isinstance(error.__context__, _Unacceptable)
