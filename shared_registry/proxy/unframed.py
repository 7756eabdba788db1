"""Responses to HTTP/1.0 clients, which do not support chunks: a response of unknown length ends with the connection.

uvicorn would send chunks to them as well.
"""

from __future__ import annotations

import socket
import struct

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

_RESET = struct.pack("ii", 1, 0)


class Unframed:
    """ASGI middleware for one request of an HTTP/1.0 client.

    Attributes:
        cycle: uvicorn's object for the request; set before the request begins.
    """

    cycle: RequestResponseCycle

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request. If the response breaks off, reset the connection; a normal close would complete it."""
        is_unframed = False

        async def send_unframed(message: Message) -> None:
            nonlocal is_unframed
            if message["type"] == "http.response.start":
                is_unframed = all(name != b"content-length" for name, _ in message.get("headers", ()))
            if is_unframed:
                self.cycle.chunked_encoding = False
                self.cycle.expected_content_length = len(message.get("body", b""))  # so that each piece is as expected
            await send(message)

        try:
            await self._app(scope, receive, send_unframed)
        finally:
            if is_unframed and not self.cycle.response_complete:
                connection = self.cycle.transport.get_extra_info("socket")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                self.cycle.transport.abort()
