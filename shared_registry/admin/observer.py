"""Reads the state of a registry from outside: joins no routers, registers no replicas, writes nothing."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from shared_registry.admin.connection import Outsider
from shared_registry.admin.fleet_reads import FleetReads, session_digest_of
from shared_registry.admin.vacancy import Vacancy, vacancy_of
from shared_registry.errors import KeyConflict, StoreError
from shared_registry.model import Event, Leader, Plan, ReplicaRecord
from shared_registry.store.channel import bounded
from shared_registry.store.codec import milliseconds
from shared_registry.store.reader import Gap, Head, Snapshot, Tombstone

SNAPSHOT_TRIES = 20
PAUSE_SECONDS = 0.05
EVENTS_SEARCHED = 1000
"""How many of the latest events are searched for the end of the last term."""
NAMES_AT_ONCE = 500
NO_VACANCY = Vacancy()
_ASKED_AT = re.compile(r"[0-9a-f]{20}-([0-9a-f]{11})(?![0-9a-f])")
"""The beginning of a lease id; see `leases.ledger.new_lease_id`."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Overview:
    """A registry at one moment.

    Attributes:
        at: The time of the moment, in seconds on the Redis server's clock.
        head: The history and its latest revision.
        leader: The leader; `None` while there is none.
        live_routers: How many routers have sent a heartbeat in time.
        waiting: How many sessions wait for a slot.
        replicas: All registered replicas, in order.
        panic: Why sessions may use replicas that are not healthy, as the leader declared it; empty without panic.
        trouble: Why routers cannot connect to replicas for reasons of their own, by router; see `RouterInfo.trouble`.
        last_heartbeat_at: When Redis last accepted a heartbeat of any router. On a server that refuses writes this time
            does not advance.
        plan: How routers share the probing; `None` if the leader probes all replicas.
        vacancy: Since when there is no leader, and why; empty while there is one.
        first_waits_since: About when the first session in the queue joined it; `None` if none waits.
    """

    at: float
    head: Head
    leader: Leader | None
    live_routers: int
    waiting: int
    replicas: list[ReplicaRecord]
    panic: str = ""
    last_heartbeat_at: float | None = None
    trouble: Mapping[str, str] = field(default_factory=dict)
    plan: Plan | None = None
    vacancy: Vacancy = NO_VACANCY
    first_waits_since: float | None = None


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """A session's hold on a slot.

    Attributes:
        id: The lease id: random, and followed by a colon and the digest of the session's name if it has one.
        router: Key of the router that holds the lease.
        key: Canonical url of the replica.
        name: The replica's name; empty if it has none, or is not known any more.
    """

    id: str
    router: str
    key: str
    name: str = ""

    @property
    def asked_at(self) -> float | None:
        """When the session asked for a slot, in seconds since the epoch on its router's clock.

        `None` if the router is of a version whose lease ids do not have the time.
        """
        found = _ASKED_AT.match(self.id)
        return None if found is None else int(found[1], 16) / 1000

    @property
    def session_digest(self) -> str | None:
        """The SHA-256 of the session's name, in hex; `None` where it has none."""
        return session_digest_of(self.id)


@dataclass(frozen=True, slots=True)
class LeaseList:
    """The leases of a registry at one moment.

    Attributes:
        at: The time of the moment, in seconds on the Redis server's clock.
        leases: The leases, sorted by router, replica and id.
    """

    at: float
    leases: list[LeaseRecord]


@dataclass(frozen=True, slots=True)
class RemovalList:
    """The replicas that operators removed and that nobody has added again.

    Attributes:
        at: The time of the moment, in seconds on the Redis server's clock.
        removed: The removed replicas, the earliest removal first.
    """

    at: float
    removed: list[Tombstone]


class Observer(Outsider, FleetReads):
    """`async with Observer(config) as observer: await observer.overview()`."""

    async def overview(self) -> Overview:
        """Return the state as of one revision. Loads, counters and routers may be slightly newer."""
        snapshot = await self._snapshot()
        now = await self._reader.server_time()
        async with bounded(self._timeout_seconds, failover=self._clients.failover):
            live = await self._clients.commands.zrangebyscore(self._keys.routers, f"({milliseconds(now)}", "+inf")
        waiting = await self._reader.queue_depth()
        replicas = sorted(snapshot.records.values(), key=lambda record: (record.endpoint.order or 0, record.key))
        panic = await self._reader.panic()
        last_heartbeat_at = await self._reader.last_heartbeat_at()
        return Overview(
            now,
            snapshot.head,
            snapshot.leader,
            len(live),
            waiting,
            replicas,
            panic,
            last_heartbeat_at,
            await self._trouble_of(live),
            snapshot.plan,
            NO_VACANCY if snapshot.leader else await self._vacancy(now),
            await self._first_waits_since() if waiting else None,
        )

    async def _vacancy(self, now: float) -> Vacancy:
        routers = await self.routers()
        return vacancy_of(await self._reader.last_events(EVENTS_SEARCHED), routers.routers, now)

    async def _first_waits_since(self) -> float | None:
        first = (await self.queue(1)).waiters
        return first[0].since if first else None

    async def _trouble_of(self, routers: Sequence[str]) -> dict[str, str]:
        async with bounded(self._timeout_seconds, failover=self._clients.failover):
            pipeline = self._clients.commands.pipeline(transaction=False)
            for router in routers:
                pipeline.hget(self._keys.router(router), "trouble")
            reasons = await pipeline.execute(raise_on_error=False)  # a damaged record is reported by `check`
        return {router: text for router, text in zip(routers, reasons, strict=True) if isinstance(text, str) and text}

    async def removals(self) -> RemovalList:
        """Return the replicas that were removed. One that is added again during the call is left out."""
        tombstones = await self._reader.tombstones(await self._reader.removed())
        return RemovalList(await self._reader.server_time(), tombstones)

    async def leases(self) -> LeaseList:
        """Return all leases.

        A lease that begins or ends during the call may be left out.
        """
        async with bounded(self._timeout_seconds, failover=self._clients.failover):
            routers = await self._clients.commands.zrange(self._keys.routers, 0, -1)
        found: dict[str, LeaseRecord] = {}
        for router in routers:
            try:
                async for page in self._reader.leases(router):
                    found |= {lease_id: LeaseRecord(lease_id, router, key) for lease_id, key in page.items()}
            except KeyConflict as error:
                text = "redis: the leases of %s are left out: %s"
                logger.warning(text, router, error, extra={"router": router})
        leases = sorted(found.values(), key=lambda lease: (lease.router, lease.key, lease.id))
        names = await self._names_of(sorted({lease.key for lease in leases}))
        named = [replace(lease, name=names.get(lease.key, "")) for lease in leases]
        return LeaseList(await self._reader.server_time(), named)

    async def _names_of(self, urls: Sequence[str]) -> dict[str, str]:
        names: dict[str, str] = {}
        for at in range(0, len(urls), NAMES_AT_ONCE):
            chunk = urls[at : at + NAMES_AT_ONCE]
            async with bounded(self._timeout_seconds, failover=self._clients.failover):
                pipeline = self._clients.commands.pipeline(transaction=False)
                for url in chunk:
                    pipeline.hget(self._keys.replica(url), "name")
                replies = await pipeline.execute(raise_on_error=False)  # a damaged hash is reported by `check`
            names |= {url: name for url, name in zip(chunk, replies, strict=True) if isinstance(name, str)}
        return names

    async def ready_count(self) -> int:
        """Return how many replicas may take a session now: healthy, active and below their capacity."""
        async with bounded(self._timeout_seconds, failover=self._clients.failover):
            primaries = await self._clients.commands.zcard(self._keys.ready_primary)
            secondaries = await self._clients.commands.zcard(self._keys.ready_secondary)
        return int(primaries + secondaries)

    async def server_time(self) -> float:
        """Return the Redis server's clock, in seconds since the epoch."""
        return await self._reader.server_time()

    async def last_events(self, count: int) -> list[Event]:
        """Return up to that many of the latest events, oldest first."""
        return await self._reader.last_events(count)

    async def events(self, *, after: str, count: int) -> list[Event]:
        """Return up to that many events that follow a revision, oldest first."""
        return await self._reader.events(after=after, count=count)

    async def wait_events(self, *, after: str, seconds: float) -> list[Event]:
        """Return the events that follow a revision, waiting up to that long for the first."""
        return await self._reader.wait_events(after=after, seconds=seconds)

    async def ask(self, arguments: Sequence[str]) -> Any:
        """Return Redis' reply to one read-only command, as redis-py parses it."""
        async with bounded(self._timeout_seconds, failover=self._clients.failover):
            return await self._clients.commands.execute_command(*arguments)

    async def _snapshot(self) -> Snapshot:
        for _ in range(SNAPSHOT_TRIES):
            try:
                return await self._reader.snapshot()
            except Gap:
                await asyncio.sleep(PAUSE_SECONDS)
        raise StoreError("the event stream does not lead to the current revision; run `shared-registry check`")
