"""Reads the data of a check: one replica's entry in every key; loads, leases and queue that do not agree.

Each is read at one instant, except for thousands of leases, which would keep the server busy for too long.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from shared_registry.errors import KeyConflict
from shared_registry.store.channel import bounded
from shared_registry.store.codec import parse_router
from shared_registry.store.reader import Reader
from shared_registry.store.reads import execute
from shared_registry.store.replies import Affinity

KEYS_AT_ONCE = 1000
URLS_AT_ONCE = 50
LEASES_AT_ONE_INSTANT = 2000
LOAD_READS = 8
"""How many reads in pieces must find the same difference between a load and the number of leases."""
SCAN_SECONDS = 30.0
SESSIONS_AT_ONCE = 200
SPARE_SETS = ("spare_primary", "spare_secondary", "spare_answered")
"""The names of their keys."""
WAITERS_AT_ONCE = 1000
"""How many waiters `inspect_queue` reads in one call."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """The entries of one replica in every key, at one instant.

    Attributes:
        url: The replica's canonical url.
        order: Its score in `replicas`; `None` if it is not in the set.
        ready_primary: Its score in the ready set of primaries; `None` if it is not in the set.
        ready_secondary: Its score in the ready set of the other replicas; `None` if it is not in the set.
        spares: Its score in each spare set in which it is: `spare_primary`, `spare_secondary` or `spare_answered`.
        ejected: Its score in `ejected`; `None` if it is not in the set.
        announced: Its score in `announced`; `None` if it is not in the set.
        departing: Its score in `departing`; `None` if it is not in the set.
        is_full: Whether it is in `full`.
        fields: The fields of its hash that are not empty.
    """

    url: str
    order: float | None
    ready_primary: float | None
    ready_secondary: float | None
    spares: Mapping[str, float]
    ejected: float | None
    announced: float | None
    departing: float | None
    is_full: bool
    fields: dict[str, str]


@dataclass(frozen=True, slots=True)
class LeaseInspection:
    """The leases and loads that do not agree.

    Attributes:
        unlisted: Keys of routers that have leases and are not listed in `routers`.
        wrong: The replicas whose load differs from the number of leases: canonical url, in_flight (empty without a
            hash), and the number of leases on the replica.
    """

    unlisted: Sequence[str]
    wrong: Sequence[tuple[str, str, int]]


@dataclass(frozen=True, slots=True)
class QueueInspection:
    """The state of the queue.

    Attributes:
        waiting: How many sessions of live routers wait.
        ready: How many replicas have room.
        unlisted: Keys of routers that have waiters or an inbox and are not listed in `routers`.
    """

    waiting: int
    ready: int
    unlisted: Sequence[str]


class Inspector(Reader):
    """A reader with the additional reads of a check."""

    async def key_types(self) -> dict[str, str]:
        """Return every key of the namespace with its type."""
        found: list[str] = []
        pattern = self._keys.prefix + "*"
        async with bounded(SCAN_SECONDS, failover=self._failover):
            found.extend([key async for key in self._commands.scan_iter(match=pattern, count=KEYS_AT_ONCE)])
        types: dict[str, str] = {}
        for at in range(0, len(found), URLS_AT_ONCE):
            chunk = found[at : at + URLS_AT_ONCE]
            async with self._channel.bounded():
                pipeline = self._commands.pipeline(transaction=False)
                for key in chunk:
                    pipeline.type(key)
                types.update(zip(chunk, await execute(pipeline), strict=True))
        return types

    async def ready_urls(self) -> list[str]:
        """Return the urls in the ready sets, in the spare sets, in `full`, and those that are announced or were."""
        keys = self._keys
        sets = [
            keys.announced,
            keys.departing,
            keys.ready_primary,
            keys.ready_secondary,
            *(getattr(keys, name) for name in SPARE_SETS),
        ]
        async with self._channel.bounded():
            pipeline = self._commands.pipeline(transaction=False)
            for key in sets:
                pipeline.zrange(key, 0, -1)
            pipeline.smembers(keys.full)
            return list(itertools.chain(*await execute(pipeline)))

    async def probers(self) -> list[str]:
        """Return the members of `probers`."""
        async with self._channel.bounded():
            return list(await self._commands.zrange(self._keys.probers, 0, -1))

    async def inspect(self, urls: Sequence[str]) -> list[Inspection]:
        """Return the entries of these replicas, each replica as of one instant."""
        found: list[Inspection] = []
        for at in range(0, len(urls), URLS_AT_ONCE):
            chunk = urls[at : at + URLS_AT_ONCE]
            reply = await self._channel.run("inspect_replicas", chunk)
            values = iter(reply.values)
            for url in chunk:
                *scores, is_full, count = itertools.islice(values, 8 + len(SPARE_SETS))
                order, primary, secondary, *rest, ejected, announced, departing = (
                    float(score) if score else None for score in scores
                )
                spares = {name: score for name, score in zip(SPARE_SETS, rest, strict=True) if score is not None}
                pairs = [(next(values), next(values)) for _ in range(int(count))]
                fields = {name: value for name, value in pairs if value}
                listed = (ejected, announced, departing)
                found.append(Inspection(url, order, primary, secondary, spares, *listed, is_full == "1", fields))
        return found

    async def inspect_leases(self, routers: Collection[str], urls: Collection[str]) -> LeaseInspection:
        """Return the loads that differ from the number of leases, and which of these routers are not listed.

        A few thousand leases are counted at one instant. More are read in pieces, between which sessions begin and end:
        only a difference that several such reads find alike is returned. It is passing if one of them does not find it.
        """
        is_small = len(urls) <= URLS_AT_ONCE
        words = [
            str(LEASES_AT_ONE_INSTANT if is_small else -1),
            str(len(routers)),
            *routers,
            *(urls if is_small else ()),
        ]
        is_counted, unlisted, *rest = (await self._channel.run("inspect_leases", words)).values
        names, rest = rest[: int(unlisted)], rest[int(unlisted) :]
        wrong = [*zip(rest[::3], rest[1::3], map(int, rest[2::3]), strict=True)]
        if is_counted == "0":
            wrong = await self._lasting_differences(urls)
        return LeaseInspection(names, wrong)

    async def _lasting_differences(self, urls: Collection[str]) -> list[tuple[str, str, int]]:
        """Return the wrong loads, as `LeaseInspection` has them, that every one of several reads finds alike."""
        found = await self._differences(set(urls), is_first=True)
        for _ in range(LOAD_READS - 1):
            if not found:
                break
            again = await self._differences(found.keys(), is_first=False)
            found = {url: again[url] for url in found if url in again and _gap(*again[url]) == _gap(*found[url])}
        return [(url, load, count) for url, (load, count) in sorted(found.items())]

    async def _differences(self, urls: Collection[str], *, is_first: bool) -> dict[str, tuple[str, int]]:
        """Count the leases once; return the load in Redis and the count of each replica where they differ.

        The first time, urls that only leases name are looked at too.
        """
        counts: Counter[str] = Counter()
        for router in await self._members(self._keys.routers):
            leases: dict[str, str] = {}
            with contextlib.suppress(KeyConflict):
                async for page in self.leases(router):
                    leases |= page  # a page may repeat what an earlier one had
            counts.update(leases.values())
        asked = sorted({*urls, *counts} if is_first else urls)
        found = {}
        for at in range(0, len(asked), URLS_AT_ONCE):
            chunk = asked[at : at + URLS_AT_ONCE]
            async with self._channel.bounded():
                pipeline = self._commands.pipeline(transaction=False)
                for url in chunk:
                    pipeline.hget(self._keys.replica(url), "in_flight")
                loads = await pipeline.execute(raise_on_error=False)  # a hash of another type has no load
            for url, reply in zip(chunk, loads, strict=True):
                load = reply if isinstance(reply, str) else ""
                if load != str(counts[url]) and (load or counts[url]):
                    found[url] = load, counts[url]
        return found

    async def inspect_queue(self, routers: Collection[str]) -> QueueInspection:
        """Return the state of the queue, and which of these routers and of the waiters' routers are not listed.

        The queue is read in pages. Where sessions of a page wait beside room, that was so at one instant.
        """
        unlisted: dict[str, None] = {}
        read = waiting = ready = 0
        while True:
            reply = await self._channel.run("inspect_queue", [str(read), *([] if read else routers)])
            count, in_page, ready_then, *names = reply.values
            unlisted |= dict.fromkeys(names)
            if int(in_page):
                ready = max(ready, int(ready_then))
            elif not waiting:
                ready = int(ready_then)
            read, waiting = read + int(count), waiting + int(in_page)
            if int(count) < WAITERS_AT_ONCE:
                return QueueInspection(waiting, ready, list(unlisted))

    async def listed_routers(self) -> list[str]:
        """Return the keys of the routers in `routers`."""
        async with self._channel.bounded():
            routers: list[str] = await self._commands.zrange(self._keys.routers, 0, -1)
        return routers

    async def damaged_routers(self) -> dict[str, str]:
        """Return the listed routers whose record cannot be read, with what is wrong with it.

        A router that leaves meanwhile is left out, and so is one without any record.
        """
        found: dict[str, str] = {}
        async with self._channel.bounded():
            listed = await self._commands.zrange(self._keys.routers, 0, -1)
        for at in range(0, len(listed), URLS_AT_ONCE):
            chunk = listed[at : at + URLS_AT_ONCE]
            async with self._channel.bounded():
                pipeline = self._commands.pipeline(transaction=False)
                for router in chunk:
                    pipeline.hgetall(self._keys.router(router))
                records = await pipeline.execute(raise_on_error=False)  # another type is named as such
            for router, fields in zip(chunk, records, strict=True):
                try:
                    if isinstance(fields, dict) and fields:
                        parse_router(router, fields, 0.0)
                except KeyConflict as error:
                    found[router] = str(error)
        return found

    async def affinities(self, sessions: Sequence[str]) -> dict[str, Affinity]:
        """Return what Redis has of each session, by the digest of its name."""
        found: dict[str, Affinity] = {}
        for at in range(0, len(sessions), SESSIONS_AT_ONCE):
            chunk = sessions[at : at + SESSIONS_AT_ONCE]
            async with self._channel.bounded():
                pipeline = self._commands.pipeline(transaction=False)
                for session in chunk:
                    pipeline.get(self._keys.affinity_prefix + session)
                    pipeline.pttl(self._keys.affinity_prefix + session)
                    pipeline.hgetall(self._keys.several_prefix + session)
                replies = iter(await execute(pipeline))
            for session, url, left_ms, several in zip(chunk, replies, replies, replies, strict=True):
                found[session] = Affinity(url or "", left_ms >= 0, several)
        return found


def _gap(load: str, count: int) -> str:
    """Return by how much a load exceeds the number of leases; a load that is no number is itself the difference."""
    return str(int(load) - count) if load.removeprefix("-").isdigit() else load
