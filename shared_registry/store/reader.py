"""Reads the head of the history, replica records and the event stream; `lease_reader` adds leases and the queue.

It reads in bounded pieces and changes nothing.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from redis.asyncio import RedisCluster

from shared_registry.aio.breath import Breath
from shared_registry.errors import KeyConflict
from shared_registry.model import ORIGIN, AdminState, Event, Leader, Plan, Removal, ReplicaRecord
from shared_registry.store.channel import bounded
from shared_registry.store.client import Clients
from shared_registry.store.codec import known_events, mark_of, parse_event, parse_leader, parse_plan, parse_record
from shared_registry.store.failover import is_lost
from shared_registry.store.figure_reader import FigureReader
from shared_registry.store.keys import Keys
from shared_registry.store.lease_reader import LeaseReader
from shared_registry.store.reads import BLOCK_MARGIN_SECONDS, ENTRIES_AT_ONCE, stream_entries
from shared_registry.store.schema import expect_schema

RECORDS_AT_ONCE = 100
URLS_AT_ONCE = 1000
HEAD_FIELDS = ("schema", "history_id", "revision", "epoch", "mark", "cluster", "settling")
NO_FIELD = "-"
"""A field that `meta` never has, so that deleting it changes nothing."""
logger = logging.getLogger(__name__)


class Gap(Exception):
    """The events after the reader's revision do not lead to the present state. A full read is necessary."""


@dataclass(frozen=True, slots=True)
class Head:
    """The present id, revision and epoch of a history.

    Attributes:
        history_id: Its random id; `None` before the first write, or after all data was lost.
        revision: The id of its last event.
        epoch: The highest epoch so far.
        mark: The mark of its last event; empty if that has none.
        cluster: The name of the cluster that the namespace belongs to; empty if none was given.
        is_settling: Whether new sessions get no slot, because what ran before a loss of data comes back.
    """

    history_id: str | None
    revision: str
    epoch: int
    mark: str = ""
    cluster: str = ""
    is_settling: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All replicas of a namespace as of one revision.

    Attributes:
        head: The history and that revision.
        records: The records of the registered replicas, by canonical url.
        removed: The replicas that were removed, by canonical url.
        leader: The leader at that time.
        plan: How routers share the probing; `None` if the leader probes all replicas.
    """

    head: Head
    records: dict[str, ReplicaRecord]
    removed: dict[str, Removal]
    leader: Leader | None
    plan: Plan | None = None


@dataclass(frozen=True, slots=True)
class Tombstone:
    """What is left of a removed replica.

    Attributes:
        key: Its canonical url.
        url: Its url as it was registered.
        name: Its name; empty if it had none.
        at: When it was removed, in seconds on the Redis server's clock; `None` if that is not known.
        by: Who removed it; empty if that is not known.
        reason: Why.
    """

    key: str
    url: str
    name: str
    at: float | None
    by: str
    reason: str


class Reader(LeaseReader, FigureReader):
    """Reads one namespace. Ordinary reads and blocking reads use separate clients.

    Every method raises `StoreUnavailable` after the timeout, and `KeyConflict` for a shared key that it cannot read. A
    damaged replica, or an entry of the event stream that is no event, is left out, so that the others can be read.
    """

    def __init__(self, clients: Clients, keys: Keys, *, timeout_seconds: float = 1.0) -> None:
        super().__init__(clients, keys, timeout_seconds=timeout_seconds)
        self._damaged: set[str] = set()

    async def head(self) -> Head:
        """Return history id, revision and epoch.

        Raises:
            StoreRefused: The namespace has a schema that this version cannot use.
        """
        async with self._channel.bounded():
            values = await self._commands.hmget(self._keys.meta, *HEAD_FIELDS)
        return _head(values)

    async def leader(self) -> Leader | None:
        """Return the present leader; `None` if there is none, or its hash is damaged."""
        with contextlib.suppress(KeyConflict):
            async with self._channel.bounded():
                return parse_leader(await self._commands.hgetall(self._keys.leader))
        return None

    async def plan(self) -> Plan | None:
        """Return how routers share the probing; `None` if the leader probes all replicas, or the plan is damaged."""
        with contextlib.suppress(KeyConflict):
            async with self._channel.bounded():
                return parse_plan(await self._commands.hgetall(self._keys.plan))
        return None

    async def panic(self) -> str:
        """Return the reason for panic that the leader declared; empty if there is no panic."""
        async with self._channel.bounded():
            return await self._commands.hget(self._keys.meta, "panic") or ""

    async def last_heartbeat_at(self) -> float | None:
        """Return when any router last sent a heartbeat, on the server's clock; `None` if none has sent one."""
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
        """Return the canonical urls of the replicas that were removed, the earliest first."""
        return await self._members(self._keys.removed)

    async def tombstones(self, urls: Sequence[str]) -> list[Tombstone]:
        """Return the tombstones of those of these replicas that are removed, by their canonical urls."""
        found = []
        for at in range(0, len(urls), RECORDS_AT_ONCE):
            chunk = urls[at : at + RECORDS_AT_ONCE]
            async with self._channel.bounded():
                pipeline = self._commands.pipeline(transaction=False)
                for url in chunk:
                    names = ("admin", "url", "name", "admin_since_ms", "removed_by", "admin_reason")
                    pipeline.hmget(self._keys.replica(url), names)
                replies = await pipeline.execute(raise_on_error=False)  # a malformed one is reported by `check`
            for key, reply in zip(chunk, replies, strict=True):
                if isinstance(reply, list) and reply[0] == AdminState.REMOVED.value:
                    url, name, since_ms, by, reason = (text or "" for text in reply[1:])
                    since = int(since_ms) / 1000 if since_ms.isdigit() else None
                    found.append(Tombstone(key, url or key, name, since, by, reason))
        return found

    async def _members(self, key: str) -> list[str]:
        urls: list[str] = []
        while True:
            async with self._channel.bounded():
                page = await self._commands.zrange(key, len(urls), len(urls) + URLS_AT_ONCE - 1)
            urls += page
            if len(page) < URLS_AT_ONCE:
                return list(dict.fromkeys(urls))

    async def records(
        self, urls: Sequence[str], *, known: Callable[[str], ReplicaRecord | None] = lambda _: None
    ) -> dict[str, ReplicaRecord]:
        """Return the records of these replicas, without replicas that are not registered or whose hash is damaged.

        Args:
            urls: Their canonical urls.
            known: Returns the record that is known of a replica. Records that equal it are left out.
        """
        records, damage = await self.read_each(urls, known=known)
        for url, text in damage.items():
            if url not in self._damaged:
                logger.warning("redis: a replica is left out: %s", text, extra={"replica": url})
        self._damaged = self._damaged.difference(urls).union(damage)
        return records

    async def read_each(
        self, urls: Sequence[str], *, known: Callable[[str], ReplicaRecord | None] = lambda _: None
    ) -> tuple[dict[str, ReplicaRecord], dict[str, str]]:
        """Return the records of these replicas, and for those whose hash is damaged, what is wrong with it.

        `known` is that of `records`. Other tasks run in between.
        """
        records: dict[str, ReplicaRecord] = {}
        damage: dict[str, str] = {}
        for at in range(0, len(urls), RECORDS_AT_ONCE):
            chunk, breath = urls[at : at + RECORDS_AT_ONCE], Breath()
            async with self._channel.bounded():
                pipeline = self._commands.pipeline(transaction=False)
                for url in chunk:
                    pipeline.hgetall(self._keys.replica(url))
                hashes = await pipeline.execute(raise_on_error=False)
                for reply in hashes:
                    if isinstance(reply, Exception) and not _is_wrong_type(reply):
                        raise reply
            for url, fields in zip(chunk, hashes, strict=True):
                try:
                    if isinstance(fields, Exception):
                        raise KeyConflict(f"replica {url}: its key is not a hash; run `shared-registry check`")
                    if fields and fields.get("admin") != AdminState.REMOVED.value:
                        record = parse_record(url, fields)
                        if record != known(url):  # thousands that stay alive would keep the garbage collector busy
                            records[url] = record
                except KeyConflict as error:
                    damage[url] = str(error)
                await breath.pause()
        return records, damage

    async def snapshot(
        self, since: Snapshot | None = None, *, known: Callable[[str], ReplicaRecord | None] = lambda _: None
    ) -> Snapshot:
        """Return all replicas as of one revision. Changes during the read are applied from the event stream.

        Args:
            since: An earlier snapshot, from which to go on by the event stream. By default all replicas are read.
            known: Returns the record that is known of a replica. It takes the place of one that equals it, so that a
                second read of thousands makes next to nothing that lasts, which the garbage collector would look at.

        Raises:
            Gap: The history changed, or the event stream was trimmed, during the read. Try again at once.
        """
        if since is None:
            before = await self.head()
            records = await self._all_records(known)
            removed = await self._removals(before.revision)
        else:
            before, records, removed = since.head, dict(since.records), dict(since.removed)
        revision, mark = before.revision, before.mark
        while events := await self.events(after=revision):
            for event in events:
                if not event.follows(revision, mark):
                    raise Gap
                revision, mark = event.id, event.mark
                _advance(records, removed, event)
        leader, plan = await self.leader(), await self.plan()
        after = await self.head()
        if after.history_id != before.history_id:
            raise Gap
        head = Head(after.history_id, revision, after.epoch, mark, is_settling=after.is_settling)
        return Snapshot(head, records, removed, leader, plan)

    async def _all_records(self, known: Callable[[str], ReplicaRecord | None]) -> dict[str, ReplicaRecord]:
        """Return the records of all replicas; the known one in place of one that equals it."""
        same: dict[str, ReplicaRecord] = {}

        def compared(url: str) -> ReplicaRecord | None:
            """Return the known record, with which a record that could be read is compared."""
            record = known(url)
            if record is not None:
                same[url] = record
            return record

        urls = await self.urls()
        changed = await self.records(urls, known=compared)
        return {url: record for url in urls if (record := changed.get(url) or same.get(url))}

    async def _removals(self, revision: str) -> dict[str, Removal]:
        """Return the removals up to that revision."""
        urls = await self.removed()
        removals: dict[str, Removal] = {}
        for at in range(0, len(urls), RECORDS_AT_ONCE):
            chunk = urls[at : at + RECORDS_AT_ONCE]
            async with self._channel.bounded():
                pipeline = self._commands.pipeline(transaction=False)
                for url in chunk:
                    pipeline.hmget(self._keys.replica(url), "restored_from", "removed_instance")
                found = await pipeline.execute(raise_on_error=False)  # a malformed one is harmless
            for url, texts in zip(chunk, found, strict=True):
                origin, instance = texts if isinstance(texts, list) else ("", "")
                removals[url] = Removal(revision, origin or "", instance=instance or "")
        return removals

    async def events(self, *, after: str, count: int = ENTRIES_AT_ONCE) -> list[Event]:
        """Return the events after a revision, oldest first, at most `count`."""
        async with self._channel.bounded():
            entries = await self._commands.xrange(self._keys.events, min=f"({after}", max="+", count=count)
        return await _parsed(entries)

    async def last_events(self, count: int) -> list[Event]:
        """Return the latest events, oldest first, at most `count`."""
        entries: list[tuple[str, dict[str, str]]] = []
        last = "+"
        while len(entries) < count:
            wanted = min(count - len(entries), ENTRIES_AT_ONCE)
            async with self._channel.bounded():
                page = await self._commands.xrevrange(self._keys.events, max=last, count=wanted)
            entries += page
            if len(page) < wanted:
                break
            last = f"({page[-1][0]}"
        return known_events(reversed(entries))

    async def all_events(self) -> AsyncIterator[Event]:
        """Yield all events of the event stream, oldest first.

        Raises:
            KeyConflict: An entry is no event.
        """
        after = ORIGIN
        while True:
            async with self._channel.bounded():
                entries = await self._commands.xrange(
                    self._keys.events, min=f"({after}", max="+", count=ENTRIES_AT_ONCE
                )
            if not entries:
                return
            for event_id, fields in entries:
                yield parse_event(event_id, fields)
            after = entries[-1][0]

    async def wait_events(self, *, after: str, seconds: float) -> list[Event]:
        """Return the events after a revision. Wait up to `seconds` for the first."""
        deadline = time.monotonic() + seconds
        while True:
            entries = stream_entries(await self._block({self._keys.events: after}, seconds))
            events = await _parsed(entries)
            seconds = deadline - time.monotonic()
            if events or not entries or seconds <= 0:
                return events
            after = entries[-1][0]  # none of these is an event

    async def wait_at_rest(self, *, after: str, seconds: float) -> tuple[list[Event], Head | None]:
        """Return the events after a revision. Wait up to `seconds` for the first; if none comes, also return the head.

        The head is read as `poll` does, in the same round trip. It is `None` if it was not read, as with a client of a
        cluster.
        """
        if isinstance(self._blocking, RedisCluster):
            return await self.wait_events(after=after, seconds=seconds), None
        seconds, milliseconds = self._block_time(seconds)
        async with self._bounded_block(seconds):
            pipeline = self._blocking.pipeline(transaction=False)
            pipeline.xread({self._keys.events: after}, count=ENTRIES_AT_ONCE, block=milliseconds)
            pipeline.hmget(self._keys.meta, *HEAD_FIELDS)
            pipeline.hdel(self._keys.meta, NO_FIELD)
            streams, values, deleted = await pipeline.execute(raise_on_error=False)
            if isinstance(streams, Exception):
                raise streams
        self._check_primary(deleted)
        entries = stream_entries(streams)
        has_head = not entries and not isinstance(values, Exception)
        return await _parsed(entries), _head(values) if has_head else None

    async def poll(self, *, after: str) -> tuple[Head, list[Event]]:
        """Return the head, and the events after a revision, both read on the blocking connection.

        The call also writes, without changing anything. Only a write shows whether this connection leads to the
        primary; the connections of commands may already lead to another server.
        """
        async with bounded(self._timeout_seconds + BLOCK_MARGIN_SECONDS, failover=self._failover):
            pipeline = self._blocking.pipeline(transaction=False)
            pipeline.hmget(self._keys.meta, *HEAD_FIELDS)
            pipeline.xrange(self._keys.events, min=f"({after}", max="+", count=ENTRIES_AT_ONCE)
            pipeline.hdel(self._keys.meta, NO_FIELD)
            values, entries, deleted = await pipeline.execute(raise_on_error=False)
            for reply in (values, entries):
                if isinstance(reply, Exception):
                    raise reply
        self._check_primary(deleted)
        return _head(values), await _parsed(entries)

    def _check_primary(self, reply: object) -> None:
        """Renew the connections if this reply to a write shows that they do not lead to the primary."""
        if isinstance(reply, Exception) and is_lost(reply):
            self._failover.lose(str(reply))


async def _parsed(entries: Sequence[tuple[str, dict[str, str]]]) -> list[Event]:
    """Return the events among stream entries. Other tasks run in between."""
    events: list[Event] = []
    breath = Breath()
    for entry in entries:
        events += known_events((entry,))
        await breath.pause()
    return events


def _head(values: Sequence[str | None]) -> Head:
    schema, history_id, revision, epoch, mark, cluster, settling = values
    expect_schema(schema)
    try:
        number = int(epoch or 0)
    except ValueError:
        raise KeyConflict(f"meta: field epoch holds {epoch!r}; run `shared-registry check`") from None
    marked = mark_of(mark or "", revision or "")
    return Head(history_id, revision or ORIGIN, number, marked, cluster or "", is_settling=bool(settling))


def _advance(records: dict[str, ReplicaRecord], removed: dict[str, Removal], event: Event) -> None:
    records.pop(event.unreadable, None)
    for record in event.records(records.get):
        key = record.key
        if record.admin is AdminState.REMOVED:
            records.pop(key, None)
            removed[key] = Removal.of(record)
        else:
            known = records.get(key)
            records[key] = known.after_event(record) if known else record
            removed.pop(key, None)


def _is_wrong_type(error: Exception) -> bool:
    return str(error).startswith("WRONGTYPE")
