"""Responses for clients of HTTP/1.0, which know no chunks: one of unknown length ends with the connection.

uvicorn sends chunks to them, too.
"""

from __future__ import annotations

import socket
import struct

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

_RESET = struct.pack("ii", 1, 0)


class Unframed:
    """The application around all others, for one such request.

    Attributes:
        cycle: The server's account of the request; known before the request begins.
    """

    cycle: RequestResponseCycle

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request. A response that breaks off resets the connection: an ordinary end would complete it."""
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
