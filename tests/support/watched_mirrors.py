"""Registries whose mirrors are watched at every step, for what must never be seen, whatever the faults."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence

from shared_registry import Event, RouterConfig, SharedReplicaRegistry
from shared_registry.model import ReplicaRecord, is_later
from shared_registry.store.keys import Keys
from shared_registry.store.reader import Reader


class Watched:
    """A registry, and what its view went through.

    Attributes:
        backward_steps: Replicas whose revision fell within one history: must stay empty.
    """

    def __init__(self, registry: SharedReplicaRegistry) -> None:
        self.registry = registry
        self.backward_steps: list[str] = []
        self.longest_select_seconds = 0.0
        self._history_id = registry.history_id
        self._revisions: dict[str, str] = {}

    def compare(self, _events: Sequence[Event] = ()) -> None:
        """Compare with the last look."""
        if self.registry.history_id != self._history_id:
            self._history_id = self.registry.history_id
            self._revisions.clear()
        for replica in self.registry.all():
            before = self._revisions.get(replica.key, "0-0")
            if is_later(before, replica.record.revision):
                self.backward_steps.append(f"{replica.key}: {replica.record.revision} after {before}")
            self._revisions[replica.key] = replica.record.revision

    async def select_often(self) -> None:
        """Select every millisecond until cancelled; whatever it raises ends the test."""
        while True:
            started = time.perf_counter()
            self.registry.select()
            self.longest_select_seconds = max(self.longest_select_seconds, time.perf_counter() - started)
            self.compare()
            await asyncio.sleep(0.001)

    def shows(self) -> dict[str, object]:
        return {replica.key: routing_state(replica.record) for replica in self.registry.all()}


def routing_state(record: ReplicaRecord) -> object:
    """Return what routing depends on."""
    return (
        record.endpoint,
        record.health.status,
        record.admin,
        record.admin_reason,
        record.incarnation,
        record.source,
        record.revision,
    )


@contextlib.asynccontextmanager
async def watched(config: RouterConfig) -> AsyncIterator[Watched]:
    """Run a registry under watch; its selecting ends with it."""
    async with SharedReplicaRegistry(config, health_checks=False) as registry:
        one = Watched(registry)
        with registry._mirror.subscribed(one.compare):
            task = asyncio.create_task(one.select_often())
            try:
                yield one
            finally:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task


async def truth(registry: SharedReplicaRegistry, namespace: str) -> dict[str, object]:
    """Return what Redis holds, read without any mirror."""
    reader = Reader(registry._clients, Keys(namespace), timeout_seconds=5.0)
    records = await reader.records(await reader.urls())
    return {key: routing_state(record) for key, record in records.items()}
