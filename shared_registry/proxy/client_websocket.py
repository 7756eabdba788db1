"""How a client's WebSocket is read: as uvicorn does it, but not before the handshake is answered."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

MOST_EARLY_BYTES = 64 * 1024
"""What a client may send before its handshake is answered, which RFC 6455 does not allow it."""


class PatientWebSocketProtocol(WebSocketsSansIOProtocol):
    """One connection, from its handshake on.

    uvicorn answers frames that come too early at once. The client, or a proxy before this router, would find a pong or
    a close frame where it expects the response to the handshake.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._early = bytearray()

    def data_received(self, data: bytes) -> None:
        """Read the handshake, and frames once it is answered; keep what comes between."""
        if not self.handshake_initiated or self.handshake_complete:
            super().data_received(data)
            return
        self._early += data
        if len(self._early) > MOST_EARLY_BYTES:
            self.transport.abort()

    async def send(self, message: Any) -> None:
        """Send, and read what was kept if this was the answer to the handshake."""
        await super().send(message)
        if self._early and self.handshake_complete and not self.transport.is_closing():
            early, self._early = bytes(self._early), bytearray()
            super().data_received(early)
