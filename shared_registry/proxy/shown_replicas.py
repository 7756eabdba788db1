"""The replicas of `/status` as JSON. What has not changed since the last request is not written again.

A router of thousands of replicas is asked by several programs every few seconds, and little changes in between.
"""

from __future__ import annotations

import asyncio

from shared_registry.aio.breath import Breath
from shared_registry.model import Plan, ReplicaRecord
from shared_registry.proxy.answers import as_json
from shared_registry.registry.facade import SharedReplicaRegistry
from shared_registry.store.replica_fields import Document, ReplicaDocument

THE_ORIGINALS = ("url", "primary", "status", "last_ok_at", "last_latency_ms", "consecutive_failures")
"""The fields of a replica in the `/status` of FastVideo's router, in its order."""
AT_ONCE = 16
"""How many replicas are written in one go. An encoder costs as much as a replica, so that several share one."""
PIECES_AT_ONCE = 16
"""How many of these are sent in one piece. To send a piece costs as much as to write some replicas."""
KEPT_SECONDS = 30.0
"""How long the text is kept that nobody asks for: some 0.6 kB for each replica."""
_REPLICA = ReplicaDocument(Document.STATUS, first=THE_ORIGINALS)


class ShownReplicas:
    """Writes the replicas of one registry. Only one `pieces` at a time."""

    def __init__(self, registry: SharedReplicaRegistry) -> None:
        """Write nothing yet."""
        self._registry = registry
        self._plan: Plan | None = None
        self._written: list[tuple[tuple[ReplicaRecord, ...], bytes]] = []
        self._drop: asyncio.TimerHandle | None = None

    async def pieces(self) -> list[bytes]:
        """Return the replicas as JSON, in pieces. Times are on the Redis server's clock.

        Each has the fields of FastVideo's router first, then the additional ones. With thousands of replicas this gives
        way to other tasks in between, so that replicas may be of slightly different times.
        """
        self._keep()
        if self._plan is not self._registry.plan:
            self._plan, self._written = self._registry.plan, []
        breath, plan, written = Breath(), self._plan, self._written
        records = [replica.record for replica in self._registry.all()]
        del written[-(-len(records) // AT_ONCE) :]
        for number, at in enumerate(range(0, len(records), AT_ONCE)):
            some = tuple(records[at : at + AT_ONCE])
            if number == len(written):
                written.append((some, _text(some, plan, is_first=not at)))
            elif written[number][0] != some:
                written[number] = some, _text(some, plan, is_first=not at)
            await breath.pause()
        texts, pieces = [text for _, text in written], []
        for at in range(0, len(texts), PIECES_AT_ONCE):
            pieces.append(b"".join(texts[at : at + PIECES_AT_ONCE]))
            await breath.pause()
        return pieces

    def _keep(self) -> None:
        """Keep what is written for some time from now on."""
        if self._drop is not None:
            self._drop.cancel()
        self._drop = asyncio.get_running_loop().call_later(KEPT_SECONDS, self._forget)

    def _forget(self) -> None:
        self._written = []


def _text(records: tuple[ReplicaRecord, ...], plan: Plan | None, *, is_first: bool) -> bytes:
    text = as_json([_REPLICA.of(record, plan) for record in records])[1:-1]
    return (text if is_first else f",{text}").encode()
