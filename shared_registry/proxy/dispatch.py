"""From a session to a connected replica: choose one, and where it cannot be reached, the next."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Generic, TypeVar

from shared_registry.leases import Lease, OnPosition
from shared_registry.model import Replica
from shared_registry.probing.own_trouble import OwnTrouble
from shared_registry.proxy.descriptors import Descriptors
from shared_registry.proxy.outcomes import OutcomeReports
from shared_registry.proxy.placement import NoReplica, SessionPlacement

MOST_TRIES = 5
"""Replicas that one session tries: enough to get past a rack that just went down, and an end to a client's waiting."""

T = TypeVar("T")
logger = logging.getLogger(__name__)


class NotReached(Exception):
    """A replica did not take a session; nothing of the session has reached it, so that another one may be tried.

    Attributes:
        is_evidence: Whether it speaks against the replica's health. That it is busy does not.
        is_timeout: Whether it stayed silent.
        trouble: What kept this router from asking it: nothing that speaks against the replica.
    """

    def __init__(
        self, reason: str, *, is_evidence: bool = True, is_timeout: bool = False, trouble: OwnTrouble | None = None
    ) -> None:
        super().__init__(reason)
        self.is_evidence = is_evidence
        self.is_timeout = is_timeout
        self.trouble = trouble


class Undeliverable(Exception):
    """No replica took the session.

    Attributes:
        failures: What became of those that were tried; empty where there was none to try.
        is_stopping: Whether it waited for one, or would have to, and this router stops.
        trouble: What kept this router from asking the last replica that it tried.
        retry_after_seconds: When there may be one again; `None` where nobody knows.
    """

    def __init__(self, failures: list[NotReached], missing: NoReplica | None) -> None:
        super().__init__(_summary(failures, missing))
        self.failures = failures
        self.trouble = failures[-1].trouble if failures else None
        self.is_stopping = missing is not None and missing.is_stopping
        self.retry_after_seconds = None if missing is None else missing.retry_after_seconds


@dataclass(frozen=True, slots=True)
class Placed(Generic[T]):
    """A session's slot, and the connection to its replica."""

    lease: Lease
    connection: T


class Dispatcher:
    """Finds replicas for sessions, and knows how many sessions have one."""

    def __init__(self, placement: SessionPlacement, reports: OutcomeReports, descriptors: Descriptors) -> None:
        self._placement = placement
        self._descriptors = descriptors
        self._reports = reports
        self._live = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def live_sessions(self) -> int:
        """Sessions under way here, HTTP requests among them."""
        return self._live

    async def until_idle(self) -> None:
        """Wait until no session is under way."""
        await self._idle.wait()

    @contextlib.asynccontextmanager
    async def connected(
        self,
        key: str | None,
        dial: Callable[[Replica], AbstractAsyncContextManager[T]],
        *,
        on_position: OnPosition | None = None,
    ) -> AsyncIterator[Placed[T]]:
        """Hold a slot on a replica and a connection to it, made by `dial`, for as long as the session lasts.

        Where there is no slot the session waits for one, for `queue_timeout_seconds` over all that it tries.

        Args:
            key: By which the session is recognized when it comes again; `None` for one that is not.
            dial: Connects to one replica; raises `NotReached` where another one may be tried.
            on_position: Told where the session stands in the queue, and how long the line is. Must not block.

        Raises:
            Undeliverable: None could be reached.
        """
        with self._counted():
            self._descriptors.begin_session(self._live)
            tried: list[Replica] = []
            failures: list[NotReached] = []
            missing: NoReplica | None = None
            deadline = self._placement.deadline()
            while len(tried) < MOST_TRIES:
                async with contextlib.AsyncExitStack() as stack:
                    try:
                        slot = self._placement.place(key, exclude=tried, deadline=deadline, on_position=on_position)
                        lease = await stack.enter_async_context(slot)
                        connection = await stack.enter_async_context(dial(lease.replica))
                    except NoReplica as reason:
                        missing = reason
                        break
                    except NotReached as failure:
                        tried.append(lease.replica)
                        failures.append(failure)
                        self._note(lease.replica, failure)
                        if failure.trouble is not None and failure.trouble.is_general:
                            break
                        continue
                    self._reports.success(lease.replica)
                    yield Placed(lease, connection)
                    return
            raise Undeliverable(failures, missing)

    def _note(self, replica: Replica, failure: NotReached) -> None:
        if failure.trouble is not None:
            self._reports.trouble(replica, failure.trouble)
            return
        logger.warning("session: %s did not take it: %s", replica.url, failure)
        if failure.is_evidence:
            self._reports.failure(replica, str(failure))

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        self._live += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._live -= 1
            if not self._live:
                self._idle.set()


def _summary(failures: list[NotReached], missing: NoReplica | None) -> str:
    if missing is not None and missing.is_stopping:
        return "this router stops; connect again"
    if not failures and missing is not None and missing.is_saturated:
        return "every healthy replica is full; try again soon"
    if failures and (trouble := failures[-1].trouble) is not None:
        return f"this router cannot connect to replicas now: {trouble}; try again soon"
    if not failures:
        return "no healthy replica can take the session; try again soon"
    tried = "the one replica" if len(failures) == 1 else f"none of {len(failures)} replicas"
    verb = "that was tried could not be reached" if len(failures) == 1 else "could be reached"
    return f"{tried} {verb}; try again soon"
