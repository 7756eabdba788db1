"""Tells the registry of replicas that could not be reached, without making sessions wait for Redis."""

from __future__ import annotations

import asyncio

from shared_registry.model import Replica
from shared_registry.registry import SharedReplicaRegistry

LONGEST_QUEUE = 1000
"""Beyond it outcomes are dropped: of a replica that so many sessions failed on, the rest says nothing new."""


class FailureReports:
    """A queue of failures, and the task that reports them one after the other."""

    def __init__(self, registry: SharedReplicaRegistry) -> None:
        self._registry = registry
        self._queue: asyncio.Queue[tuple[Replica, str]] = asyncio.Queue(LONGEST_QUEUE)

    def add(self, replica: Replica, reason: str) -> None:
        """Have a failure reported soon."""
        if not self._queue.full():
            self._queue.put_nowait((replica, reason))

    async def run(self) -> None:
        """Report until cancelled."""
        threshold = self._registry.config.failure_threshold
        while True:
            replica, reason = await self._queue.get()
            await self._registry.record_failure(replica, failure_threshold=threshold, reason=reason)
