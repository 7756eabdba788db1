"""Reads a client's HTTP connection with uvicorn's protocol, and limits the time and the length of a request's head.

uvicorn itself waits for the end of a head without limit, and keeps all of it. Its parser is llhttp in strict mode. Two
more differences ensure that no byte of one request can be taken for a part of another:

- The parser skips the body of a request that offers an upgrade. If that is not a WebSocket handshake, the offer is
  ignored, and the request is parsed again without it.
- If something on a connection cannot be parsed, the connection ends. Nothing is written into a response under way.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import httptools
from starlette.types import ASGIApp, Scope
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

from shared_registry.proxy.departure import announce
from shared_registry.proxy.descriptors import mark_guest
from shared_registry.proxy.headers import AmbiguousRequest, has_body, is_websocket_handshake, refuse_ambiguous
from shared_registry.proxy.unframed import Unframed

LONGEST_HEAD = 64 * 1024
"""The most bytes of a request's line and headers together, or of a body's framing between two pieces of it."""
MOST_PIPELINED = 16
"""The most requests under way or read ahead. With more, reading pauses, and the client's departure is not noticed."""
_FULL = b"503 Service Unavailable\r\nretry-after: 1"
_BAD = b"400 Bad Request"
_TOO_LONG = b"431 Request Header Fields Too Large"
_TOO_SLOW = b"408 Request Timeout"


class _Unacceptable(Exception):
    """Raised in a callback of the parser to refuse a request; the parser turns it into an error of its own."""


class BoundedHttpProtocol(HttpToolsProtocol):
    """One client connection.

    The time for a request's head starts with the connection, and for each further request with its first byte.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        header_timeout_seconds: float,
        stopping: asyncio.Event,
        is_guest: bool = False,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._is_guest = is_guest
        self._stopping = stopping
        self._header_timeout_seconds = header_timeout_seconds
        self._head_timer: asyncio.TimerHandle | None = None
        self._unread_bytes = 0
        self._under_way: list[RequestResponseCycle] = []
        self._is_in_head = False
        self._is_in_body = False
        self._is_handshake = False
        self._is_refused = False
        self._refusal = _BAD

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer for the first head."""
        self._departed: asyncio.Future[None] = self.loop.create_future()
        super().connection_made(transport)
        self._begin_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer, and report to all requests that the client has left; uvicorn reports it to the last only."""
        self._end_head()
        self._departed.set_result(None)
        for cycle in self._under_way:
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse data, unless the connection was refused. Count the bytes that complete no head and no body piece."""
        if self._is_refused:
            return
        self._unset_keepalive_if_required()
        self._unread_bytes += len(data)
        try:
            self._read(data)
        except httptools.HttpParserError:
            self._refuse(self._refusal)
            return
        if self._unread_bytes > LONGEST_HEAD:
            self._refuse(_TOO_LONG)
        elif self._head_timer is None and self._is_idle and self.timeout_keep_alive_task is None:
            # Bytes that begin no request, such as empty lines, have stopped the timer of an idle connection.
            handler = self.timeout_keep_alive_handler
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, handler)

    def on_message_begin(self) -> None:
        """Start the timer for a further request's head."""
        super().on_message_begin()
        self._is_in_head = True
        if self._head_timer is None:
            self._begin_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header. Drop a trailer, which could otherwise add a header that the checks of the head refuse."""
        if self._is_in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Stop the timer and begin the request, unless it is refused, or must be parsed again without its upgrade."""
        self._end_head()
        self._is_in_head = False
        self._unread_bytes = 0
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > LONGEST_HEAD:
            self._refusal = _TOO_LONG
            raise _Unacceptable
        if self.parser.should_upgrade():
            self._consider_offer()
            return
        if self.parser.get_http_version() == "1.0":
            self.expect_100_continue = False  # an HTTP/1.0 client would take `100 Continue` for the response
        announce(cast("Scope", self.scope), self._departed)
        if self._is_guest:
            mark_guest(cast("Scope", self.scope))
        self._begin_request()
        self._is_in_body = True
        if self._stopping.is_set() or self._is_guest:
            self.end_after_response()

    def on_body(self, body: bytes) -> None:
        """Pass on a piece of the body."""
        self._unread_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the request, unless it offers an upgrade. End the connection if it can carry no further request."""
        self._unread_bytes = 0
        if self.parser.should_upgrade():
            return
        self._is_in_body = False
        super().on_message_complete()
        if not self.parser.should_keep_alive():
            # A trailer may cause this as well. The parser reads nothing more then, so the connection must not wait.
            self.end_after_response()
            if self._is_idle:
                self.transport.close()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """Refuse data that cannot be parsed."""
        self._refuse(_BAD)

    @property
    def is_connected(self) -> bool:
        """Whether the connection was handed to this protocol, even if it is closed by now."""
        return bool(self.transport)

    @property
    def is_over(self) -> bool:
        """Whether the connection is closed or being closed."""
        return self.is_connected and self.transport.is_closing()

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way."""
        return self.is_connected and self._is_idle

    @property
    def is_kept_alive(self) -> bool:
        """Whether the connection has carried a request, is idle, and has received nothing of a further request."""
        is_between = self._cycle is not None and self._head_timer is None and self.is_idle
        return is_between and not self.is_over and self.transport.get_write_buffer_size() == 0

    def end_after_response(self) -> None:
        """Close the connection after the response under way, if there is one."""
        if (cycle := self._cycle) is not None:
            cycle.keep_alive = False

    def _begin_request(self) -> None:
        """Begin the request, or queue it behind those under way. Keep reading, to notice when the client leaves."""
        was_paused, app = self.flow.read_paused, self.app
        unframed = Unframed(cast("ASGIApp", app)) if self.parser.get_http_version() == "1.0" else None
        if unframed is not None:
            self.app = cast("ASGI3Application", unframed)
        super().on_headers_complete()
        self.app = app
        if unframed is not None:
            unframed.cycle = self.cycle
        self._under_way = [cycle for cycle in (*self._under_way, self.cycle) if not cycle.response_complete]
        if not was_paused and len(self._under_way) <= MOST_PIPELINED:
            self.flow.resume_reading()

    def _read(self, data: bytes) -> None:
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as pause:
                data = data[pause.args[0] :]
                if self._is_handshake:
                    self._hand_over(data)
                    return
                self._read_again()
            else:
                return

    def _consider_offer(self) -> None:
        """Accept or refuse a request that offers an upgrade, or asks for a tunnel.

        Raises:
            _Unacceptable: The request is refused.
        """
        method, version = self.parser.get_method().decode("ascii"), self.parser.get_http_version()
        try:
            refuse_ambiguous(self.headers, version)
        except AmbiguousRequest as error:
            raise _Unacceptable from error
        self._is_handshake = is_websocket_handshake(self.headers, method=method, http_version=version)
        if self._is_handshake and self._is_guest:
            self._refusal = _FULL
            raise _Unacceptable
        if method == "CONNECT" or (self._is_handshake and (has_body(self.headers) or not self._is_idle)):
            raise _Unacceptable
        self.scope["method"], self.scope["http_version"] = method, version

    def _read_again(self) -> None:
        """Parse a head again without its offer of an upgrade, with a new parser that expects the body."""
        method, version = self.scope["method"], self.scope["http_version"]
        head = [f"{method} ".encode(), self.url, f" HTTP/{version}\r\n".encode()]
        for name, value in self.headers:
            if name != b"upgrade":
                head += [name, b": ", value, b"\r\n"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.feed_data(b"".join([*head, b"\r\n"]))

    def _hand_over(self, data: bytes) -> None:
        """Hand the connection, and the bytes received after the handshake, to the WebSocket protocol."""
        self.handle_websocket_upgrade()
        protocol = self.transport.get_protocol()
        if isinstance(protocol, WebSocketsSansIOProtocol) and not protocol.handshake_initiated:
            self._refuse(_TOO_LONG)  # its own limits on lines are narrower
        elif data and not self.transport.is_closing():
            cast("asyncio.Protocol", protocol).data_received(data)

    @property
    def _cycle(self) -> RequestResponseCycle | None:
        return cast("RequestResponseCycle | None", self.cycle)  # None before the first request; uvicorn's type omits it

    @property
    def _is_idle(self) -> bool:
        """Whether no response is under way. With pipelining this is about the last request."""
        is_http = self.transport.get_protocol() is self  # and no WebSocket by now
        return is_http and ((cycle := self._cycle) is None or cycle.response_complete)

    def _begin_head(self) -> None:
        self._head_timer = self.loop.call_later(self._header_timeout_seconds, self._refuse, _TOO_SLOW)

    def _end_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, status: bytes) -> None:
        """Read nothing more, and end the connection.

        The status is sent if the client can relate it to its request: no other response is under way or due.
        """
        self._end_head()
        self._is_refused = True
        cycle = self._cycle
        is_complete = cycle is None or cycle.response_complete
        if self._is_in_body and (is_complete or self.pipeline or cast("RequestResponseCycle", cycle).response_started):
            self.transport.close()  # the response to this request, or to one before it, is under way
        elif not self._is_in_body and not is_complete:
            self.end_after_response()  # complete requests came before this one, and one still gets its response
        elif not self.transport.is_closing():
            if cycle is not None:
                cycle.disconnected = True
            self.transport.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            self.transport.close()
