"""Looks at a registry from outside: joins no routers, registers no replicas, writes nothing."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from shared_registry import client
from shared_registry.check import Violation, find_violations
from shared_registry.config import RouterConfig
from shared_registry.errors import StoreError
from shared_registry.keys import Keys
from shared_registry.model import Leader, ReplicaRecord
from shared_registry.reader import Gap, Head, Reader, Snapshot
from shared_registry.wire import milliseconds

SNAPSHOT_TRIES = 20
PAUSE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Overview:
    """A registry at one moment.

    Attributes:
        at: When, in seconds on the Redis server's clock.
        head: Which history, and how far it has come.
        leader: Who leads; `None` while nobody does.
        live_routers: How many routers have beaten in time.
        replicas: All that are registered, in order.
    """

    at: float
    head: Head
    leader: Leader | None
    live_routers: int
    replicas: list[ReplicaRecord]


class Observer:
    """`async with Observer(config) as observer: await observer.overview()`; of the config only Redis matters.

    All methods raise `StoreUnavailable` when Redis does not answer in time, and `KeyConflict` for what they cannot
    parse.
    """

    def __init__(self, config: RouterConfig) -> None:
        """Set up; nothing connects before `async with`."""
        self._timeout_seconds = config.redis_timeout_seconds
        self._keys = Keys(config.namespace)
        self._clients = client.connect(
            config.redis_url, timeout_seconds=self._timeout_seconds, block_seconds=config.refresh_seconds
        )
        self._reader = Reader(self._clients, self._keys, timeout_seconds=self._timeout_seconds)

    async def __aenter__(self) -> Self:
        """Connect, and refuse a server that the registry cannot work on."""
        try:
            await client.verify_server(self._clients.commands, timeout_seconds=self._timeout_seconds)
        except BaseException:
            await self._clients.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect."""
        await self._clients.close()

    async def overview(self) -> Overview:
        """Return the state as of one revision; load, counters and routers are a little newer."""
        snapshot = await self._snapshot()
        now = await self._reader.server_time()
        async with client.bounded(self._timeout_seconds):
            live = await self._clients.commands.zcount(self._keys.routers, f"({milliseconds(now)}", "+inf")
        replicas = sorted(snapshot.records.values(), key=lambda record: (record.endpoint.order or 0, record.key))
        return Overview(now, snapshot.head, snapshot.leader, live, replicas)

    async def check(self) -> list[Violation]:
        """Return which invariants of the namespace do not hold; all do where the list is empty."""
        return await find_violations(self._reader, self._keys)

    async def _snapshot(self) -> Snapshot:
        for _ in range(SNAPSHOT_TRIES):
            try:
                return await self._reader.snapshot()
            except Gap:
                await asyncio.sleep(PAUSE_SECONDS)
        raise StoreError("the event feed does not lead to the current revision; run `shared-registry check`")
