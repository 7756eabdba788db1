"""Reads the data of a check: one replica's entry in every key; loads, leases, queue and affinities that do not agree.

Each is read at one instant.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from shared_registry.store.channel import bounded
from shared_registry.store.reader import RECORDS_AT_ONCE, Reader
from shared_registry.store.reads import execute

KEYS_AT_ONCE = 1000
SCAN_SECONDS = 30.0
SPARE_SETS = ("spare_primary", "spare_secondary", "spare_answered")
"""The names of their keys."""


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
        is_full: Whether it is in `full`.
        fields: The fields of its hash that are not empty.
    """

    url: str
    order: float | None
    ready_primary: float | None
    ready_secondary: float | None
    spares: Mapping[str, float]
    ejected: float | None
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
        for at in range(0, len(found), RECORDS_AT_ONCE):
            chunk = found[at : at + RECORDS_AT_ONCE]
            async with self._channel.bounded():
                pipeline = self._commands.pipeline(transaction=False)
                for key in chunk:
                    pipeline.type(key)
                types.update(zip(chunk, await execute(pipeline), strict=True))
        return types

    async def ready_urls(self) -> list[str]:
        """Return the urls in the ready sets, in the spare sets and in `full`."""
        keys = self._keys
        sets = [keys.ready_primary, keys.ready_secondary, *(getattr(keys, name) for name in SPARE_SETS)]
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
        for at in range(0, len(urls), RECORDS_AT_ONCE):
            chunk = urls[at : at + RECORDS_AT_ONCE]
            reply = await self._channel.run("inspect_replicas", chunk)
            values = iter(reply.values)
            for url in chunk:
                *scores, is_full, count = itertools.islice(values, 6 + len(SPARE_SETS))
                order, primary, secondary, *rest, ejected = (float(score) if score else None for score in scores)
                spares = {name: score for name, score in zip(SPARE_SETS, rest, strict=True) if score is not None}
                pairs = [(next(values), next(values)) for _ in range(int(count))]
                fields = {name: value for name, value in pairs if value}
                found.append(Inspection(url, order, primary, secondary, spares, ejected, is_full == "1", fields))
        return found

    async def inspect_leases(self, routers: Collection[str], urls: Collection[str]) -> LeaseInspection:
        """Return the loads that differ from the number of leases, and which of these routers are not listed.

        All of it is as of one instant.
        """
        reply = await self._channel.run("inspect_leases", [str(len(routers)), *routers, *urls])
        unlisted = int(reply.values[0])
        rest = reply.values[1 + unlisted :]
        wrong = list(zip(rest[::3], rest[1::3], map(int, rest[2::3]), strict=True))
        return LeaseInspection(reply.values[1 : 1 + unlisted], wrong)

    async def inspect_queue(self, routers: Collection[str]) -> QueueInspection:
        """Return the state of the queue, and which of these routers and of the waiters' routers are not listed."""
        reply = await self._channel.run("inspect_queue", [*routers])
        waiting, ready, *unlisted = reply.values
        return QueueInspection(int(waiting), int(ready), unlisted)

    async def listed_routers(self) -> list[str]:
        """Return the keys of the routers in `routers`."""
        async with self._channel.bounded():
            routers: list[str] = await self._commands.zrange(self._keys.routers, 0, -1)
        return routers

    async def affinities(self, sessions: Sequence[str]) -> list[tuple[str | None, bool, dict[str, str]]]:
        """Return for each session the url in `affinity`, whether that has a time to live, and the counts in `several`.

        Args:
            sessions: The digests of the sessions' names; at most 200.
        """
        async with self._channel.bounded():
            pipeline = self._commands.pipeline(transaction=False)
            for session in sessions:
                pipeline.get(self._keys.affinity_prefix + session)
                pipeline.pttl(self._keys.affinity_prefix + session)
                pipeline.hgetall(self._keys.several_prefix + session)
            replies = await execute(pipeline)
        return [(url, left >= 0, counts) for url, left, counts in zip(*[iter(replies)] * 3, strict=True)]

    async def wrong_affinities(self, sessions: Sequence[str]) -> list[str]:
        """Return those of some sessions whose affinity does not agree with all leases, as of one instant."""
        if not sessions:
            return []
        reply = await self._channel.run("inspect_affinities", sessions)
        return list(reply.values)
