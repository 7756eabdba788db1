"""Connects a session to a replica. If a replica cannot be reached, the next one is tried."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from shared_registry.leases import OnPosition
from shared_registry.leases.ledger import session_digest
from shared_registry.model import Replica
from shared_registry.probing.own_trouble import OwnTrouble
from shared_registry.proxy.exchange import Exchange
from shared_registry.proxy.outcomes import OutcomeReports
from shared_registry.proxy.placement import NoReplica, SessionPlacement, Slot
from shared_registry.proxy.traffic import Traffic

MOST_TRIES = 5
"""The most replicas that one session tries: enough to pass over a rack that just failed, and a limit to the wait."""

BUSY_PAUSE_SECONDS = 0.5
"""How long a session that may wait leaves busy replicas alone, if there are no others."""

T = TypeVar("T")
logger = logging.getLogger(__name__)


class NotReached(Exception):
    """A replica did not take a session. It received nothing of the session, so another replica may be tried.

    Attributes:
        is_evidence: Whether this is a failure of the replica. A busy replica has not failed.
        is_timeout: Whether the replica did not respond in time.
        trouble: The router's own trouble that prevented the connection, if any; it is no failure of the replica.
    """

    def __init__(
        self, reason: str, *, is_evidence: bool = True, is_timeout: bool = False, trouble: OwnTrouble | None = None
    ) -> None:
        super().__init__(reason)
        self.is_evidence = is_evidence
        self.is_timeout = is_timeout
        self.trouble = trouble

    @property
    def is_busy(self) -> bool:
        """Whether the replica is busy."""
        return self.trouble is None and not self.is_evidence

    @property
    def cause(self) -> str:
        """What it is counted as: busy, timeout, connect, or own_trouble."""
        if self.trouble is not None:
            return "own_trouble"
        if self.is_busy:
            return "busy"
        return "timeout" if self.is_timeout else "connect"


class Undeliverable(Exception):
    """No replica took the session.

    Attributes:
        failures: The error of each replica that was tried; empty if there was none to try.
        is_stopping: Whether the session waited, or would have to wait, but this router stops.
        trouble: The router's own trouble that prevented the last attempt, if any.
        is_busy: Whether a replica was reached, and was too busy.
        retry_after_seconds: An estimate of the time until a replica has a free slot; `None` if it is unknown.
    """

    def __init__(self, failures: list[NotReached], missing: NoReplica | None) -> None:
        super().__init__(_summary(failures, missing))
        self.failures = failures
        self.trouble = failures[-1].trouble if failures else None
        self.is_busy = any(one.is_busy for one in failures)
        self.is_stopping = missing is not None and missing.is_stopping
        self.retry_after_seconds = None if missing is None else missing.retry_after_seconds


class Dispatcher:
    """Connects sessions to replicas."""

    def __init__(
        self,
        placement: SessionPlacement,
        reports: OutcomeReports,
        traffic: Traffic,
    ) -> None:
        self._placement = placement
        self._reports = reports
        self._traffic = traffic

    async def deliver(
        self,
        key: str | None,
        attempt: Callable[[Slot], Awaitable[T]],
        *,
        exchange: Exchange,
        first: Slot | None = None,
        takes_slot: bool = True,
        on_position: OnPosition | None = None,
    ) -> T:
        """Run a session on a replica, by default with a slot; return what `attempt` returns.

        If there is no free slot, the session waits in the queue, for `queue_timeout_seconds` over all its attempts.

        Args:
            key: The session's name, by which it returns to its replica; `None` for a session without a name.
            attempt: Runs the session on the lease's replica. It raises `NotReached` if another replica may be tried.
            exchange: The session's request. It is told of replicas that do not take the session.
            first: What a session that needs no slot begins with, if it is chosen already.
            takes_slot: Whether the session needs a slot. Without one it never waits in the queue.
            on_position: Called with the session's position in the queue, and the queue's length. Must not block.

        Raises:
            Undeliverable: No replica took the session.
        """
        placement = self._placement
        tried: list[Any] = []
        busy: list[Any] = []
        failures: list[NotReached] = []
        missing: NoReplica | None = None
        cause = ""
        deadline = placement.deadline()
        while len(tried) < MOST_TRIES:
            try:
                if not placement.opening.is_open:
                    await placement.opened(deadline, takes_slot=takes_slot)
                slot: Slot = (
                    await placement.place(
                        key, exclude=tried, again_after=busy, deadline=deadline, on_position=on_position
                    )
                    if takes_slot
                    else self._choose(key, tried, first)
                )
            except NoReplica as reason:
                missing = reason
                break
            if cause:
                self._traffic.retries[cause] += 1
            try:
                return await attempt(slot)
            except NotReached as error:
                failure = error
            finally:
                if takes_slot:
                    await slot.release()
            tried.append(slot)
            cause = failure.cause
            # A session that a panic sent to an unhealthy replica gets the refusal that it would have had.
            if failure.trouble is not None or not slot.is_spare:
                failures.append(failure)
            exchange.note_not_taken(str(failure))
            self._note(slot.replica, failure, exchange.request_id, key)
            if failure.trouble is not None and failure.trouble.is_general:
                break
            if failure.is_busy and takes_slot and await self._may_ask_again(tried, deadline):
                tried, failures, busy = [], [], tried
        raise Undeliverable(failures, missing)

    def _choose(self, key: str | None, tried: Sequence[Slot], first: Slot | None) -> Slot:
        return first if first is not None and not tried else self._placement.choose(key, exclude=tried)

    async def _may_ask_again(self, tried: Sequence[Slot], deadline: float) -> bool:
        """Return whether a session may try the same replicas again, because they are busy and it may wait.

        It returns `True` after a pause.
        """
        left = deadline - asyncio.get_running_loop().time()
        if left <= 0 or (len(tried) < MOST_TRIES and self._placement.has_another(*(one.replica for one in tried))):
            return False
        await asyncio.sleep(min(BUSY_PAUSE_SECONDS, left))
        return True

    def _note(self, replica: Replica, failure: NotReached, request_id: bytes, key: str | None) -> None:
        self._traffic.failures[replica.key, failure.cause] += 1
        if failure.trouble is not None:
            self._reports.trouble(replica, failure.trouble)
            return
        level = logging.INFO if failure.is_busy else logging.WARNING
        text = "session: %s did not take the session: %s (request %s)"
        extra = {
            "replica": replica.url,
            "request_id": request_id.decode(),
            "session_digest": key and session_digest(key),
        }
        logger.log(level, text, replica.url, failure, request_id.decode(), extra=extra)
        if failure.is_evidence:
            self._reports.failure(replica, str(failure))


def _summary(failures: list[NotReached], missing: NoReplica | None) -> str:
    if missing is not None and missing.is_stopping:
        return "this router stops; connect again"
    if not failures and missing is not None and missing.is_saturated:
        return "every healthy replica is full; try again soon"
    if not failures and missing is not None and missing.is_redis_away:
        refusal = "refuses this router" if missing.is_locked_out else "is unavailable"
        return f"Redis {refusal}, and no slot can be given without it; try again soon"
    if failures and (trouble := failures[-1].trouble) is not None:
        return f"this router cannot connect to replicas now: {trouble}; try again soon"
    return _summary_of_failures(failures) if failures else "no healthy replica can take the session; try again soon"


def _summary_of_failures(failures: list[NotReached]) -> str:
    if all(one.is_busy for one in failures):
        return "every replica that was tried is busy; try again soon"
    tried = "the one replica" if len(failures) == 1 else f"none of {len(failures)} replicas"
    verb = "that was tried could not be reached" if len(failures) == 1 else "could be reached"
    return f"{tried} {verb}; try again soon"
