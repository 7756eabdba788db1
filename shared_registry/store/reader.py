"""What a router reads: the head of the history, replica records, the event stream; leases, and who waits for one.

Reads only, in bounded pieces.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from redis.asyncio import RedisCluster

from shared_registry.errors import KeyConflict
from shared_registry.model import ORIGIN, AdminState, Event, Leader, Removal, ReplicaEndpoint, ReplicaRecord
from shared_registry.store.channel import Channel, bounded
from shared_registry.store.client import Client, Clients
from shared_registry.store.codec import parse_event, parse_leader, parse_record
from shared_registry.store.failover import is_lost
from shared_registry.store.keys import SCHEMA, Keys, wrong_schema
from shared_registry.store.lane import Lane
from shared_registry.store.replies import Grant

READS_AT_ONCE = 8
RECORDS_AT_ONCE = 200
URLS_AT_ONCE = 1000
EVENTS_AT_ONCE = 500
LEASES_AT_ONCE = 500
WAITERS_AT_ONCE = 250
BLOCK_MARGIN_SECONDS = 1.0
HEAD_FIELDS = ("schema", "history_id", "revision", "epoch")
NO_FIELD = "-"
"""Of `meta`; is never there, so that deleting it changes nothing."""


class Gap(Exception):
    """Events between the reader's revision and the event stream's are gone; only a full read helps."""


@dataclass(frozen=True, slots=True)
class Head:
    """Where a history stands. `history_id` is `None` before anything was written, or after all was lost."""

    history_id: str | None
    revision: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """A session that waits for a slot.

    Attributes:
        router: Which waits for it.
        sequence: What the line is ordered by: about when it came, in milliseconds since the epoch.
    """

    router: str
    lease_id: str
    sequence: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole of a namespace's replicas as of one revision.

    Attributes:
        removed: Those known to be removed.
    """

    head: Head
    records: dict[str, ReplicaRecord]
    removed: dict[str, Removal]
    leader: Leader | None


class Reader:
    """Reads one namespace. Ordinary reads and the blocking one use separate clients.

    Every method raises `StoreUnavailable` past the timeout and `KeyConflict` for what it cannot parse.
    """

    def __init__(self, clients: Clients, keys: Keys, *, timeout_seconds: float = 1.0) -> None:
        self._commands = clients.control
        self._blocking = clients.blocking
        self._longest_block_seconds = clients.longest_block_seconds
        self._failover = clients.failover
        self._keys = keys
        self._timeout_seconds = timeout_seconds
        lane = Lane(READS_AT_ONCE, seconds=timeout_seconds)
        self._channel = Channel(clients.control, keys, lane, timeout_seconds=timeout_seconds, failover=clients.failover)

    async def head(self) -> Head:
        """Return history id, revision and epoch.

        Raises:
            StoreRefused: Another version wrote the namespace, in a form that this one cannot read.
        """
        async with self._channel.bounded():
            values = await self._commands.hmget(self._keys.meta, *HEAD_FIELDS)
        return _head(values)

    async def leader(self) -> Leader | None:
        """Return who leads now."""
        async with self._channel.bounded():
            return parse_leader(await self._commands.hgetall(self._keys.leader))

    async def panic(self) -> str:
        """Return why there is panic, as the leader declared it; empty where there is none."""
        async with self._channel.bounded():
            return await self._commands.hget(self._keys.meta, "panic") or ""

    async def last_heartbeat_at(self) -> float | None:
        """Return when any router last sent a heartbeat, on the server's clock; `None` where none ever did."""
        async with self._channel.bounded():
            at_ms = await self._commands.hget(self._keys.meta, "heartbeat_at_ms")
        return int(at_ms) / 1000 if at_ms and at_ms.isdigit() else None

    async def server_time(self) -> float:
        """Return the server's clock, in seconds since the epoch."""
        async with self._channel.bounded():
            seconds, microseconds = await self._commands.time()
        return int(seconds) + int(microseconds) / 1e6

    async def urls(self) -> list[str]:
        """Return the canonical urls of all registered replicas, lowest order first."""
        return await self._members(self._keys.replicas)

    async def removed(self) -> list[str]:
        """Return the canonical urls of the replicas that were removed within seven days."""
        return await self._members(self._keys.removed)

    async def _members(self, key: str) -> list[str]:
        urls: list[str] = []
        while True:
            async with self._channel.bounded():
                page = await self._commands.zrange(key, len(urls), len(urls) + URLS_AT_ONCE - 1)
            urls += page
            if len(page) < URLS_AT_ONCE:
                return list(dict.fromkeys(urls))

    async def records(self, urls: Sequence[str]) -> dict[str, ReplicaRecord]:
        """Return the records of those that are registered."""
        records: dict[str, ReplicaRecord] = {}
        for at in range(0, len(urls), RECORDS_AT_ONCE):
            chunk = urls[at : at + RECORDS_AT_ONCE]
            async with self._channel.bounded():
                pipeline = self._commands.pipeline(transaction=False)
                for url in chunk:
                    pipeline.hgetall(self._keys.replica(url))
                hashes = await execute(pipeline)
            for url, fields in zip(chunk, hashes, strict=True):
                if fields and fields.get("admin") != AdminState.REMOVED.value:
                    records[url] = parse_record(url, fields)
            await asyncio.sleep(0)
        return records

    async def snapshot(self) -> Snapshot:
        """Return all replicas as of one revision: what changed while reading is applied from the event stream.

        Raises:
            Gap: The history changed, or the event stream was trimmed, while reading. Worth trying again at once.
        """
        before = await self.head()
        records = await self.records(await self.urls())
        removed = await self._removals(before.revision)
        revision = before.revision
        while events := await self.events(after=revision):
            for event in events:
                if event.previous != revision:
                    raise Gap
                revision = event.id
                _advance(records, removed, event)
        leader = await self.leader()
        after = await self.head()
        if after.history_id != before.history_id:
            raise Gap
        return Snapshot(Head(after.history_id, revision, after.epoch), records, removed, leader)

    async def _removals(self, revision: str) -> dict[str, Removal]:
        """Return what is known of those that were removed by a revision at the latest."""
        urls = await self.removed()
        removals: dict[str, Removal] = {}
        for at in range(0, len(urls), RECORDS_AT_ONCE):
            chunk = urls[at : at + RECORDS_AT_ONCE]
            async with self._channel.bounded():
                pipeline = self._commands.pipeline(transaction=False)
                for url in chunk:
                    pipeline.hget(self._keys.replica(url), "restored_from")
                origins = await pipeline.execute(raise_on_error=False)  # what else a hash holds matters no more
            for url, origin in zip(chunk, origins, strict=True):
                removals[url] = Removal(revision, origin if isinstance(origin, str) else "")
        return removals

    async def events(self, *, after: str, count: int = EVENTS_AT_ONCE) -> list[Event]:
        """Return up to that many events that follow a revision, oldest first."""
        async with self._channel.bounded():
            entries = await self._commands.xrange(self._keys.events, min=f"({after}", max="+", count=count)
        return [parse_event(event_id, fields) for event_id, fields in entries]

    async def last_events(self, count: int) -> list[Event]:
        """Return up to that many of the latest events, oldest first."""
        async with self._channel.bounded():
            entries = await self._commands.xrevrange(self._keys.events, count=count)
        return [parse_event(event_id, fields) for event_id, fields in reversed(entries)]

    async def all_events(self) -> AsyncIterator[Event]:
        """Yield the event stream from its oldest event on."""
        after = ORIGIN
        while events := await self.events(after=after):
            for event in events:
                yield event
            after = events[-1].id

    async def in_flight(self, key: str) -> int | None:
        """Return the sessions on a replica, removed or not; `None` where nothing is known of it."""
        async with self._channel.bounded():
            value = await self._commands.hget(self._keys.replica(key), "in_flight")
        return None if value is None else int(value)

    async def leases(self, router: str) -> AsyncIterator[dict[str, str]]:
        """Yield a router's leases in pieces, as lease id to canonical url.

        One that is there throughout comes at least once; one that comes or goes meanwhile may or may not.
        """
        cursor = 0
        while True:
            async with self._channel.bounded():
                cursor, page = await self._commands.hscan(self._keys.leases(router), cursor, count=LEASES_AT_ONCE)
            if page:
                yield page
            if int(cursor) == 0:
                return

    async def loads(
        self, endpoints: Mapping[str, ReplicaEndpoint], *, ramping: Collection[str] = ()
    ) -> tuple[dict[str, int], list[str]]:
        """Return the sessions on those of these replicas that are healthy and active, and the routers' keys.

        From the ready sets alone: a replica's score is its load over its weight. Only of those that are ramping up it
        is more, so that these are asked for one by one.
        """
        keys = self._keys
        async with self._channel.bounded():
            pipeline = self._commands.pipeline(transaction=False)
            pipeline.zrange(keys.ready_primary, 0, -1, withscores=True)
            pipeline.zrange(keys.ready_secondary, 0, -1, withscores=True)
            pipeline.smembers(keys.full)
            pipeline.zrange(keys.routers, 0, -1)
            ramping = [url for url in ramping if url in endpoints]
            for url in ramping:
                pipeline.hget(keys.replica(url), "in_flight")
            primary, secondary, full, routers, *in_flight = await execute(pipeline)
        scores = [(url, score) for url, score in (*primary, *secondary) if url in endpoints]
        loads = {url: round(float(score) * endpoints[url].weight) for url, score in scores}
        loads |= {url: endpoints[url].capacity for url in full if url in endpoints}
        loads |= {url: int(count) for url, count in zip(ramping, in_flight, strict=True) if count and url in loads}
        return loads, routers

    async def queue_depth(self) -> int:
        """Return how many wait."""
        async with self._channel.bounded():
            return int(await self._commands.zcard(self._keys.queue))

    async def positions(self, router: str, lease_ids: Sequence[str]) -> tuple[int, dict[str, int]]:
        """Return how many wait, and the positions, from 1, of those of these sessions of a router that do."""
        depth = 0
        positions: dict[str, int] = {}
        for at in range(0, len(lease_ids), WAITERS_AT_ONCE):
            chunk = lease_ids[at : at + WAITERS_AT_ONCE]
            reply = await self._channel.run("inspect_waiters", [router, *chunk])
            depth = int(reply.values[0])
            found = zip(chunk, reply.values[1:], strict=True)
            positions |= {lease_id: int(position) for lease_id, position in found if position}
        return depth, positions

    async def waiters(self) -> AsyncGenerator[list[Waiting], None]:
        """Yield all that wait, first come first, in pieces: as of one instant each."""
        at = 0
        while True:
            async with self._channel.bounded():
                page = await self._commands.zrange(
                    self._keys.queue, at, at + LEASES_AT_ONCE - 1, withscores=True, score_cast_func=float
                )
            if page:
                members = [(member.partition("/"), sequence) for member, sequence in page]
                yield [Waiting(router, lease_id, sequence) for (router, _, lease_id), sequence in members]
            if len(page) < LEASES_AT_ONCE:
                return
            at += LEASES_AT_ONCE

    async def wait_inbox(self, router: str, *, after: str, seconds: float) -> tuple[str, dict[str, Grant]]:
        """Return up to where the inbox was read, and the slots that were given to who waited, by lease id.

        Args:
            router: Whose inbox.
            after: Where to go on reading.
            seconds: How long to wait for the first.
        """
        key = self._keys.inbox(router)
        entries = _stream_entries(await self._block({key: after}, seconds))
        grants = {entry["lease_id"]: Grant(entry["url"], entry["revision"]) for _, entry in entries}
        return entries[-1][0] if entries else after, grants

    async def wait_events(self, *, after: str, seconds: float) -> list[Event]:
        """Return the events that follow a revision, waiting up to that long for the first."""
        return _stream_events(await self._block({self._keys.events: after}, seconds))

    async def _block(self, streams: dict[str, str], seconds: float) -> object:
        seconds = min(seconds, self._longest_block_seconds)
        milliseconds = max(1, round(seconds * 1000))
        async with bounded(seconds + BLOCK_MARGIN_SECONDS, failover=self._failover):
            if isinstance(self._blocking, RedisCluster):
                return await _xread_by_key(self._blocking, *streams.items(), block=milliseconds)
            return await self._blocking.xread(streams, count=EVENTS_AT_ONCE, block=milliseconds)

    async def poll(self, *, after: str) -> tuple[Head, list[Event]]:
        """Return the head, and the events that follow a revision, both on the blocking connection.

        Only a write tells whether that connection leads to the primary: those of commands may have moved already.
        """
        async with bounded(self._timeout_seconds + BLOCK_MARGIN_SECONDS, failover=self._failover):
            pipeline = self._blocking.pipeline(transaction=False)
            pipeline.hmget(self._keys.meta, *HEAD_FIELDS)
            pipeline.xrange(self._keys.events, min=f"({after}", max="+", count=EVENTS_AT_ONCE)
            pipeline.hdel(self._keys.meta, NO_FIELD)
            values, entries, deleted = await pipeline.execute(raise_on_error=False)
            for reply in (values, entries):
                if isinstance(reply, Exception):
                    raise reply
        if isinstance(deleted, Exception) and is_lost(deleted):
            self._failover.lose(str(deleted))
        return _head(values), [parse_event(event_id, fields) for event_id, fields in entries]


async def _xread_by_key(cluster: RedisCluster, stream: tuple[str, str], *, block: int) -> object:
    """Read a stream at the node that has it: redis-py would ask another node for the keys in XREAD, dead or alive."""
    key, after = stream
    await cluster.initialize()
    words = ("XREAD", "COUNT", EVENTS_AT_ONCE, "BLOCK", block, "STREAMS", key, after)
    return await cluster.execute_command(*words, target_nodes=[cluster.get_node_from_key(key)])


async def execute(pipeline: Client) -> list[Any]:
    """Return the replies of a pipeline; raise the first error as the server put it, which redis-py 6 garbles."""
    replies: list[Any] = await pipeline.execute(raise_on_error=False)
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


def _head(values: Sequence[str | None]) -> Head:
    schema, history_id, revision, epoch = values
    if schema not in (None, SCHEMA):
        raise wrong_schema(schema)
    try:
        return Head(history_id, revision or ORIGIN, int(epoch or 0))
    except ValueError:
        raise KeyConflict(f"meta: field epoch holds {epoch!r}; run `shared-registry check`") from None


def _advance(records: dict[str, ReplicaRecord], removed: dict[str, Removal], event: Event) -> None:
    if event.record is None:
        return
    key = event.record.key
    if event.record.admin is AdminState.REMOVED:
        records.pop(key, None)
        removed[key] = Removal(event.id, event.record.restored_from)
    else:
        known = records.get(key)
        records[key] = known.after_event(event.record) if known else event.record
        removed.pop(key, None)


def _stream_events(streams: object) -> list[Event]:
    return [parse_event(event_id, fields) for event_id, fields in _stream_entries(streams)]


def _stream_entries(streams: object) -> list[tuple[str, dict[str, str]]]:
    """Return the entries in XREAD's reply for one stream, which redis-py gives as a list or, in RESP3, a dict."""
    if not streams:
        return []
    if isinstance(streams, dict):
        (batches,) = streams.values()
        return [entry for batch in batches for entry in batch]
    ((_, entries),) = cast("list[tuple[str, list[tuple[str, dict[str, str]]]]]", streams)
    return entries
