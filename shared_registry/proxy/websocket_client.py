"""The client's side of a WebSocket session: what it is told, and what it has sent so far.

One that has to wait for a slot is accepted before it has a replica, and told where it stands. What it sends meanwhile
is kept, up to a bound; beyond that nothing is read, so that TCP holds it back.
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
"""What a waiting client may have sent before no more is read: above it by one message at the most."""
REPEAT_SECONDS = 1.0
"""While nothing is read from a client only what is sent to it shows that it is gone."""


class ClientGone(Exception):
    """The client has left before its session began."""


class WebSocketClient:
    """One client, from its handshake to its end.

    Attributes:
        is_accepted: Its handshake is over, or bound to be, with the first subprotocol that it offers and without having
            heard of a replica.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Set up; nothing is sent or received.

        Args:
            scope: Of its handshake.
            receive: Its messages, from the first one on.
            send: To it.
        """
        self.is_accepted = False
        self._offered: list[str] = scope["subprotocols"]
        self._receive = receive
        self._send = send
        self._is_answered = False
        self._kept: deque[Message] = deque()
        self._kept_bytes = 0
        self._position: tuple[int, int] | None = None
        self._news = asyncio.Event()
        self._attending: list[asyncio.Task[None]] = []

    @property
    def subprotocols(self) -> list[str]:
        """Those that a replica may choose from."""
        return self._offered[:1] if self.is_accepted else self._offered

    async def accept(self) -> None:
        """Accept it before it has a replica."""
        self.is_accepted = True
        if not self._is_answered:
            self._is_answered = True
            await self._send({"type": "websocket.accept", "subprotocol": next(iter(self._offered), None)})

    def keep(self, message: Message) -> None:
        """Have `receive` return this one later, after those that were kept before."""
        self._kept.append(message)
        self._kept_bytes += sys.getsizeof(message.get("text")) + sys.getsizeof(message.get("bytes"))

    def stand(self, position: int, depth: int) -> None:
        """It waits at that position, counted from 1. Does not block: it is told while this is `attended`."""
        self.is_accepted = True
        self._position = position, depth
        self._news.set()

    @contextlib.asynccontextmanager
    async def attended(self) -> AsyncIterator[None]:
        """Tell it where it stands, and keep what it sends, until its session begins or it fails.

        The body is cancelled, and nothing raised, where the client leaves before that.
        """
        try:
            async with asyncio.TaskGroup() as group:
                self._attending = [group.create_task(self._tell()), group.create_task(self._listen())]
                try:
                    yield
                finally:
                    for task in self._attending:
                        task.cancel()
        except* ClientGone:
            pass

    async def _tell(self) -> None:
        """Send where it stands: the latest only, so that a slow client is not told what was long ago."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REPEAT_SECONDS if self._is_full else None):
                    await self._news.wait()
            self._news.clear()
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
        self._news.set()

    @property
    def _is_full(self) -> bool:
        return self._kept_bytes > KEPT_BYTES

    async def _attend_no_longer(self) -> None:
        for task in self._attending:
            task.cancel()
        await asyncio.gather(*self._attending, return_exceptions=True)

    async def begin(self, subprotocol: str | None, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Begin its session: accept it with what the replica has answered, unless it was accepted before."""
        await self._attend_no_longer()
        if self.is_accepted:
            await self.accept()
        else:
            self.is_accepted = self._is_answered = True
            await self._send({"type": "websocket.accept", "subprotocol": subprotocol, "headers": list(headers)})

    async def receive(self) -> Message:
        """Return its next message; raises nothing when it is gone, which is a message as well."""
        return self._kept.popleft() if self._kept else await self._receive()

    async def send(self, data: str | bytes) -> None:
        """Send one message.

        Raises:
            OSError: It is gone.
        """
        await self.accept()
        await self._send({"type": "websocket.send", "text" if isinstance(data, str) else "bytes": data})

    async def send_json(self, document: dict[str, Any]) -> None:
        """Send one message of the router's own; likewise."""
        await self.send(json.dumps(document))

    async def fail(self, code: str, message: str, close_code: int, *, retryable: bool = True) -> None:
        """End it with an error frame, unless it is gone."""
        await self._attend_no_longer()
        with contextlib.suppress(OSError):
            await self.send_json({"type": "error", "code": code, "message": message, "retryable": retryable})
            await self.close(Close(close_code, code))

    async def refuse(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """Answer its handshake with another status than 101. It must not be accepted."""
        await self._attend_no_longer()
        await self._send({"type": "websocket.http.response.start", "status": status, "headers": headers})
        await self._send({"type": "websocket.http.response.body", "body": body})

    async def close(self, close: Close) -> None:
        """Close it, unless it is gone."""
        with contextlib.suppress(OSError):
            await self._send({"type": "websocket.close", "code": close.code, "reason": close.reason})


def data_of(message: Message) -> str | bytes:
    """Return what a message says: text stays text and binary binary."""
    text: str | None = message.get("text")
    data: bytes = message.get("bytes") or b""
    return data if text is None else text
