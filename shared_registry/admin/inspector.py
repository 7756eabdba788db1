"""What a check reads besides: where one replica stands in every key, and what does not agree, each at one instant."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from shared_registry.store.channel import bounded
from shared_registry.store.reader import RECORDS_AT_ONCE, Reader
from shared_registry.store.reads import execute

KEYS_AT_ONCE = 1000
SCAN_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Inspection:
    """Where one replica stands in every key, at one instant.

    Attributes:
        order: Its score in `replicas`, `None` where it is not there; likewise the ready scores.
        fields: Its hash, without the fields that are empty.
    """

    url: str
    order: float | None
    ready_primary: float | None
    ready_secondary: float | None
    is_full: bool
    fields: dict[str, str]


@dataclass(frozen=True, slots=True)
class LeaseInspection:
    """What does not agree about leases.

    Attributes:
        strangers: Routers with leases that are not among the live ones.
        wrong: Canonical url, its in_flight (empty without a hash), and how many leases name it, where these differ.
    """

    strangers: Sequence[str]
    wrong: Sequence[tuple[str, str, int]]


@dataclass(frozen=True, slots=True)
class QueueInspection:
    """What does not agree about the queue.

    Attributes:
        waiting: How many wait of live routers.
        ready: How many replicas have room.
        strangers: Routers with waiters or an inbox that are not among the live ones.
    """

    waiting: int
    ready: int
    strangers: Sequence[str]


class Inspector(Reader):
    """A reader that looks at everything."""

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
        """Return the urls in the ready sets and in `full`."""
        async with self._channel.bounded():
            return [
                *await self._commands.zrange(self._keys.ready_primary, 0, -1),
                *await self._commands.zrange(self._keys.ready_secondary, 0, -1),
                *await self._commands.smembers(self._keys.full),
            ]

    async def inspect(self, urls: Sequence[str]) -> list[Inspection]:
        """Return where these replicas stand, each as of one instant."""
        found: list[Inspection] = []
        for at in range(0, len(urls), RECORDS_AT_ONCE):
            chunk = urls[at : at + RECORDS_AT_ONCE]
            reply = await self._channel.run("inspect_replicas", chunk)
            values = iter(reply.values)
            for url in chunk:
                *scores, is_full, count = itertools.islice(values, 5)
                order, primary, secondary = (float(score) if score else None for score in scores)
                pairs = [(next(values), next(values)) for _ in range(int(count))]
                fields = {name: value for name, value in pairs if value}
                found.append(Inspection(url, order, primary, secondary, is_full == "1", fields))
        return found

    async def inspect_leases(self, routers: Collection[str], urls: Collection[str]) -> LeaseInspection:
        """Return which loads are not the number of leases, and which of these routers are none, as of one instant."""
        reply = await self._channel.run("inspect_leases", [str(len(routers)), *routers, *urls])
        strangers = int(reply.values[0])
        rest = reply.values[1 + strangers :]
        wrong = list(zip(rest[::3], rest[1::3], map(int, rest[2::3]), strict=True))
        return LeaseInspection(reply.values[1 : 1 + strangers], wrong)

    async def inspect_queue(self, routers: Collection[str]) -> QueueInspection:
        """Return how the queue stands, and which of these routers and of those in it are none."""
        reply = await self._channel.run("inspect_queue", [*routers])
        waiting, ready, *strangers = reply.values
        return QueueInspection(int(waiting), int(ready), strangers)
