"""Tells the registry how connecting to replicas went, without making sessions wait for Redis."""

from __future__ import annotations

import asyncio

from shared_registry.model import Replica
from shared_registry.probing.own_trouble import OwnTrouble
from shared_registry.registry.facade import SharedReplicaRegistry

LONGEST_QUEUE = 1000
"""Beyond it outcomes are dropped: of a replica that so many sessions failed on, the rest says nothing new."""


class OutcomeReports:
    """A queue of outcomes, and the task that reports them one after the other."""

    def __init__(self, registry: SharedReplicaRegistry) -> None:
        self._registry = registry
        self._failed: set[str] = set()
        self._queue: asyncio.Queue[tuple[Replica, bool, str | OwnTrouble]] = asyncio.Queue(LONGEST_QUEUE)

    def failure(self, replica: Replica, reason: str) -> None:
        """Have a failure reported soon."""
        self._failed.add(replica.key)
        self._add(replica, ok=False, reason=reason)

    def success(self, replica: Replica) -> None:
        """Have a success reported soon, where it takes back failures or may end this router's trouble."""
        if replica.key in self._failed or self._registry.is_in_trouble:
            self._failed.discard(replica.key)
            self._add(replica, ok=True, reason="")

    def trouble(self, replica: Replica, trouble: OwnTrouble) -> None:
        """Have it told soon that this router could not connect, which the registry holds against no replica."""
        self._add(replica, ok=False, reason=trouble)

    async def run(self) -> None:
        """Report until cancelled."""
        while True:
            replica, ok, reason = await self._queue.get()
            await self._registry.report_outcome(replica, ok, reason)

    def _add(self, replica: Replica, *, ok: bool, reason: str | OwnTrouble) -> None:
        if not self._queue.full():
            self._queue.put_nowait((replica, ok, reason))
