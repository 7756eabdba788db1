"""Reports the outcomes of connecting to replicas to the registry, without making sessions wait for Redis."""

from __future__ import annotations

import asyncio

from shared_registry.model import Replica
from shared_registry.probing.own_trouble import OwnTrouble
from shared_registry.registry.facade import SharedReplicaRegistry

LONGEST_QUEUE = 1000
"""The most outcomes that wait to be reported. Further ones are dropped, because they would add nothing new."""


class OutcomeReports:
    """A queue of outcomes, and the task that reports them one after the other."""

    def __init__(self, registry: SharedReplicaRegistry) -> None:
        self._registry = registry
        self._failed: set[str] = set()
        self._queue: asyncio.Queue[tuple[Replica, bool, str | OwnTrouble]] = asyncio.Queue(LONGEST_QUEUE)

    def failure(self, replica: Replica, reason: str) -> None:
        """Queue the report of a failure."""
        self._failed.add(replica.key)
        self._add(replica, ok=False, reason=reason)

    def success(self, replica: Replica) -> None:
        """Queue the report of a success, if the replica had a reported failure or this router is in trouble itself.

        Other successes change nothing, and are not reported.
        """
        if replica.key in self._failed or self._registry.is_in_trouble:
            self._failed.discard(replica.key)
            self._add(replica, ok=True, reason="")

    def trouble(self, replica: Replica, trouble: OwnTrouble) -> None:
        """Queue the report of this router's own trouble with connecting; it is no failure of the replica."""
        self._add(replica, ok=False, reason=trouble)

    async def run(self) -> None:
        """Report the queued outcomes one after the other until cancelled."""
        while True:
            replica, ok, reason = await self._queue.get()
            await self._registry.report_outcome(replica, ok, reason)

    def _add(self, replica: Replica, *, ok: bool, reason: str | OwnTrouble) -> None:
        if not self._queue.full():
            self._queue.put_nowait((replica, ok, reason))
