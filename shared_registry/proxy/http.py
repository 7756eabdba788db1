"""Proxies HTTP requests: the request to a replica, the response to the client, both as streams."""

from __future__ import annotations

import functools
import logging
import math

from shared_registry.config import RouterConfig
from shared_registry.http1.connection import ReplicaSilent
from shared_registry.http1.response import ReplicaBroke
from shared_registry.leases.ledger import session_digest
from shared_registry.proxy.access_record import Ended
from shared_registry.proxy.answers import Answer, error_answer
from shared_registry.proxy.attempt import Attempt, PoolParts
from shared_registry.proxy.connections import ReplicaConnections
from shared_registry.proxy.dispatch import Dispatcher, Undeliverable
from shared_registry.proxy.exchange import Exchange
from shared_registry.proxy.outcomes import OutcomeReports
from shared_registry.proxy.placement import NoReplica, ReplicaLost, SessionPlacement, Slot
from shared_registry.proxy.retry_budget import RetryBudget
from shared_registry.proxy.serving import InTask, Serving
from shared_registry.proxy.session_key import SessionKey

RETRY_AFTER_SECONDS = 1
LONGEST_RETRY_AFTER_SECONDS = 300
"""The upper limit of `Retry-After`, for any length of the queue: estimates for a longer time are not reliable."""
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
        serving: Serving,
    ) -> None:
        self._session_key = SessionKey(config.session_key)
        self._dispatcher = dispatcher
        self._placement = placement
        self._serving = serving
        self._parts = PoolParts(placement, connections, reports, RetryBudget(), serving)

    def begin(self, exchange: Exchange, *, takes_slot: bool, has_task: bool) -> InTask | None:
        """Begin to proxy one request.

        It is served at once, without a task, if it needs no slot, and a connection to its replica is idle.

        Args:
            exchange: The request.
            takes_slot: Whether it needs a slot on its replica.
            has_task: Whether it has a task already.

        Returns:
            What serves the request in a task; `None` if it is being served.
        """
        self._parts.budget.request()
        key = self._session_key.of_request(exchange.fields, exchange.query) if self._session_key.is_set else None
        attempt: Attempt | None = None
        if not takes_slot and not has_task and self._placement.opening.is_open:
            try:
                slot = self._placement.choose(key, exclude=())
            except NoReplica:
                pass
            else:
                attempt = Attempt(self._parts, exchange, key, slot)
                if attempt.start(self._go_on):
                    return None
        return functools.partial(self._serve, exchange, key, attempt, takes_slot=takes_slot)

    def _go_on(self, exchange: Exchange, key: str | None, attempt: Attempt) -> None:
        self._serving.run(exchange, functools.partial(self._serve, exchange, key, attempt, takes_slot=False))

    async def _serve(self, exchange: Exchange, key: str | None, begun: Attempt | None, *, takes_slot: bool) -> None:
        """Proxy one request, from an attempt on that has begun, if there is one."""
        try:
            await self._dispatcher.deliver(
                key,
                functools.partial(self._attempt, exchange, key, begun),
                exchange=exchange,
                first=None if begun is None else begun.slot,
                takes_slot=takes_slot,
                on_position=exchange.note_position if exchange.is_traced else None,
            )
        except Undeliverable as failure:
            exchange.answer(refusal_of(failure))
        except (ReplicaBroke, ReplicaSilent, ReplicaLost) as error:
            text = "http: %s %s: the replica: %s (request %s)"
            request_id = exchange.request_id.decode()
            extra = {"request_id": request_id, "session_digest": key and session_digest(key)}
            logger.warning(text, exchange.method, _shown(exchange.path), error, request_id, extra=extra)
            exchange.note_end(_ended(error), error=None if exchange.is_begun else "worker_failed")
            exchange.answer(failure_of(error))

    async def _attempt(self, exchange: Exchange, key: str | None, begun: Attempt | None, slot: Slot) -> None:
        is_begun = begun is not None and begun.slot is slot
        attempt = begun if begun is not None and is_begun else Attempt(self._parts, exchange, key, slot)
        await attempt.run()


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


def _whole_seconds(estimate: float | None) -> int:
    """Return the value of `Retry-After` for an estimate."""
    if estimate is None:
        return RETRY_AFTER_SECONDS
    return max(RETRY_AFTER_SECONDS, math.ceil(min(estimate, LONGEST_RETRY_AFTER_SECONDS)))


def _shown(path: bytes) -> str:
    return path.decode("ascii", "replace")
