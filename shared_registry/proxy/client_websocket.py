"""Reads a client's WebSocket with uvicorn's protocol, but reads no frames before the handshake is answered."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

MOST_EARLY_BYTES = 64 * 1024
"""The most bytes that a client may send before its handshake is answered. RFC 6455 does not allow it to send any."""


class PatientWebSocketProtocol(WebSocketsSansIOProtocol):
    """One connection, from its handshake on.

    uvicorn answers at once to frames that arrive before the handshake is answered. The client, or a proxy in front of
    this router, would then receive a pong or a close frame where it expects the response to the handshake.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._early = bytearray()

    def data_received(self, data: bytes) -> None:
        """Parse the handshake, and frames after it is answered. Keep the bytes that arrive between the two."""
        if not self.handshake_initiated or self.handshake_complete:
            super().data_received(data)
            return
        self._early += data
        if len(self._early) > MOST_EARLY_BYTES:
            self.transport.abort()

    async def send(self, message: Any) -> None:
        """Send a message. If it was the answer to the handshake, parse the bytes that were kept."""
        await super().send(message)
        if self._early and self.handshake_complete and not self.transport.is_closing():
            early, self._early = bytes(self._early), bytearray()
            super().data_received(early)
