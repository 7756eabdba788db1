"""Proxies WebSocket sessions: a client's connection, a connection to a replica, and the messages between them.

Only the message in transit is buffered: while one side does not read, the router reads nothing from the other side.
Text messages stay text, and binary messages stay binary. A fragmented message is passed on as one message. The router
sends its own pings to each side.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast
from urllib.parse import urlsplit

from starlette.types import Message, Receive, Scope, Send
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.frames import CloseCode
from websockets.typing import Subprotocol

from shared_registry.aio.time_limit import time_limit
from shared_registry.config import RouterConfig
from shared_registry.model import Replica
from shared_registry.probing.own_trouble import own_trouble
from shared_registry.probing.tls import TlsContexts
from shared_registry.proxy import closing, headers, tcp
from shared_registry.proxy.closing import Close
from shared_registry.proxy.dispatch import Dispatcher, NotReached, Undeliverable
from shared_registry.proxy.outcomes import BUSY, OutcomeReports, client_of
from shared_registry.proxy.placement import ReplicaLost, SessionPlacement
from shared_registry.proxy.session_key import SessionKey
from shared_registry.proxy.websocket_client import WebSocketClient, data_of
from shared_registry.urls import DEFAULT_PORTS

PING_SECONDS = 20.0
"""The interval of pings. They keep middleboxes from dropping a silent session. Pongs are not checked: see `tcp`."""
CLOSE_SECONDS = 2.0
"""How long a replica may take to answer a close frame."""
_AUTHORITY = re.compile(r"[A-Za-z0-9._\[\]:-]+")
logger = logging.getLogger(__name__)


class HandshakeRefused(Exception):
    """A replica answered the handshake with a response that is meant for the client, such as 401 or 404."""

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        super().__init__(status)
        self.status = status
        self.headers = headers
        self.body = body


@dataclass(frozen=True, slots=True)
class Ending:
    """The side that ended the session, and how.

    Attributes:
        by: The side that ended first.
        close: Its close code and reason.
        is_too_big: Whether the replica's message was larger than `max_frame_bytes`.
    """

    by: Literal["client", "replica"]
    close: Close
    is_too_big: bool = False


class WebSocketProxy:
    """The ASGI application for all WebSockets except those to the router's own pages."""

    def __init__(
        self,
        config: RouterConfig,
        dispatcher: Dispatcher,
        placement: SessionPlacement,
        tls: TlsContexts,
        reports: OutcomeReports,
    ) -> None:
        self._config = config
        self._reports = reports
        self._session_key = SessionKey(config.session_key)
        self._dispatcher = dispatcher
        self._placement = placement
        self._tls = tls
        self._tcp_options = tcp.liveness_options(config.peer_timeout_seconds)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Proxy one session, from its handshake to its end."""
        await receive()  # websocket.connect
        client = WebSocketClient(scope, receive, send)
        key = self._session_key.of_request(scope["headers"], scope["query_string"])
        if self._session_key.is_in_first_frame:
            first = await self._first_message(client)
            if first is None:
                return
            client.keep(first)
            key = self._session_key.of_frame(data_of(first))
        attended = client.attended() if self._placement.may_wait else contextlib.nullcontext()
        async with attended:
            await self._serve(client, scope, key)

    async def _serve(self, client: WebSocketClient, scope: Scope, key: str | None) -> None:
        name = client_of(scope, key)
        try:
            async with self._dispatcher.connected(
                key,
                lambda replica: self._dial(replica, scope, client.subprotocols, name),
                on_position=client.set_position,
            ) as placed:
                await client.begin(*_answer_of(placed.connection))
                ending = await self._placement.unless_lost(placed.lease, _bridge(client, placed.connection))
                self._report(placed.lease.replica, ending, name)
        except Undeliverable as failure:
            close_code = closing.RESTART if failure.is_stopping else closing.TRY_LATER
            await client.fail("gpu_unavailable", str(failure), close_code)
        except HandshakeRefused as refusal:
            await _refuse(client, refusal)
        except ReplicaLost:
            await client.fail("worker_failed", "the replica is not healthy any more", closing.FAILED)

    async def _first_message(self, client: WebSocketClient) -> Message | None:
        """Accept the session and return its first message; `None` if the session ends before the message arrives."""
        await client.accept()
        try:
            async with asyncio.timeout(self._config.header_timeout_seconds):
                message = await client.receive()
        except TimeoutError:
            text = f"the first message did not come within {self._config.header_timeout_seconds:g} s"
            await client.fail("bad_request", text, closing.POLICY, retryable=False)
            return None
        return None if message["type"] == "websocket.disconnect" else message

    @contextlib.asynccontextmanager
    async def _dial(
        self, replica: Replica, scope: Scope, subprotocols: Sequence[str], client: str
    ) -> AsyncIterator[ClientConnection]:
        try:
            connection = await self._connect(replica, scope, subprotocols)
        except InvalidStatus as error:
            self._reports.responded(replica, error.response.status_code, client=client)
            raise _judged(error) from error
        except TimeoutError as error:
            seconds = self._config.connect_timeout_seconds
            raise NotReached(f"no WebSocket handshake within {seconds:g} s", is_timeout=True) from error
        except Exception as error:
            if (trouble := own_trouble(error, url=replica.url)) is not None:
                raise NotReached(str(trouble), trouble=trouble) from error
            if not isinstance(error, OSError | InvalidHandshake | ConnectionClosed | EOFError):
                raise
            raise NotReached(f"{type(error).__name__}: {error}") from error
        try:
            yield connection
        finally:
            if connection.transport is not None:
                connection.transport.abort()  # by now the close frames have been exchanged, or are not needed

    def _report(self, replica: Replica, ending: Ending, client: str) -> None:
        """Report how a session ended. If the replica ended it because it restarts or is busy, that says nothing."""
        if ending.by == "client":
            self._reports.completed(replica)
        elif ending.close.code in (None, closing.FAILED):
            if not ending.is_too_big:
                self._reports.broken(replica, ending.close.reason or "it closed the session with 1011", client=client)
        elif ending.close.code not in (closing.RESTART, closing.TRY_LATER):
            self._reports.completed(replica)

    async def _connect(self, replica: Replica, scope: Scope, subprotocols: Sequence[str]) -> ClientConnection:
        parts = urlsplit(replica.url)
        context = await self._tls.context() if parts.scheme == "https" else None
        client = scope["client"][0] if scope.get("client") else None
        passed = headers.to_replica(scope["headers"], client=client, scheme=scope["scheme"])
        kept = [pair for pair in headers.of_handshake(passed) if pair[0] != b"host"]
        options: dict[str, Any] = {}
        if context is not None:
            options = {"ssl": context, "server_hostname": self._tls.server_name(parts.hostname or "")}
        async with time_limit(self._config.connect_timeout_seconds):
            connection = await _Connect(
                _uri(replica, scope),
                host=parts.hostname,
                port=parts.port or DEFAULT_PORTS[parts.scheme],
                additional_headers=[(name.decode("ascii"), value.decode("latin-1")) for name, value in kept],
                user_agent_header=None,
                subprotocols=[Subprotocol(name) for name in subprotocols] or None,
                compression=None,
                proxy=None,
                open_timeout=None,
                close_timeout=CLOSE_SECONDS,
                ping_interval=PING_SECONDS,
                ping_timeout=None,
                max_size=self._config.max_frame_bytes,
                max_queue=0,
                create_connection=_Connection,
                **options,
            )
        tcp.apply(self._tcp_options, connection.transport.get_extra_info("socket"))
        return connection


class _Connection(ClientConnection):
    """A connection that is aborted if the replica does not close it after the closing handshake or a failure."""

    _is_awaited = False

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._is_awaited and self.protocol.close_expected():
            self._is_awaited = True
            self.loop.call_later(CLOSE_SECONDS, self.transport.abort)


class _Connect(connect):
    """A connect that follows no redirect; the redirect is passed to the client."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


def _uri(replica: Replica, scope: Scope) -> str:
    """Return the uri of the handshake, with the client's Host. The address to connect to is given separately."""
    parts = urlsplit(replica.url)
    scheme = "wss" if parts.scheme == "https" else "ws"
    host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
    authority = host if _AUTHORITY.fullmatch(host) else parts.netloc
    query = scope["query_string"].decode("ascii", "replace")
    target = scope["raw_path"].decode("ascii", "replace") + (f"?{query}" if query else "")
    return f"{scheme}://{authority}{target}"


def _judged(error: InvalidStatus) -> Exception:
    """Return the error for a handshake that was answered with a status other than 101."""
    response = error.response
    status = response.status_code
    if 300 <= status < 500 and status not in BUSY:
        pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in response.headers.raw_items()]
        kept = [pair for pair in headers.to_client(pairs, status=status) if pair[0] != b"content-length"]
        return HandshakeRefused(status, kept, bytes(response.body or b""))
    return NotReached(f"WebSocket handshake: HTTP {status}", is_evidence=status not in BUSY)


async def _refuse(client: WebSocketClient, refusal: HandshakeRefused) -> None:
    """Pass on a replica's refusal: as an error frame if the client's handshake is complete, otherwise as a response."""
    if client.is_accepted:
        text = f"the replica refused the session: HTTP {refusal.status}"
        await client.fail("worker_failed", text, closing.FAILED, retryable=False)
    else:
        await client.refuse(refusal.status, refusal.headers, refusal.body)


def _answer_of(replica: ClientConnection) -> tuple[str | None, list[tuple[bytes, bytes]]]:
    """Return the subprotocol and the headers of a replica's handshake response that are passed to the client."""
    answered = replica.response.headers.raw_items() if replica.response else ()
    pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answered]
    return replica.subprotocol, headers.of_handshake(headers.to_client(pairs, status=101))


async def _bridge(client: WebSocketClient, replica: ClientConnection) -> Ending:
    """Pass messages in both directions until one side ends, then end the other side in the same way."""
    ending = await _first_to_end(client, replica)
    if ending.by == "client":
        close = closing.for_replica(ending.close)
        # Read and drop the replica's messages meanwhile; its answer to the close frame may come after them.
        await asyncio.gather(replica.close(close.code or closing.NORMAL, close.reason), _discard(replica))
    elif (answer := closing.for_client(ending.close)) is not None:
        await client.close(answer)
    else:
        logger.warning("session: broke on the replica's side: %s", ending.close.reason)
        message = "the replica's message is larger than max_frame_bytes" if ending.is_too_big else "the replica failed"
        await client.fail("worker_failed", message, closing.FAILED, retryable=not ending.is_too_big)
    return ending


async def _first_to_end(client: WebSocketClient, replica: ClientConnection) -> Ending:
    upward = asyncio.create_task(_to_replica(client, replica))
    downward = asyncio.create_task(_to_client(client, replica))
    try:
        await asyncio.wait((upward, downward), return_when=asyncio.FIRST_COMPLETED)
        if upward.done() and (ending := upward.result()) is not None:
            return ending
        return await downward  # the replica has ended; first pass on everything that it had sent
    finally:
        for task in (upward, downward):
            task.cancel()
        await asyncio.gather(upward, downward, return_exceptions=True)


async def _to_replica(client: WebSocketClient, replica: ClientConnection) -> Ending | None:
    """Pass on the client's messages. Return how the client ended, or `None` if the replica ended first."""
    while True:
        message = await client.receive()
        if message["type"] == "websocket.disconnect":
            return Ending("client", _client_close(message))
        try:
            await replica.send(data_of(message))
        except ConnectionClosed:
            return None


async def _to_client(client: WebSocketClient, replica: ClientConnection) -> Ending:
    """Pass on the replica's messages. Return how the replica ended, or that the client did."""
    try:
        while True:
            await client.send(await replica.recv())
    except ConnectionClosed as closed:
        if closed.rcvd is not None:
            return Ending("replica", Close(closed.rcvd.code, closed.rcvd.reason))
        is_too_big = closed.sent is not None and closed.sent.code == CloseCode.MESSAGE_TOO_BIG
        return Ending("replica", Close(None, str(closed.__cause__ or closed)), is_too_big=is_too_big)
    except OSError:  # the server raises this if the client has left
        return Ending("client", Close(None))


def _client_close(message: Message) -> Close:
    """Return how the client ended. If the message has no reason, not even an empty one, there was no close frame."""
    code = message.get("code", 1005)
    if "reason" not in message and code in (1005, 1006):
        return Close(None)
    return Close(code, cast("str | None", message.get("reason")) or "")


async def _discard(replica: ClientConnection) -> None:
    with contextlib.suppress(ConnectionClosed):
        while True:
            await replica.recv(decode=False)
