"""Reads leases, the loads of replicas, and the queue."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared_registry.errors import KeyConflict
from shared_registry.model import ReplicaEndpoint
from shared_registry.store.reads import Reads, load_of, stream_entries

if TYPE_CHECKING:
    from shared_registry.store.replies import Grant

LEASES_AT_ONCE = 500
WAITERS_AT_ONCE = 250
GRANT_FIELDS = {"lease_id", "url", "revision"}
"""The fields of each entry of an inbox."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A session that waits for a slot.

    Attributes:
        router: The key of the session's router.
        lease_id: The lease id of the session.
        sequence: Its sequence, which orders the queue: about the time when it joined, in milliseconds since the Unix
            epoch.
    """

    router: str
    lease_id: str
    sequence: float


class LeaseReader(Reads):
    """The part of `Reader` for leases, loads and the queue."""

    async def in_flight(self, key: str) -> int | None:
        """Return the number of sessions on a replica, removed or not; `None` if Redis has no count for it.

        Raises:
            KeyConflict: The count is no number.
        """
        async with self._channel.bounded():
            value = await self._commands.hget(self._keys.replica(key), "in_flight")
        if value is None or value.isdecimal():
            return None if value is None else int(value)
        raise KeyConflict(f"replica {key}: field in_flight holds {value!r}; run `shared-registry check --repair`")

    async def leases(self, router: str) -> AsyncIterator[dict[str, str]]:
        """Yield a router's leases in pieces, as lease id to canonical url.

        A lease that exists during the whole read is yielded at least once. A lease that is added or ended meanwhile may
        be missing.
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
        self,
        endpoints: Mapping[str, ReplicaEndpoint],
        *,
        ramping: Collection[str] = (),
        spares: Mapping[str, ReplicaEndpoint] | None = None,
    ) -> tuple[dict[str, int], list[str]]:
        """Return the number of sessions on each healthy, active replica among these, and the keys of all routers.

        The loads are computed from the ready sets, because a replica's score is its load divided by its weight. While a
        replica ramps up, its score is higher, so its load is read from its hash.

        Args:
            endpoints: The endpoint of each replica, by canonical url.
            ramping: Canonical urls of the replicas that ramp up.
            spares: The endpoints of replicas that are not healthy and may take sessions in a panic. The result counts
                these too. A spare replica without a free slot counts as full.
        """
        keys, spares = self._keys, spares or {}
        async with self._channel.bounded():
            pipeline = self._commands.pipeline(transaction=False)
            pipeline.zrange(keys.ready_primary, 0, -1, withscores=True)
            pipeline.zrange(keys.ready_secondary, 0, -1, withscores=True)
            pipeline.smembers(keys.full)
            pipeline.zrange(keys.routers, 0, -1)
            ramping = [url for url in ramping if url in endpoints]
            for url in ramping:
                pipeline.hget(keys.replica(url), "in_flight")
            for key in (keys.spare_primary, keys.spare_secondary) if spares else ():
                pipeline.zrange(key, 0, -1, withscores=True)
            replies = await pipeline.execute(raise_on_error=False)
            for reply in (*replies[:4], *replies[4 + len(ramping) :]):
                if isinstance(reply, Exception):
                    raise reply
            primary, secondary, full, routers, *rest = replies
        in_flight, spare_scores = rest[: len(ramping)], rest[len(ramping) :]
        scores = [(url, score) for url, score in (*primary, *secondary) if url in endpoints]
        loads = {url: load_of(float(score), endpoints[url].weight) for url, score in scores}
        loads |= {url: endpoints[url].capacity for url in full if url in endpoints}
        counts = zip(ramping, in_flight, strict=True)  # a damaged one keeps the load that its score shows
        loads |= {
            url: int(count) for url, count in counts if isinstance(count, str) and count.isdigit() and url in loads
        }
        loads |= {url: endpoint.capacity for url, endpoint in spares.items()}
        for url, score in itertools.chain(*spare_scores):
            if url in spares:
                loads[url] = load_of(float(score), spares[url].weight)
        return loads, routers

    async def queue_depth(self) -> int:
        """Return the number of waiting sessions, over all routers."""
        async with self._channel.bounded():
            return int(await self._commands.zcard(self._keys.queue))

    async def positions(self, router: str, lease_ids: Sequence[str]) -> tuple[int, dict[str, int]]:
        """Return the length of the queue, and the positions of a router's sessions, counted from 1.

        A lease id that is not in the queue has no position in the result.
        """
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
        """Yield all waiting sessions in the order of the queue, in pieces. Each piece is read at one instant."""
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
        """Return the id of the last entry read from a router's inbox, and the granted slots by lease id.

        Args:
            router: The router's key.
            after: The id after which to read.
            seconds: How long to wait for the first entry.
        """
        from shared_registry.store.replies import Grant  # noqa: PLC0415  slow to import, and only routers wait here

        key = self._keys.inbox(router)
        entries = stream_entries(await self._block({key: after}, seconds))
        grants = {
            entry["lease_id"]: Grant(entry["url"], entry["revision"], is_spare=entry.get("is_spare") == "1")
            for _, entry in entries
            if entry.keys() >= GRANT_FIELDS  # anything else was written by hand
        }
        return entries[-1][0] if entries else after, grants
