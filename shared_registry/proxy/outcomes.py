"""Reports the outcomes of sessions to the registry, without making sessions wait for Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple

from shared_registry.model import Replica
from shared_registry.probing.own_trouble import OwnTrouble
from shared_registry.registry.facade import SharedReplicaRegistry

if TYPE_CHECKING:
    from shared_registry.proxy.traffic import Traffic

LONGEST_QUEUE = 1000
"""The most outcomes that wait to be reported. Further ones are dropped, because they would add nothing new."""


BUSY = frozenset({429, 503})
"""Statuses that mean "busy", which is no failure: of a WebSocket handshake, another replica is tried."""
NO_FAILURES: Collection[int] = BUSY | {501, 505}
"""Statuses that are no failure of the replica: it is busy, or cannot do what the request asks for."""


class _Outcome(NamedTuple):
    replica: Replica
    failure: str | OwnTrouble | None = None
    is_connected: bool = False
    client: str = ""


class OutcomeReports:
    """A queue of outcomes, and the task that reports them one after the other."""

    def __init__(self, registry: SharedReplicaRegistry, traffic: Traffic) -> None:
        """Create the queue.

        Args:
            registry: Takes the reports.
            traffic: Counts the failures of connected sessions.
        """
        self._registry = registry
        self._traffic = traffic
        self._failed: set[str] = set()
        self._queue: asyncio.Queue[_Outcome] = asyncio.Queue(LONGEST_QUEUE)

    def failure(self, replica: Replica, reason: str) -> None:
        """Queue the report that a session could not be connected."""
        self._failed.add(replica.key)
        self._add(_Outcome(replica, reason))

    def success(self, replica: Replica) -> None:
        """Queue the report that a session was connected, if a failure was reported or this router is in trouble itself.

        Other successes change nothing, and are not reported.
        """
        if replica.record.key in self._failed or self._registry.counts_success(replica):
            self._failed.discard(replica.key)
            self._add(_Outcome(replica))

    def trouble(self, replica: Replica, trouble: OwnTrouble) -> None:
        """Queue the report of this router's own trouble with connecting; it is no failure of the replica."""
        self._add(_Outcome(replica, trouble))

    def broken(self, replica: Replica, reason: str, *, client: str, cause: str = "broken") -> None:
        """Queue the report that a connected session failed because of the replica; count it under its cause."""
        self._traffic.failures[replica.key, cause] += 1
        self._add(_Outcome(replica, reason, is_connected=True, client=client))

    def completed(self, replica: Replica) -> None:
        """Queue the report that a connected session ended well, if that changes anything."""
        if self._registry.counts_success(replica):
            self._add(_Outcome(replica, is_connected=True))

    def responded(self, replica: Replica, status: int, *, client: str) -> None:
        """Queue the report of a complete response with this status, if it changes anything."""
        if status >= 500 and status not in NO_FAILURES:
            self.broken(replica, f"HTTP {status}", client=client, cause="status")
        elif status not in BUSY and self._registry.counts_success(replica):
            self._add(_Outcome(replica, is_connected=True))

    async def run(self) -> None:
        """Report the queued outcomes one after the other until cancelled."""
        while True:
            one = await self._queue.get()
            await self._registry.report_outcome(
                one.replica, one.failure is None, one.failure or "", is_connected=one.is_connected, client=one.client
            )

    def _add(self, outcome: _Outcome) -> None:
        if not self._queue.full():
            self._queue.put_nowait(outcome)


def client_of(address: str | None, key: str | None) -> str:
    """Return a text that names a session's client: the session's name, or the address from which it comes."""
    return f"session {key}" if key is not None else address or ""
