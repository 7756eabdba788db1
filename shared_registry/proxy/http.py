"""Proxies HTTP requests: the request to a replica, the response to the client, both as streams."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable

from shared_registry.config import RouterConfig
from shared_registry.http1.connection import ReplicaSilent
from shared_registry.http1.fields import Headers, request_head
from shared_registry.http1.response import ReplicaBroke
from shared_registry.model import Replica
from shared_registry.proxy import headers
from shared_registry.proxy.access_record import Ended
from shared_registry.proxy.answers import Answer, error_answer
from shared_registry.proxy.connections import ReplicaConnections
from shared_registry.proxy.dispatch import Dispatcher, NotReached, Undeliverable
from shared_registry.proxy.exchange import Exchange
from shared_registry.proxy.outcomes import BUSY, OutcomeReports, client_of
from shared_registry.proxy.placement import ReplicaLost, SessionPlacement, Slot
from shared_registry.proxy.retry_budget import RetryBudget
from shared_registry.proxy.session_key import SessionKey

RETRY_AFTER_SECONDS = 1
LONGEST_RETRY_AFTER_SECONDS = 300
"""The upper limit of `Retry-After`, for any length of the queue: estimates for a longer time are not reliable."""
HIGHEST_STATUS = 599
"""The highest status that is passed on (RFC 9110, section 15)."""
logger = logging.getLogger(__name__)


class HttpProxy:
    """Serves all HTTP requests except those for the router's own pages."""

    def __init__(
        self,
        config: RouterConfig,
        dispatcher: Dispatcher,
        placement: SessionPlacement,
        connections: ReplicaConnections,
        reports: OutcomeReports,
    ) -> None:
        self._session_key = SessionKey(config.session_key)
        self._budget = RetryBudget()
        self._dispatcher = dispatcher
        self._placement = placement
        self._connections = connections
        self._reports = reports

    async def serve(self, exchange: Exchange, *, takes_slot: bool) -> None:
        """Proxy one request. It is cancelled if the client leaves.

        Args:
            exchange: The request.
            takes_slot: Whether it needs a slot on its replica.
        """
        self._budget.request()
        key = self._session_key.of_request(exchange.fields, exchange.query) if self._session_key.is_set else None
        try:
            await self._dispatcher.deliver(
                key,
                functools.partial(self._attempt, exchange, key),
                exchange=exchange,
                takes_slot=takes_slot,
                on_position=exchange.note_position if exchange.is_traced else None,
            )
        except Undeliverable as failure:
            exchange.answer(refusal_of(failure))
        except (ReplicaBroke, ReplicaSilent, ReplicaLost) as error:
            text = "http: %s %s: the replica: %s (request %s)"
            request_id = exchange.request_id.decode()
            extra = {"request_id": request_id}
            logger.warning(text, exchange.method, _shown(exchange.path), error, request_id, extra=extra)
            exchange.note_end(_ended(error), error=None if exchange.is_begun else "worker_failed")
            exchange.answer(failure_of(error))

    async def _attempt(self, exchange: Exchange, key: str | None, slot: Slot) -> None:
        """Send the request to the slot's replica and pass the response on. Report the outcome."""
        replica = slot.replica
        exchange.note_replica(replica, key)
        fields = exchange.for_replica(replica.url)
        head = request_head(exchange.method, exchange.target, fields)
        while True:
            connection = await self._connections.take(replica)
            self._reports.success(replica)
            if exchange.is_traced:
                exchange.note_reached()
            try:
                response = ResponseToClient(exchange, functools.partial(self._may_try_another, exchange, replica))
                await self._placement.unless_lost(slot, connection.exchange(exchange, head, response))
            except (ReplicaBroke, ReplicaSilent) as error:
                is_stale = connection.is_used and not connection.has_received and isinstance(error, ReplicaBroke)
                if is_stale and (exchange.is_harmless or (connection.is_unread and exchange.is_replayable)):
                    continue
                self._reports.broken(replica, str(error), client=_client_of(exchange, key))
                raise
            self._connections.give_back(replica, connection)
            status = connection.status or 0
            client = _client_of(exchange, key) if status >= 500 else ""  # of no interest otherwise
            self._reports.responded(replica, status, client=client)
            return

    def _may_try_another(self, exchange: Exchange, replica: Replica) -> bool:
        """Return whether a request for which a replica is too busy may be sent to another replica."""
        if not exchange.is_replayable or not self._placement.has_another(replica):
            return False
        return self._budget.take(exchange.client.now())


class ResponseToClient:
    """Passes a replica's response on to the client, unless the replica is busy and another one may be tried."""

    __slots__ = ("_exchange", "_may_try_another", "end", "flush", "send")

    def __init__(self, exchange: Exchange, may_try_another: Callable[[], bool]) -> None:
        self._exchange = exchange
        self._may_try_another = may_try_another
        self.send = exchange.send
        self.flush = exchange.flush
        self.end = exchange.end

    def begin(self, status: int, fields: Headers) -> None:
        """Begin the response to the client.

        Raises:
            NotReached: The replica is busy, and another one may be tried.
            ReplicaBroke: Clients do not know this status.
        """
        if status > HIGHEST_STATUS:
            raise ReplicaBroke(f"it answered with status {status}")
        if status in BUSY and self._may_try_another():
            raise NotReached(f"HTTP {status}", is_evidence=False)
        self._exchange.begin(status, headers.to_client(fields, status=status))


def refusal_of(failure: Undeliverable) -> Answer:
    """Return the answer to a request that no replica has taken."""
    retry_after = _whole_seconds(failure.retry_after_seconds)
    if not failure.failures or failure.is_stopping or failure.trouble is not None or failure.is_busy:
        status = 503
    else:
        status = 504 if all(one.is_timeout for one in failure.failures) else 502
    return error_answer(status, "gpu_unavailable", str(failure), retry_after=retry_after)


def failure_of(error: Exception) -> Answer:
    """Return the answer to a request on which a replica has failed."""
    if isinstance(error, ReplicaSilent):
        return error_answer(504, "worker_failed", "the replica did not respond in time")
    if isinstance(error, ReplicaLost):
        return error_answer(502, "worker_failed", "the replica is not healthy any more")
    return error_answer(502, "worker_failed", "the replica broke off the connection")


def _ended(error: Exception) -> Ended:
    if isinstance(error, ReplicaSilent):
        return "replica_silent"
    return "replica_lost" if isinstance(error, ReplicaLost) else "replica_broke"


def _client_of(exchange: Exchange, key: str | None) -> str:
    return client_of(exchange.client_address, key)


def _whole_seconds(estimate: float | None) -> int:
    """Return the value of `Retry-After` for an estimate."""
    if estimate is None:
        return RETRY_AFTER_SECONDS
    return max(RETRY_AFTER_SECONDS, math.ceil(min(estimate, LONGEST_RETRY_AFTER_SECONDS)))


def _shown(path: bytes) -> str:
    return path.decode("ascii", "replace")
