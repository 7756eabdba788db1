"""How a client's HTTP connection is read: as uvicorn does it, with bounds on how slow and how long a head may be.

uvicorn itself waits for the end of a head for ever, and keeps all of it. Its parser is llhttp, in its strict mode.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from starlette.types import Scope
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

from shared_registry.router.departure import announce
from shared_registry.router.descriptors import mark_guest
from shared_registry.router.headers import AmbiguousRequest, has_body, refuse_ambiguous

LONGEST_HEAD = 64 * 1024
"""Bytes of a request's line and headers together."""
_FULL = b"503 Service Unavailable\r\nretry-after: 1"
_BAD = b"400 Bad Request"
_TOO_LONG = b"431 Request Header Fields Too Large"
_TOO_SLOW = b"408 Request Timeout"


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection. The clock runs from its start, and then from the first byte of each further request."""

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
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock."""
        self._departed: asyncio.Future[None] = self.loop.create_future()
        super().connection_made(transport)
        self._begin_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop it; tell a request that its client is gone."""
        self._end_head()
        self._departed.set_result(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what a head that is not complete takes up."""
        super().data_received(data)
        if self._head_timer is not None:
            self._head_bytes += len(data)
            if self._head_bytes > LONGEST_HEAD:
                self._refuse(_TOO_LONG)
        elif self._is_idle and self.timeout_keep_alive_task is None:
            # Bytes that begin no request, such as empty lines, have stopped the clock of an idle connection.
            handler = self.timeout_keep_alive_handler
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, handler)

    def on_message_begin(self) -> None:
        """Start the clock for a further request."""
        super().on_message_begin()
        if self._head_timer is None:
            self._begin_head()

    def on_headers_complete(self) -> None:
        """Stop the clock; begin the request."""
        self._end_head()
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > LONGEST_HEAD:
            self._refuse(_TOO_LONG)
            return
        announce(cast("Scope", self.scope), self._departed)
        if self._is_guest:
            mark_guest(cast("Scope", self.scope))
        super().on_headers_complete()
        if self._stopping.is_set() or self._is_guest:
            self.end_after_response()

    def handle_websocket_upgrade(self) -> None:
        """Hand over to the WebSocket protocol; refuse what it would leave unanswered, and guests."""
        if self._is_guest:
            self._refuse(_FULL)
            return
        try:
            refuse_ambiguous(self.headers, self.scope["http_version"])
        except AmbiguousRequest:
            self._refuse(_BAD)
            return
        if has_body(self.headers):
            self._refuse(_BAD)
            return
        super().handle_websocket_upgrade()
        protocol = self.transport.get_protocol()
        if isinstance(protocol, WebSocketsSansIOProtocol) and not protocol.handshake_initiated:
            self._refuse(_TOO_LONG)  # its own limits on lines are narrower

    @property
    def is_connected(self) -> bool:
        """Whether it has its connection, or has had it."""
        return bool(self.transport)

    @property
    def is_over(self) -> bool:
        """Whether the connection is closed, or about to be."""
        return self.is_connected and self.transport.is_closing()

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way."""
        return self.is_connected and self._is_idle

    @property
    def is_kept_alive(self) -> bool:
        """Whether the connection has carried a request, and waits for another one of which nothing has come."""
        is_between = self._cycle is not None and self._head_timer is None and self.is_idle
        return is_between and not self.is_over and self.transport.get_write_buffer_size() == 0

    def end_after_response(self) -> None:
        """Close the connection after the response under way, if there is one."""
        if (cycle := self._cycle) is not None:
            cycle.keep_alive = False

    @property
    def _cycle(self) -> RequestResponseCycle | None:
        return cast("RequestResponseCycle | None", self.cycle)  # None before the first request, which uvicorn hides

    @property
    def _is_idle(self) -> bool:
        is_http = self.transport.get_protocol() is self  # and no WebSocket by now
        return is_http and ((cycle := self._cycle) is None or cycle.response_complete)

    def _begin_head(self) -> None:
        self._head_bytes = 0
        self._head_timer = self.loop.call_later(self._header_timeout_seconds, self._refuse, _TOO_SLOW)

    def _end_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, status: bytes) -> None:
        self._end_head()
        if not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            self.transport.close()
