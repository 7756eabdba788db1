"""What a router reads of leases: which there are, how many each replica has, and which sessions wait for one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass

from shared_registry.model import ReplicaEndpoint
from shared_registry.store.reads import Reads, execute, stream_entries
from shared_registry.store.replies import Grant

LEASES_AT_ONCE = 500
WAITERS_AT_ONCE = 250


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


class LeaseReader(Reads):
    """A part of `Reader`."""

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
        entries = stream_entries(await self._block({key: after}, seconds))
        grants = {entry["lease_id"]: Grant(entry["url"], entry["revision"]) for _, entry in entries}
        return entries[-1][0] if entries else after, grants
