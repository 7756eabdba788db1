"""Counts what became of the requests and sessions of one pool, and of the replicas that were tried for them.

It is on the path of each request, so it counts in plain numbers; `telemetry` reads them when somebody asks.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Literal, get_args

from shared_registry.errors import RegistryError, Saturated, StoreError
from shared_registry.leases import Lease
from shared_registry.proxy.access_record import Ended
from shared_registry.proxy.outcomes import NO_FAILURES
from shared_registry.tallies import FAST_SECONDS, SLOW_SECONDS, Distribution

if TYPE_CHECKING:
    from shared_registry.proxy.exchange import Exchange

RequestOutcome = Literal["ok", "client_gone", "replica_failed", "refused", "timeout", "shutdown", "router_failed"]
OUTCOMES: dict[Ended | None, RequestOutcome] = {
    "done": "ok",
    "client_closed": "ok",
    "replica_closed": "ok",
    "client_left": "client_gone",
    "client_silent": "client_gone",
    "not_begun": "client_gone",
    "client_error": "refused",
    "refused": "refused",
    "replica_broke": "replica_failed",
    "replica_silent": "replica_failed",
    "replica_lost": "replica_failed",
    "timed_out": "timeout",
    "router_stopped": "shutdown",
    "router_failed": "router_failed",
    None: "router_failed",
}
"""What each end of a request means for whoever watches the service."""


Placed = Literal["granted", "affinity", "waited", "degraded", "saturated", "no_healthy", "unavailable"]
PLACED: tuple[Placed, ...] = get_args(Placed)
"""How a session that needs a slot can be answered."""


class KindTraffic:
    """The requests of one kind: plain ones, or WebSocket sessions.

    Attributes:
        active: How many are under way, also those that wait.
        ended: How many have ended, by outcome.
        durations: How long they took, in seconds.
        first_bytes: The time until the head of the response was sent, in seconds.
        bytes_in: The bytes received of bodies, or of sessions' frames.
        bytes_out: The bytes sent.
    """

    __slots__ = ("active", "bytes_in", "bytes_out", "durations", "ended", "first_bytes")

    def __init__(self) -> None:
        self.active = 0
        self.ended: dict[RequestOutcome, int] = dict.fromkeys(OUTCOMES.values(), 0)
        self.durations = Distribution(SLOW_SECONDS)
        self.first_bytes = Distribution(SLOW_SECONDS)
        self.bytes_in = self.bytes_out = 0


class Traffic:
    """What became of the requests of one pool. Everything only rises, but the number of those under way.

    Attributes:
        http: The requests.
        websocket: The WebSocket sessions.
        placements: How sessions that need a slot were answered; see `PLACED`.
        failures: What went wrong at replicas: by canonical url, and by cause.
        retries: How often a session was sent on to another replica, or again, by the cause.
        connects: How long it took to connect to a replica, in seconds.
        acquires: How long it took to answer sessions that did not wait in the queue, in seconds, by the answer.
        waits: The same for those that waited.
    """

    def __init__(self) -> None:
        self.http = KindTraffic()
        self.websocket = KindTraffic()
        self.placements: dict[Placed, int] = dict.fromkeys(PLACED, 0)
        self.failures: Counter[tuple[str, str]] = Counter()
        self.retries: Counter[str] = Counter()
        self.connects = Distribution(FAST_SECONDS)
        self.acquires = {answer: Distribution(FAST_SECONDS) for answer in PLACED}
        self.waits = {answer: Distribution(SLOW_SECONDS) for answer in PLACED}

    def note_placed(self, lease: Lease, begun_at: float, *, has_waited: bool) -> None:
        """Count a session that got a slot.

        Args:
            lease: Its lease.
            begun_at: When it asked, on the monotonic clock.
            has_waited: Whether it waited in the queue.
        """
        if lease.is_degraded:
            answer: Placed = "degraded"
        elif has_waited:
            answer = "waited"
        else:
            answer = "affinity" if lease.has_returned else "granted"
        self._note_answer(answer, begun_at, has_waited=has_waited)

    def note_refused(self, error: RegistryError, begun_at: float, *, has_waited: bool) -> None:
        """Count a session that got no slot.

        Args:
            error: Why.
            begun_at: When it asked, on the monotonic clock.
            has_waited: Whether it waited in the queue.
        """
        answer: Placed = "no_healthy"
        if isinstance(error, Saturated):
            answer = "saturated"
        elif isinstance(error, StoreError):
            answer = "unavailable"
        self._note_answer(answer, begun_at, has_waited=has_waited)

    def _note_answer(self, answer: Placed, begun_at: float, *, has_waited: bool) -> None:
        self.placements[answer] += 1
        (self.waits if has_waited else self.acquires)[answer].add(time.monotonic() - begun_at)

    def add(self, exchange: Exchange) -> None:
        """Count a request that has ended."""
        kind = self.websocket if exchange.is_handshake else self.http
        outcome, status = OUTCOMES[exchange.ended], exchange.status
        if status is not None and status >= 500 and outcome == "ok" and status not in NO_FAILURES:
            outcome = "replica_failed"
        kind.ended[outcome] += 1
        started_at, answered_at = exchange.started_at, exchange.answered_at
        kind.durations.add(exchange.ended_at - started_at)
        if answered_at is not None:
            kind.first_bytes.add(answered_at - started_at)
        kind.bytes_in += exchange.bytes_in
        kind.bytes_out += exchange.bytes_out
