"""Finds the namespaces of a server, whatever their schemas, with the rights of a reader.

The keys of the server are scanned in pieces, so that no call keeps it busy for long. In a Redis Cluster, every primary
is scanned.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from redis.asyncio import Redis

from shared_registry.store.channel import bounded
from shared_registry.store.client import Client, Clients
from shared_registry.store.codec import milliseconds
from shared_registry.store.keys import EVERY_META, Keys, namespace_of
from shared_registry.store.slot_client import SlotClient

KEYS_AT_ONCE = 1000
NAMESPACES_AT_ONCE = 50


@dataclass(frozen=True, slots=True)
class NamespaceRecord:
    """One namespace. What cannot be read is `None`, and `error` says why.

    Attributes:
        name: The namespace.
        schema: The schema of its data, as it stands there.
        live_routers: How many routers have sent a heartbeat in time.
        replicas: How many replicas are registered.
        leader: The key of the router that is the leader; `None` while there is none.
        error: The server's error for what cannot be read, such as a missing right; otherwise empty.
    """

    name: str
    schema: str | None
    live_routers: int | None
    replicas: int | None
    leader: str | None
    error: str = ""


async def find_namespaces(clients: Clients, *, timeout_seconds: float) -> list[NamespaceRecord]:
    """Return the namespaces, sorted by name. One that begins or ends during the call may be left out.

    The call takes as long as the server needs to scan all its keys. It may be cancelled at any time.

    Args:
        clients: Their server is scanned; in a Redis Cluster, all primaries.
        timeout_seconds: The maximum time of one piece, of which a server with many keys needs many.

    Raises:
        StoreRefused: The rights do not allow to scan.
        StoreUnavailable: A server did not answer in time.
    """
    found: dict[str, NamespaceRecord] = {}
    async with contextlib.aclosing(_primaries(clients.commands, timeout_seconds)) as primaries:
        async for primary in primaries:
            names = sorted(await _names_at(primary, timeout_seconds))
            for at in range(0, len(names), NAMESPACES_AT_ONCE):
                for record in await _read(primary, names[at : at + NAMESPACES_AT_ONCE], timeout_seconds):
                    if record.name not in found or not record.error:  # a namespace that moves is seen at two nodes
                        found[record.name] = record
    return [found[name] for name in sorted(found)]


async def _primaries(client: Client, timeout_seconds: float) -> AsyncGenerator[Client]:
    """Yield a client of each primary."""
    if not isinstance(client, SlotClient):
        yield client
        return
    async with bounded(timeout_seconds):
        addresses = await client.owner.primaries()
    for host, port in addresses:
        async with Redis.from_pool(client.make_pool(host=host, port=port)) as primary:
            yield primary


async def _names_at(client: Client, timeout_seconds: float) -> set[str]:
    names: set[str] = set()
    cursor: int | None = None
    while cursor != 0:
        async with bounded(timeout_seconds):
            cursor, keys = await client.scan(cursor or 0, match=EVERY_META, count=KEYS_AT_ONCE)
        names.update(name for key in keys if (name := namespace_of(key)) is not None)
    return names


async def _read(client: Client, names: Sequence[str], timeout_seconds: float) -> list[NamespaceRecord]:
    async with bounded(timeout_seconds):
        seconds, microseconds = await client.time()
        now_ms = milliseconds(seconds + microseconds / 1e6)
        pipeline = client.pipeline(transaction=False)
        for keys in map(Keys, names):
            pipeline.hget(keys.meta, "schema")
            pipeline.zcount(keys.routers, f"({now_ms}", "+inf")
            pipeline.zcard(keys.replicas)
            pipeline.hget(keys.leader, "router")
        replies = await pipeline.execute(raise_on_error=False)  # each namespace has its own rights and faults
    return [_record(name, replies[4 * at : 4 * at + 4]) for at, name in enumerate(names)]


def _record(name: str, replies: Sequence[object]) -> NamespaceRecord:
    errors = [str(reply) for reply in replies if isinstance(reply, Exception)]
    schema, live_routers, replicas, leader = replies
    return NamespaceRecord(
        name,
        schema if isinstance(schema, str) else None,
        live_routers if isinstance(live_routers, int) else None,
        replicas if isinstance(replicas, int) else None,
        leader if isinstance(leader, str) else None,
        errors[0] if errors else "",
    )
