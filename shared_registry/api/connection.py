"""Ends connections to the admin address whose clients send no request, do not read, or send too much.

uvicorn has a time limit only for the pause between two requests. Without further ones, connections on which nothing
happens could use up all that the address serves at once, and keep monitoring from it. Nor does uvicorn limit how long
a request is, or how many a client sends before it has read the answer to the first, whose memory is the router's.
"""

from __future__ import annotations

import asyncio
import logging
import math
from email.utils import formatdate
from typing import Any, ClassVar, cast

from starlette.types import Message
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from shared_registry.api.access import CERTIFICATE
from shared_registry.api.mutual_tls import name_in_certificate

REQUEST_SECONDS = 10.0
"""How long a client may take to send a request, from the connection or from the request's first byte."""
ACCEPT_SECONDS = 10.0
"""How long a client may accept nothing of a response when all buffers are full."""

LONGEST_REQUEST = 262_144
"""The most bytes of a request, as far as that can be told from what is read at once.

Envoy 1.40 sends 77 kB each time it asks for endpoints, because it lists all its extensions.
"""

MOST_AT_ONCE = 20
"""How many requests of one connection may be unanswered. uvicorn answers one after the other, and keeps the rest."""


SPARE = 16
"""How many connections, beyond those that are served, may send a request to get 503. Further ones are closed."""
ENCODE = "Percent-encode what is not ASCII in the path and query, such as a replica's name."
"""The most likely reason for a request that cannot be read: curl and others send such characters as they are."""
LAST_SECONDS = 0.5
"""How long after the stop of the router streams may go on: they may have to say why they end."""
LAST_CHUNK = b"0\r\n\r\n"
SILENT_SECONDS = 60.0
"""How often at most the log says that connections are closed."""
logger = logging.getLogger(__name__)


class UnframedResponse(RequestResponseCycle):
    """A response by HTTP/1.0, which knows no chunks: without a length, it ends with the connection.

    Attributes:
        has_length: Whether the response says how long it is.
    """

    has_length = True

    async def send(self, message: Message) -> None:  # type: ignore[override]
        """Send a part of the response."""
        if message["type"] == "http.response.start":
            self.has_length = any(name.lower() == b"content-length" for name, _ in message.get("headers", ()))
            if not self.has_length:
                self.chunked_encoding = False
        elif message["type"] == "http.response.body" and not self.has_length:
            self.expected_content_length = len(message.get("body", b""))  # whatever comes is right
        await super().send(cast("Any", message))


class ImpatientConnection(HttpToolsProtocol):
    """One connection of a client."""

    _logged_at: ClassVar[float] = -math.inf
    _request_limit: asyncio.TimerHandle | None = None
    _accept_limit: asyncio.TimerHandle | None = None
    _incomplete_bytes = 0
    _certificate_name: str | None = None
    _cycles: tuple[RequestResponseCycle, ...] = ()

    # What the event loop calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect the first request."""
        super().connection_made(transport)
        if self.limit_concurrency is not None and len(self.connections) > self.limit_concurrency + SPARE:
            self._log_excess()
            transport.abort()
            return
        self._certificate_name = name_in_certificate(transport.get_extra_info("peercert"))
        self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the time limits, and tell all that answers of this connection; uvicorn tells the last one only."""
        self._received_request()
        self._accepted()
        for cycle in self._unanswered():
            cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read a piece of a request."""
        self._incomplete_bytes += len(data)
        super().data_received(data)
        if self._incomplete_bytes > LONGEST_REQUEST:
            self.transport.abort()

    def pause_writing(self) -> None:
        """Expect that the client reads."""
        super().pause_writing()
        self._accepted()
        self._accept_limit = self.loop.call_later(ACCEPT_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads."""
        self._accepted()
        super().resume_writing()

    # What the server calls

    def shutdown(self) -> None:
        """Let responses end. A stream that has not done so by itself a moment later is ended."""
        super().shutdown()
        self.loop.call_later(LAST_SECONDS, self._end_stream)

    # What the parser calls

    def on_message_begin(self) -> None:
        """Expect the rest of the request."""
        self._expect_request()
        self.server_state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
        super().on_message_begin()
        if self._certificate_name is not None:
            self.scope["extensions"] = {CERTIFICATE: {"name": self._certificate_name}}

    def on_headers_complete(self) -> None:
        """Begin to answer, or queue the request behind others. If these are too many, the parser goes no further.

        Raises:
            ConnectionAbortedError: They are too many.
        """
        super().on_headers_complete()
        if self.parser.get_http_version() == "1.0":
            self.cycle.__class__ = UnframedResponse
        self._cycles = (*self._unanswered(), self.cycle)
        if len(self._cycles) > MOST_AT_ONCE:
            self.transport.abort()
            raise ConnectionAbortedError

    def send_400_response(self, msg: str) -> None:
        """Answer to what is no request, unless the connection has ended."""
        if not self.transport.is_closing():
            super().send_400_response(f"{msg} {ENCODE}\n")

    def on_message_complete(self) -> None:
        """The request is complete."""
        self._incomplete_bytes = 0
        self._received_request()
        super().on_message_complete()

    # Inside

    def _end_stream(self) -> None:
        cycle = next(iter(self._unanswered()), None)
        if cycle is None or not cycle.response_started or self.transport.is_closing():
            return
        if cycle.chunked_encoding:
            self.transport.write(LAST_CHUNK)
        elif not isinstance(cycle, UnframedResponse) or cycle.has_length:
            return
        cycle.disconnected = True
        cycle.message_event.set()
        self.transport.close()

    def _log_excess(self) -> None:
        now = self.loop.time()
        if now >= ImpatientConnection._logged_at + SILENT_SECONDS:
            ImpatientConnection._logged_at = now
            logger.warning("admin: %d connections are open; closing further ones", self.limit_concurrency)

    def _unanswered(self) -> list[RequestResponseCycle]:
        return [cycle for cycle in self._cycles if not cycle.response_complete]

    def _expect_request(self) -> None:
        self._received_request()
        self._request_limit = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

    def _received_request(self) -> None:
        if self._request_limit is not None:
            self._request_limit.cancel()
            self._request_limit = None

    def _accepted(self) -> None:
        if self._accept_limit is not None:
            self._accept_limit.cancel()
            self._accept_limit = None
