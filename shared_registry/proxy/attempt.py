"""One request at one replica: the request is sent, and the response passed on to the client.

The exchange on a connection ends with a call to `settle()`, which has the rules for every end. Whoever needs no task
uses `start()`: then the attempt itself serves the request until the first connection has answered it. If anything fails
there, a task goes on with the same attempt, and settles it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from shared_registry.http1.connection import ReplicaConnection, ReplicaSilent
from shared_registry.http1.fields import Headers
from shared_registry.http1.response import ReplicaBroke
from shared_registry.proxy.connections import ReplicaConnections
from shared_registry.proxy.dispatch import NotReached
from shared_registry.proxy.exchange import Exchange
from shared_registry.proxy.outcomes import BUSY, OutcomeReports, client_of
from shared_registry.proxy.placement import SessionPlacement, Slot
from shared_registry.proxy.response_head import passed_head
from shared_registry.proxy.retry_budget import RetryBudget
from shared_registry.proxy.serving import Serving

HIGHEST_STATUS = 599
"""The highest status that is passed on (RFC 9110, section 15)."""


@dataclass(frozen=True, slots=True)
class PoolParts:
    """What all attempts of a pool have in common.

    Attributes:
        placement: Chooses replicas.
        connections: The connections to replicas.
        reports: Takes the outcomes.
        budget: Limits how many requests are sent again.
        serving: The requests under way.
    """

    placement: SessionPlacement
    connections: ReplicaConnections
    reports: OutcomeReports
    budget: RetryBudget
    serving: Serving


class Attempt:
    """One request at one replica. It takes the replica's response.

    Attributes:
        slot: The replica's slot.
        head: The request's head, as the replica receives it.
        send: Passes on a piece of the response's body.
        flush: Writes what was passed on.
        end: Ends the response.
    """

    __slots__ = (
        "_connection",
        "_error",
        "_exchange",
        "_go_on",
        "_key",
        "_parts",
        "end",
        "flush",
        "head",
        "send",
        "slot",
    )

    def __init__(self, parts: PoolParts, exchange: Exchange, key: str | None, slot: Slot) -> None:
        url = slot.replica.url
        if exchange.record is not None:
            exchange.note_replica(url, key)
        self.slot = slot
        self.head = exchange.head_for_replica(url)
        self.send = exchange.send
        self.flush = exchange.flush
        self.end = exchange.end
        self._parts = parts
        self._exchange = exchange
        self._key = key
        self._connection: ReplicaConnection | None = None
        self._error: Exception | None = None
        self._go_on: GoOn | None = None

    # With a task

    async def run(self) -> None:
        """Send the request and pass the response on, or go on where `start()` has ended. Report the outcome.

        Raises:
            NotReached: Another replica may be tried.
            ReplicaBroke: The replica has failed.
            ReplicaSilent: The replica has failed.
            ReplicaLost: The replica was lost, and `on_lost` is `close`.
        """
        parts = self._parts
        if self._connection is not None and self._is_settled(self._connection, self._error):
            return
        while True:
            connection = await parts.connections.take(self.slot.replica)
            error: Exception | None = None
            try:
                self._note_reached()
                await parts.placement.unless_lost(self.slot, connection.exchange(self._exchange, self.head, self))
            except Exception as failure:  # noqa: BLE001  it is raised again if it is no outcome
                connection.abort()
                error = failure
            if self._is_settled(connection, error):
                return

    # Without a task

    def start(self, go_on: GoOn) -> bool:
        """Send the request on an idle connection, if there is one, and serve it from now on without a task.

        Args:
            go_on: Called if this fails. It must start a task that calls `run()`.

        Returns:
            Whether the request is being served. Otherwise `run()` has to be called.
        """
        connection = self._parts.connections.take_idle(self.slot.replica)
        if connection is None:
            return False
        self._connection = connection
        self._go_on = go_on
        try:
            self._note_reached()
            connection.begin(self._exchange, self.head, self, self._ended)
        except Exception as error:  # noqa: BLE001  `run()` raises it
            connection.abort()
            self._error = error
            return False
        self._parts.serving.leave_to(self._exchange, self)
        return True

    def cancel(self) -> None:
        """Serve the request no longer: its client has left, or it is refused, or the router stops."""
        if self._go_on is not None and self._connection is not None:
            self._go_on = None
            self._connection.give_up()
            self._parts.serving.cancelled(self._exchange)

    def _ended(self, error: Exception | None) -> None:
        """The exchange on the first connection has ended."""
        go_on, self._go_on = self._go_on, None
        if error is None and self._connection is not None:
            try:
                self._is_settled(self._connection, None)
            except Exception as failure:  # noqa: BLE001  `run()` raises it
                self._connection.abort()
                error = failure
        if error is None:
            self._parts.serving.end(self._exchange)
        elif go_on is not None:
            self._error = error
            go_on(self._exchange, self._key, self)

    # With and without

    def begin(self, status: int, fields: Headers) -> None:
        """Begin the response to the client, unless the replica is busy and another one may be tried.

        Raises:
            NotReached: The replica is busy, and another one may be tried.
            ReplicaBroke: Clients do not know this status.
        """
        if status > HIGHEST_STATUS:
            raise ReplicaBroke(f"it answered with status {status}")
        if status in BUSY and self._may_try_another():
            raise NotReached(f"HTTP {status}", is_evidence=False)
        self._exchange.begin_with(passed_head(status, tuple(fields)))

    def _may_try_another(self) -> bool:
        exchange, parts = self._exchange, self._parts
        if not exchange.is_replayable or not parts.placement.has_another(self.slot.replica):
            return False
        return parts.budget.take(exchange.client.now())

    def _note_reached(self) -> None:
        self._parts.reports.success(self.slot.replica)
        if self._exchange.is_traced:
            self._exchange.note_reached()

    def _is_settled(self, connection: ReplicaConnection, error: Exception | None) -> bool:
        """Report how an exchange has ended. Return whether the attempt is over, or the request is to be sent again.

        Raises:
            Exception: The error, if the attempt has failed by it.
        """
        exchange, replica, reports = self._exchange, self.slot.replica, self._parts.reports
        if error is None:
            self._parts.connections.give_back(replica, connection)
            status = connection.status or 0
            client = self._client() if status >= 500 else ""  # of no interest otherwise
            reports.responded(replica, status, client=client)
            return True
        if not isinstance(error, ReplicaBroke | ReplicaSilent):
            raise error
        is_stale = connection.is_used and not connection.has_received and isinstance(error, ReplicaBroke)
        if is_stale and (exchange.is_harmless or (connection.is_unread and exchange.is_replayable)):
            return False
        reports.broken(replica, str(error), client=self._client())
        raise error

    def _client(self) -> str:
        return client_of(self._exchange.client_address, self._key)


GoOn = Callable[[Exchange, str | None, Attempt], None]
"""Goes on with an attempt that was started without a task."""
