"""Looks at a registry from outside: joins no routers, registers no replicas, writes nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shared_registry.admin.check import Violation, find_violations
from shared_registry.admin.connection import Outsider
from shared_registry.errors import StoreError
from shared_registry.model import Event, Leader, ReplicaRecord, RouterRecord
from shared_registry.store.channel import bounded
from shared_registry.store.codec import milliseconds, parse_router
from shared_registry.store.lease_reader import Waiting
from shared_registry.store.reader import Gap, Head, Snapshot

SNAPSHOT_TRIES = 20
PAUSE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Overview:
    """A registry at one moment.

    Attributes:
        at: When, in seconds on the Redis server's clock.
        head: Which history, and how far it has come.
        leader: Who leads; `None` while nobody does.
        live_routers: How many routers have sent a heartbeat in time.
        waiting: How many sessions wait for a slot.
        replicas: All that are registered, in order.
        panic: Why routers spread sessions over all active replicas, as the leader declared it; empty while they do not.
        last_heartbeat_at: When any router last wrote that it lives; on a server that refuses writes it stays behind.
    """

    at: float
    head: Head
    leader: Leader | None
    live_routers: int
    waiting: int
    replicas: list[ReplicaRecord]
    panic: str = ""
    last_heartbeat_at: float | None = None


@dataclass(frozen=True, slots=True)
class RouterList:
    """The routers of a registry at one moment.

    Attributes:
        at: When, in seconds on the Redis server's clock.
        leader: Who leads; `None` while nobody does.
        routers: All that are listed, by key; also those that have expired and were not reaped yet.
    """

    at: float
    leader: Leader | None
    routers: list[RouterRecord]


@dataclass(frozen=True, slots=True)
class WaiterRecord:
    """A session that waits for a slot.

    Attributes:
        position: Counted from 1, over all routers.
        id: Of the lease that it will have.
        router: Key of the router where it waits.
        since: About when it came, in seconds on the Redis server's clock: no two in the queue have come at the same
            moment.
    """

    position: int
    id: str
    router: str
    since: float

    @property
    def session_digest(self) -> str | None:
        """The SHA-256 of the session's name, in hex; `None` where it has none."""
        return _digest_of(self.id)


@dataclass(frozen=True, slots=True)
class QueueList:
    """The queue of a registry at one moment.

    Attributes:
        at: When, in seconds on the Redis server's clock.
        depth: How many wait.
        waiters: The first of them, in order.
    """

    at: float
    depth: int
    waiters: list[WaiterRecord]


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """A session's hold on a slot.

    Attributes:
        id: Random; where the session was named, its digest follows a colon.
        router: Key of the router that holds it.
        key: Canonical url of the replica.
    """

    id: str
    router: str
    key: str

    @property
    def session_digest(self) -> str | None:
        """The SHA-256 of the session's name, in hex; `None` where it has none."""
        return _digest_of(self.id)


class Observer(Outsider):
    """`async with Observer(config) as observer: await observer.overview()`."""

    async def overview(self) -> Overview:
        """Return the state as of one revision; load, counters and routers are a little newer."""
        snapshot = await self._snapshot()
        now = await self._reader.server_time()
        async with bounded(self._timeout_seconds, failover=self._clients.failover):
            live = await self._clients.commands.zcount(self._keys.routers, f"({milliseconds(now)}", "+inf")
        waiting = await self._reader.queue_depth()
        replicas = sorted(snapshot.records.values(), key=lambda record: (record.endpoint.order or 0, record.key))
        panic = await self._reader.panic()
        last_heartbeat_at = await self._reader.last_heartbeat_at()
        return Overview(now, snapshot.head, snapshot.leader, live, waiting, replicas, panic, last_heartbeat_at)

    async def routers(self) -> RouterList:
        """Return the routers. One that leaves meanwhile is left out."""
        async with bounded(self._timeout_seconds, failover=self._clients.failover):
            listed = await self._clients.commands.zrange(self._keys.routers, 0, -1, withscores=True)
        found = []
        for key, expires_at_ms in sorted(listed):
            async with bounded(self._timeout_seconds, failover=self._clients.failover):
                fields = await self._clients.commands.hgetall(self._keys.router(key))
            if fields:
                found.append(parse_router(key, fields, expires_at_ms))
        return RouterList(await self._reader.server_time(), await self._reader.leader(), found)

    async def leases(self) -> list[LeaseRecord]:
        """Return all leases by router, replica and id; one that comes or goes meanwhile may be left out."""
        async with bounded(self._timeout_seconds, failover=self._clients.failover):
            routers = await self._clients.commands.zrange(self._keys.routers, 0, -1)
        found: dict[str, LeaseRecord] = {}
        for router in routers:
            async for page in self._reader.leases(router):
                found |= {lease_id: LeaseRecord(lease_id, router, key) for lease_id, key in page.items()}
        return sorted(found.values(), key=lambda lease: (lease.router, lease.key, lease.id))

    async def queue(self, count: int) -> QueueList:
        """Return the queue, and up to that many of those in it, first come first.

        Read in pieces: who comes or goes meanwhile may be left out, and who stands behind be shown a place off.
        """
        depth = await self._reader.queue_depth()
        found: list[Waiting] = []
        async with contextlib.aclosing(self._reader.waiters()) as pages:
            while len(found) < count and (page := await anext(pages, None)) is not None:
                found += page
        first = [
            WaiterRecord(position, one.lease_id, one.router, one.sequence / 1000)
            for position, one in enumerate(found[:count], 1)
        ]
        return QueueList(await self._reader.server_time(), max(depth, len(first)), first)

    async def ready_count(self) -> int:
        """Return how many replicas may take a session now: healthy, active and below their capacity."""
        async with bounded(self._timeout_seconds, failover=self._clients.failover):
            primaries = await self._clients.commands.zcard(self._keys.ready_primary)
            secondaries = await self._clients.commands.zcard(self._keys.ready_secondary)
        return int(primaries + secondaries)

    async def head(self) -> Head:
        """Return which history there is, and how far it has come."""
        return await self._reader.head()

    async def last_events(self, count: int) -> list[Event]:
        """Return up to that many of the latest events, oldest first."""
        return await self._reader.last_events(count)

    async def events(self, *, after: str, count: int) -> list[Event]:
        """Return up to that many events that follow a revision, oldest first."""
        return await self._reader.events(after=after, count=count)

    async def wait_events(self, *, after: str, seconds: float) -> list[Event]:
        """Return the events that follow a revision, waiting up to that long for the first."""
        return await self._reader.wait_events(after=after, seconds=seconds)

    async def check(self) -> list[Violation]:
        """Return which invariants of the namespace do not hold; all do where the list is empty."""
        return await find_violations(self._reader, self._keys)

    async def ask(self, words: Sequence[str]) -> Any:
        """Return what Redis answers to one command that only reads, as redis-py understands it."""
        async with bounded(self._timeout_seconds, failover=self._clients.failover):
            return await self._clients.commands.execute_command(*words)

    async def _snapshot(self) -> Snapshot:
        for _ in range(SNAPSHOT_TRIES):
            try:
                return await self._reader.snapshot()
            except Gap:
                await asyncio.sleep(PAUSE_SECONDS)
        raise StoreError("the event stream does not lead to the current revision; run `shared-registry check`")


def _digest_of(lease_id: str) -> str | None:
    return lease_id.partition(":")[2] or None
