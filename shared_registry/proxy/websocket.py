"""Proxies WebSocket sessions: connects the client with a replica, and then passes bytes on; see `Tunnel`.

The handshake is passed on to the replica, so that the client and the replica negotiate with each other. Compression is
never agreed on, because the router sends messages of its own.
"""

from __future__ import annotations

import asyncio
import functools
import logging

from shared_registry.aio.time_limit import time_limit
from shared_registry.config import RouterConfig
from shared_registry.http1.connection import ReplicaConnection, ReplicaSilent
from shared_registry.http1.fields import Headers, request_head
from shared_registry.http1.response import SWITCHING_PROTOCOLS, ReplicaBroke
from shared_registry.model import Replica
from shared_registry.proxy import closing, headers
from shared_registry.proxy.answers import error_answer
from shared_registry.proxy.closing import Close
from shared_registry.proxy.connections import ReplicaConnections
from shared_registry.proxy.dispatch import Dispatcher, NotReached, Undeliverable
from shared_registry.proxy.exchange import Exchange
from shared_registry.proxy.outcomes import BUSY, OutcomeReports, client_of
from shared_registry.proxy.placement import ReplicaLost, SessionPlacement, Slot
from shared_registry.proxy.session_key import SessionKey
from shared_registry.proxy.trial import Trial
from shared_registry.proxy.tunnel import Ending, Tunnel
from shared_registry.proxy.websocket_client import WebSocketClient, accept_of, handshake_key

logger = logging.getLogger(__name__)


class HandshakeRefused(Exception):
    """A replica has refused the handshake, and the client is accepted already."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class WebSocketProxy:
    """Serves all WebSockets except those to the router's own pages."""

    def __init__(
        self,
        config: RouterConfig,
        dispatcher: Dispatcher,
        placement: SessionPlacement,
        connections: ReplicaConnections,
        reports: OutcomeReports,
    ) -> None:
        self._config = config
        self._session_key = SessionKey(config.session_key)
        self._dispatcher = dispatcher
        self._placement = placement
        self._connections = connections
        self._reports = reports

    async def serve(self, exchange: Exchange, *, takes_slot: bool) -> None:
        """Proxy one session, from its handshake to its end. It is cancelled if the client leaves before it begins.

        Args:
            exchange: The handshake.
            takes_slot: Whether the session needs a slot on its replica.
        """
        key = handshake_key(exchange)
        if key is None:
            exchange.answer(error_answer(400, "bad_request", "its WebSocket handshake is not valid"))
            return
        client = WebSocketClient(exchange, key, longest=self._config.max_frame_bytes)
        session = self._session_key.of_request(exchange.fields, exchange.query)
        if self._session_key.is_in_first_frame:
            first = await self._first_message(client)
            if first is None:
                return
            session = self._session_key.of_frame(first)
        try:
            await self._dispatcher.deliver(
                session,
                functools.partial(self._attempt, exchange, client, session),
                exchange=exchange,
                takes_slot=takes_slot,
                on_position=client.set_position,
            )
        except Undeliverable as failure:
            close_code = closing.RESTART if failure.is_stopping else closing.TRY_LATER
            client.fail("gpu_unavailable", str(failure), close_code)
        except HandshakeRefused as refused:
            text = f"the replica refused the session: HTTP {refused.status}"
            client.fail("worker_failed", text, closing.FAILED, is_retryable=False)
        except ReplicaLost:
            exchange.note_end("replica_lost", error="worker_failed", close_code=closing.FAILED)
            client.fail("worker_failed", "the replica is not healthy any more", closing.FAILED)

    async def _first_message(self, client: WebSocketClient) -> bytes | None:
        """Accept the session and return its first message; `None` if it did not arrive in time."""
        client.accept()
        try:
            async with asyncio.timeout(self._config.header_timeout_seconds):
                return await client.first_message()
        except TimeoutError:
            text = f"the first message did not come within {self._config.header_timeout_seconds:g} s"
            client.fail("bad_request", text, closing.POLICY, is_retryable=False)
            return None

    async def _attempt(self, exchange: Exchange, client: WebSocketClient, session: str | None, slot: Slot) -> None:
        """Run the session on the slot's replica. Report the outcome."""
        replica = slot.replica
        exchange.note_replica(replica.url, session)
        name = client_of(exchange.client_address, session)
        tunnel = await self._begin(exchange, client, slot, name)
        if tunnel is None:  # the replica's refusal was passed on
            return
        exchange.note_session()
        try:
            ending = await self._placement.unless_lost(slot, tunnel.ended)
        finally:
            exchange.bytes_in, exchange.bytes_out = tunnel.client.received, tunnel.replica.received
        exchange.note_end(ending.ended, close_code=ending.close_code)
        if ending.is_refused:
            exchange.note_refusal(f"WebSocket {ending.close.code}", ending.close.reason)
        self._report(replica, ending, name)

    async def _begin(self, exchange: Exchange, client: WebSocketClient, slot: Slot, name: str) -> Tunnel | None:
        """Begin the session on the slot's replica. What only its beginning needs is not kept while the session lasts.

        Returns:
            The session under way; `None` if the replica has refused it, and the refusal was passed on.

        Raises:
            NotReached: The replica did not take the session.
            HandshakeRefused: The replica has refused it, and the client is accepted already.
            ReplicaLost: The session's replica was lost, and `on_lost` is `close`.
        """
        replica = slot.replica
        connection, handshake = await self._connect(exchange, client, replica, name)
        if connection.status != SWITCHING_PROTOCOLS:
            return None
        self._reports.success(replica)
        trial: Trial | None = None
        if self._placement.may_go_elsewhere(replica):
            trial = await self._try_out(client, slot, connection, handshake)
        tunnel = Tunnel(
            longest=self._config.max_frame_bytes,
            request_id=exchange.request_id,
            on_client_lost=exchange.client.connection_lost,
            ping_seconds=self._config.websocket_ping_seconds,
        )
        client.begin(handshake.answered(), tunnel, connection.switch_to(tunnel.replica))
        if received := connection.after_switch if trial is None else trial.held:
            tunnel.replica.data_received(received)
        if trial is not None and trial.is_lost:
            tunnel.replica.connection_lost(None)
        return tunnel

    async def _try_out(
        self, client: WebSocketClient, slot: Slot, connection: ReplicaConnection, handshake: Handshake
    ) -> Trial:
        """Find out whether a replica takes a session.

        Raises:
            NotReached: The replica is busy.
            ReplicaLost: The session's replica was lost, and `on_lost` is `close`.
        """
        trial = Trial(longest=self._config.max_frame_bytes)
        transport = connection.switch_to(trial)
        try:
            trial.begin(transport, connection.after_switch or b"")
            client.try_out(trial, handshake.answered())
            if await self._placement.unless_lost(slot, trial.is_taken()):
                return trial
        except BaseException:
            client.end_trial()
            trial.end(Close(closing.GOING_AWAY, "the session is ended by the router"))
            raise
        client.end_trial()
        transport.abort()
        raise NotReached("it has closed the session with 1013", is_evidence=False)

    async def _connect(
        self, exchange: Exchange, client: WebSocketClient, replica: Replica, name: str
    ) -> tuple[ReplicaConnection, Handshake]:
        """Connect to a replica and exchange handshakes.

        Raises:
            NotReached: The replica did not take the session.
            HandshakeRefused: The replica has refused it, and the client is accepted already.
        """
        seconds = self._config.connect_timeout_seconds
        handshake = Handshake(exchange, client)
        connection: ReplicaConnection | None = None
        try:
            async with time_limit(seconds):
                connection = await self._connections.open(replica)
                exchange.note_reached()
                await connection.exchange(
                    exchange, _request_head(exchange, client, replica), handshake, is_upgrade=True
                )
        except (TimeoutError, ReplicaBroke, ReplicaSilent) as error:
            if connection is None or not exchange.is_begun:
                is_timeout = isinstance(error, TimeoutError)
                reason = f"none within {seconds:g} s" if is_timeout else str(error)
                raise NotReached(f"WebSocket handshake: {reason}", is_timeout=is_timeout) from error
            exchange.break_off()  # a refusal that has begun cannot be followed by another replica's answer
        finally:
            if connection is not None and connection.status not in (None, SWITCHING_PROTOCOLS):
                self._reports.responded(replica, connection.status, client=name)
                connection.abort()
        if connection.status == SWITCHING_PROTOCOLS and not handshake.is_valid():
            connection.abort()
            raise NotReached("WebSocket handshake: its answer is not valid")
        return connection, handshake

    def _report(self, replica: Replica, ending: Ending, client: str) -> None:
        """Report how a session ended. If the replica ended it because it restarts or is busy, that says nothing."""
        if ending.by == "client":
            self._reports.completed(replica)
        elif ending.by == "replica" and ending.close.code in (None, closing.FAILED):
            if not ending.is_too_big:
                self._reports.broken(replica, ending.close.reason or "it closed the session with 1011", client=client)
        elif ending.by == "replica" and ending.close.code not in (closing.RESTART, closing.TRY_LATER):
            self._reports.completed(replica)


class Handshake:
    """Takes a replica's response to a handshake. A refusal is passed on to a client that is not accepted yet."""

    def __init__(self, exchange: Exchange, client: WebSocketClient) -> None:
        self._exchange = exchange
        self._client = client
        self._fields: Headers = ()

    def begin(self, status: int, fields: Headers) -> None:
        """Take the head.

        Raises:
            NotReached: Another replica may be tried.
            HandshakeRefused: The session is refused, and the client is accepted already.
        """
        if status == SWITCHING_PROTOCOLS:
            self._fields = fields
        elif not 300 <= status < 500 or status in BUSY:
            raise NotReached(f"WebSocket handshake: HTTP {status}", is_evidence=status not in BUSY)
        elif self._client.is_accepted:
            raise HandshakeRefused(status)
        else:
            self._exchange.begin(status, headers.to_client(fields, status=status))

    def send(self, data: bytes) -> None:
        """Pass on a piece of the refusal."""
        self._exchange.send(data)

    def flush(self) -> None:
        """Write what was passed on."""
        self._exchange.flush()

    def end(self) -> None:
        """End the refusal."""
        self._exchange.end()

    def is_valid(self) -> bool:
        """Return whether the replica has accepted this handshake, and chosen a subprotocol that was offered."""
        key = handshake_key(self._exchange) or b""
        found = dict(self._fields)
        chosen = found.get(b"sec-websocket-protocol")
        return (
            found.get(b"sec-websocket-accept") == accept_of(key)
            and found.get(b"upgrade", b"").lower() == b"websocket"
            and b"sec-websocket-extensions" not in found
            and (chosen is None or chosen in self._client.subprotocols)
        )

    def answered(self) -> Headers:
        """Return the headers to pass on to the client."""
        return headers.to_client(self._fields, status=SWITCHING_PROTOCOLS)


def _request_head(exchange: Exchange, client: WebSocketClient, replica: Replica) -> bytes:
    fields = exchange.for_replica(replica.url)
    dropped = (b"sec-websocket-extensions", b"sec-websocket-protocol")
    offer = [(b"upgrade", b"websocket"), (b"connection", b"Upgrade")]
    if client.subprotocols:
        offer.append((b"sec-websocket-protocol", b", ".join(client.subprotocols)))
    return request_head("GET", exchange.target, (*offer, *(pair for pair in fields if pair[0] not in dropped)))
