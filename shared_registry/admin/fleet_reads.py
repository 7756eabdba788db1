"""Reads the routers and the queue of a namespace, for operators: from outside, or over the connections of a router."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shared_registry.errors import KeyConflict
from shared_registry.model import Leader, Plan, RouterRecord
from shared_registry.store.channel import bounded
from shared_registry.store.client import Clients
from shared_registry.store.codec import parse_router
from shared_registry.store.keys import Keys
from shared_registry.store.lease_reader import Waiting
from shared_registry.store.reader import Head, Reader

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RouterList:
    """The routers of a registry at one moment.

    Attributes:
        at: The time of the moment, in seconds on the Redis server's clock.
        leader: The leader; `None` while there is none.
        routers: All listed routers, sorted by key, including those that have expired and were not reaped yet.
        leases: How many leases each router holds, by its key.
        plan: How routers share the probing; `None` if the leader probes all replicas.
    """

    at: float
    leader: Leader | None
    routers: list[RouterRecord]
    leases: Mapping[str, int] = field(default_factory=dict)
    plan: Plan | None = None

    def document(self) -> dict[str, Any]:
        """Return the routers for JSON. Times are seconds since the epoch."""
        leader = self.leader
        return {
            "at": self.at,
            "leader": leader and {"router": leader.router, "epoch": leader.epoch, "elected_at": leader.elected_at},
            "routers": [
                {
                    "key": one.info.key,
                    "host": one.info.host,
                    "pid": one.info.pid,
                    "version": one.info.version,
                    "url": one.info.url,
                    "started_at": one.info.started_at,
                    "last_heartbeat_at": one.last_heartbeat_at,
                    "expires_at": one.expires_at,
                    "is_live": one.expires_at > self.at,
                    "is_leader": self.leads(one),
                    "config_fingerprint": one.info.config_fingerprint,
                    "agrees_with_leader": self.agrees_with_leader(one),
                    "leases": self.leases.get(one.info.key),
                    "probes": self.probes_of(one),
                    "trouble": one.info.trouble or None,
                    "view_age_seconds": one.info.view_age_seconds,
                    "probe_age_seconds": one.info.probe_age_seconds,
                    "probe_lag_seconds": one.info.probe_lag_seconds,
                }
                for one in self.routers
            ],
        }

    def leads(self, one: RouterRecord) -> bool:
        """Return whether a router is the leader."""
        return self.leader is not None and self.leader.router == one.info.key

    def agrees_with_leader(self, one: RouterRecord) -> bool | None:
        """Return whether a router's shared settings equal the leader's; `None` if no listed router is the leader."""
        leading = [other.info.config_fingerprint for other in self.routers if self.leads(other)]
        return one.info.config_fingerprint == leading[0] if leading else None

    def probes_of(self, one: RouterRecord) -> str:
        """Return whose health checks count: "all" for a leader that shares none, "share" for a router of the plan."""
        if one.info.trouble:
            return "in trouble"
        if self.plan is not None:
            return "share" if one.info.key in self.plan.routers else "no"
        return "all" if self.leads(one) else "no"


@dataclass(frozen=True, slots=True)
class WaiterRecord:
    """A session that waits for a slot.

    Attributes:
        position: The session's position in the queue, from 1, over all routers.
        id: The id of the lease that the session will have.
        router: Key of the router where the session waits.
        since: About when the session joined the queue, in seconds on the Redis server's clock. No two sessions in the
            queue have the same value.
    """

    position: int
    id: str
    router: str
    since: float

    @property
    def session_digest(self) -> str | None:
        """The SHA-256 of the session's name, in hex; `None` where it has none."""
        return session_digest_of(self.id)


@dataclass(frozen=True, slots=True)
class QueueList:
    """The queue of a registry at one moment.

    Attributes:
        at: The time of the moment, in seconds on the Redis server's clock.
        depth: How many sessions wait.
        waiters: The first waiters, in order.
    """

    at: float
    depth: int
    waiters: list[WaiterRecord]

    def document(self) -> dict[str, Any]:
        """Return the queue for JSON. Times are seconds since the epoch on the Redis server's clock."""
        waiters = [
            {
                "position": one.position,
                "id": one.id,
                "router": one.router,
                "session_digest": one.session_digest,
                "since": one.since,
            }
            for one in self.waiters
        ]
        return {"at": self.at, "depth": self.depth, "waiters": waiters}


class FleetReads:
    """Reads over clients that somebody else connects and closes."""

    _clients: Clients
    _keys: Keys
    _reader: Reader
    _timeout_seconds: float

    def __init__(self, clients: Clients, keys: Keys, reader: Reader, *, timeout_seconds: float) -> None:
        """Set up."""
        self._clients = clients
        self._keys = keys
        self._reader = reader
        self._timeout_seconds = timeout_seconds

    async def routers(self) -> RouterList:
        """Return the routers. One that leaves during the call, or whose record is damaged, is left out."""
        async with bounded(self._timeout_seconds, failover=self._clients.failover):
            listed = await self._clients.commands.zrange(self._keys.routers, 0, -1, withscores=True)
        found = []
        for key, expires_at_ms in sorted(listed):
            try:
                async with bounded(self._timeout_seconds, failover=self._clients.failover):
                    fields = await self._clients.commands.hgetall(self._keys.router(key))
                if fields:
                    found.append(parse_router(key, fields, expires_at_ms))
            except KeyConflict as error:
                logger.warning("redis: a router is left out: %s", error, extra={"router": key})
        return RouterList(
            await self._reader.server_time(),
            await self._reader.leader(),
            found,
            await self._lease_counts([one.info.key for one in found]),
            await self._reader.plan(),
        )

    async def _lease_counts(self, routers: Sequence[str]) -> dict[str, int]:
        async with bounded(self._timeout_seconds, failover=self._clients.failover):
            pipeline = self._clients.commands.pipeline(transaction=False)
            for router in routers:
                pipeline.hlen(self._keys.leases(router))
            counts = await pipeline.execute(raise_on_error=False)  # a damaged key is reported by `check`
        return {router: count for router, count in zip(routers, counts, strict=True) if isinstance(count, int)}

    async def head(self) -> Head:
        """Return the history and its latest revision."""
        return await self._reader.head()

    async def queue(self, count: int) -> QueueList:
        """Return the queue's depth and up to `count` waiters, in the order of the queue.

        The queue is read in pieces. A waiter that joins or leaves during the call may be left out, and the positions
        behind that waiter may be off by one.
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


def session_digest_of(lease_id: str) -> str | None:
    """Return the digest of the name of a lease's session; `None` where it has none."""
    return lease_id.partition(":")[2] or None
