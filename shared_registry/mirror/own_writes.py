"""Writes that their writer reads: commands whose effects this router's mirror shows before they return."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shared_registry.errors import UnknownReplica
from shared_registry.mirror.mirror import Mirror
from shared_registry.model import (
    AdminState,
    Event,
    ProbeResult,
    Replica,
    ReplicaEndpoint,
    ReplicaRecord,
    Source,
    Term,
    Thresholds,
)
from shared_registry.store.commands import Store, new_token
from shared_registry.store.reader import Reader
from shared_registry.store.replies import Report
from shared_registry.urls import canonical_url


class SharedState:
    """The store and the mirror of one router, acting as one.

    Every method that writes raises `StoreUnavailable` when Redis does not answer in time; the change may or may not
    have been made then, and the event stream brings it if it was.
    """

    def __init__(self, store: Store, reader: Reader, mirror: Mirror) -> None:
        self._store = store
        self._reader = reader
        self._mirror = mirror

    def probed(self) -> Iterable[ReplicaRecord]:
        """Return the records of all replicas as known now."""
        return [replica.record for replica in self._mirror.view.all()]

    def record(self, key: str) -> ReplicaRecord | None:
        """Return one replica's record as known now; `None` if it is gone."""
        replica = self._mirror.view.get(key)
        return replica.record if replica else None

    async def read_probe_times(self) -> float:
        """Read again when each replica was probed, and return the server's time."""
        await self._mirror.refresh(at_once=True)
        return await self._reader.server_time()

    async def register(self, endpoint: ReplicaEndpoint, *, mode: Source, by: str = "") -> Replica | None:
        """Register a validated endpoint or change its spec; return its handle.

        `None` where a seed yields to a removal.
        """
        key = canonical_url(endpoint.url)
        generation = self._mirror.generation
        events = await self._store.register(key, endpoint, mode=mode, request=new_token(), by=by)
        self._mirror.apply_reply(events, generation)
        return self._mirror.view.get(key)

    async def deregister(self, key: str, *, by: str, reason: str, when_drained: bool = False) -> None:
        """Remove a replica, at once or with the last session on it.

        Raises:
            UnknownReplica: It is not registered.
        """
        generation = self._mirror.generation
        events = await self._store.deregister(
            key, await self._incarnation(key), by=by, reason=reason, when_drained=when_drained
        )
        self._took(events, generation, key)

    async def set_admin(self, key: str, state: AdminState, *, by: str, reason: str) -> None:
        """Set the operator's word on a replica.

        Raises:
            UnknownReplica: It is not registered.
        """
        generation = self._mirror.generation
        self._took(await self._store.set_admin(key, state, by=by, reason=reason), generation, key)

    async def record_outcome(self, result: ProbeResult, thresholds: Thresholds, *, is_passive: bool = False) -> None:
        """Count one outcome that this router saw. Not repeated if its reply is lost."""
        generation = self._mirror.generation
        events = await self._store.record_outcome(result, thresholds, is_passive=is_passive)
        self._mirror.apply_reply(events, generation)

    async def report(self, term: Term, batch: int, results: Sequence[ProbeResult], thresholds: Thresholds) -> Report:
        """Apply a batch of the leader's results.

        Raises:
            Fenced: It is not the leader's term any more.
        """
        generation = self._mirror.generation
        report = await self._store.report(term, batch, results, thresholds)
        self._mirror.apply_reply(report.events, generation)
        return report

    async def _incarnation(self, key: str) -> str:
        """Return a replica's incarnation, asking Redis where the mirror has not heard of it yet."""
        record = self.record(key) or (await self._reader.records([key])).get(key)
        if record is None:
            raise UnknownReplica(f"no replica {key} is registered")
        return record.incarnation

    def _took(self, events: list[Event] | None, generation: int, key: str) -> None:
        if events is None:
            raise UnknownReplica(f"no replica {key} is registered")
        self._mirror.apply_reply(events, generation)
