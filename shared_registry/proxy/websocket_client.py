"""The client's side of a WebSocket session: the messages to the client, and those that it has sent so far.

A client that has to wait for a slot is accepted before it has a replica, and receives its position in the queue. The
messages that it sends meanwhile are kept, up to a limit. Above it nothing is read, so that TCP slows the client down.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections import deque
from collections.abc import AsyncIterator, Iterable
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from shared_registry.proxy.closing import Close

KEPT_BYTES = 1024 * 1024
"""The size of kept messages above which no more is read from a waiting client. One message may exceed it."""
REPEAT_SECONDS = 1.0
"""How often the position is sent again while nothing is read. Only sending then shows that the client has left."""


class ClientGone(Exception):
    """The client left before its session began."""


class WebSocketClient:
    """One client, from its handshake to its end.

    Attributes:
        is_accepted: Whether the handshake is complete. It is also set when the handshake must be completed without a
            replica's answer; the subprotocol is then the first one that the client offers.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Create the client. Nothing is sent or received yet.

        Args:
            scope: The ASGI scope of the handshake.
            receive: Returns the client's messages, from the first one on.
            send: Sends ASGI messages to the client.
        """
        self.is_accepted = False
        self._offered: list[str] = scope["subprotocols"]
        self._receive = receive
        self._send = send
        self._is_answered = False
        self._kept: deque[Message] = deque()
        self._kept_bytes = 0
        self._position: tuple[int, int] | None = None
        self._changed = asyncio.Event()
        self._attending: list[asyncio.Task[None]] = []

    @property
    def subprotocols(self) -> list[str]:
        """The subprotocols from which a replica may choose."""
        return self._offered[:1] if self.is_accepted else self._offered

    async def accept(self) -> None:
        """Accept the client without a replica's answer, unless it was accepted before."""
        self.is_accepted = True
        if not self._is_answered:
            self._is_answered = True
            await self._send({"type": "websocket.accept", "subprotocol": next(iter(self._offered), None)})

    def keep(self, message: Message) -> None:
        """Keep a message. `receive` returns the kept messages first, in order."""
        self._kept.append(message)
        self._kept_bytes += sys.getsizeof(message.get("text")) + sys.getsizeof(message.get("bytes"))

    def set_position(self, position: int, depth: int) -> None:
        """Record the client's position in the queue, counted from 1. Does not block: `attended` sends the position."""
        self.is_accepted = True
        self._position = position, depth
        self._changed.set()

    @contextlib.asynccontextmanager
    async def attended(self) -> AsyncIterator[None]:
        """Send the client its position, and keep its messages, until its session begins or fails.

        If the client leaves before that, the body is cancelled, and nothing is raised.
        """
        try:
            async with asyncio.TaskGroup() as group:
                self._attending = [group.create_task(self._send_positions()), group.create_task(self._listen())]
                try:
                    yield
                finally:
                    for task in self._attending:
                        task.cancel()
        except* ClientGone:
            pass

    async def _send_positions(self) -> None:
        """Send the position. Only the latest one is sent, so that a slow client receives no outdated ones."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REPEAT_SECONDS if self._is_full else None):
                    await self._changed.wait()
            self._changed.clear()
            if self._position is not None:
                position, depth = self._position
                try:
                    await self.send_json({"type": "queue_status", "position": position, "queue_depth": depth})
                except OSError as error:
                    raise ClientGone from error

    async def _listen(self) -> None:
        while not self._is_full:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                raise ClientGone
            self.keep(message)
        self._changed.set()

    @property
    def _is_full(self) -> bool:
        return self._kept_bytes > KEPT_BYTES

    async def _attend_no_longer(self) -> None:
        for task in self._attending:
            task.cancel()
        await asyncio.gather(*self._attending, return_exceptions=True)

    async def begin(self, subprotocol: str | None, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Begin the session. Accept the client with the replica's answer, unless it was accepted before."""
        await self._attend_no_longer()
        if self.is_accepted:
            await self.accept()
        else:
            self.is_accepted = self._is_answered = True
            await self._send({"type": "websocket.accept", "subprotocol": subprotocol, "headers": list(headers)})

    async def receive(self) -> Message:
        """Return the client's next message. That the client has left is a message as well, not an exception."""
        return self._kept.popleft() if self._kept else await self._receive()

    async def send(self, data: str | bytes) -> None:
        """Send one message.

        Raises:
            OSError: The client has left.
        """
        await self.accept()
        await self._send({"type": "websocket.send", "text" if isinstance(data, str) else "bytes": data})

    async def send_json(self, document: dict[str, Any]) -> None:
        """Send one message of the router's own, as JSON.

        Raises:
            OSError: The client has left.
        """
        await self.send(json.dumps(document))

    async def fail(self, code: str, message: str, close_code: int, *, retryable: bool = True) -> None:
        """End the session with an error frame and a close frame, unless the client has left."""
        await self._attend_no_longer()
        with contextlib.suppress(OSError):
            await self.send_json({"type": "error", "code": code, "message": message, "retryable": retryable})
            await self.close(Close(close_code, code))

    async def refuse(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """Answer the handshake with a status other than 101. The client must not be accepted yet."""
        await self._attend_no_longer()
        await self._send({"type": "websocket.http.response.start", "status": status, "headers": headers})
        await self._send({"type": "websocket.http.response.body", "body": body})

    async def close(self, close: Close) -> None:
        """Close the WebSocket, unless the client has left."""
        with contextlib.suppress(OSError):
            await self._send({"type": "websocket.close", "code": close.code, "reason": close.reason})


def data_of(message: Message) -> str | bytes:
    """Return a message's data: `str` for a text message, `bytes` for a binary one."""
    text: str | None = message.get("text")
    data: bytes = message.get("bytes") or b""
    return data if text is None else text
