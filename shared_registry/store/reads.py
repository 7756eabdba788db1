"""How a namespace is read: ordinary reads in a lane, and those that wait on a connection of their own."""

from __future__ import annotations

from typing import Any, cast

from redis.asyncio import RedisCluster

from shared_registry.store.channel import Channel, bounded
from shared_registry.store.client import Client, Clients
from shared_registry.store.keys import Keys
from shared_registry.store.lane import Lane

READS_AT_ONCE = 8
ENTRIES_AT_ONCE = 500
BLOCK_MARGIN_SECONDS = 1.0


class Reads:
    """What all reads of one namespace go by."""

    def __init__(self, clients: Clients, keys: Keys, *, timeout_seconds: float = 1.0) -> None:
        self._commands = clients.control
        self._blocking = clients.blocking
        self._longest_block_seconds = clients.longest_block_seconds
        self._failover = clients.failover
        self._keys = keys
        self._timeout_seconds = timeout_seconds
        lane = Lane(READS_AT_ONCE, seconds=timeout_seconds)
        self._channel = Channel(clients.control, keys, lane, timeout_seconds=timeout_seconds, failover=clients.failover)

    async def _block(self, streams: dict[str, str], seconds: float) -> object:
        seconds = min(seconds, self._longest_block_seconds)
        milliseconds = max(1, round(seconds * 1000))
        async with bounded(seconds + BLOCK_MARGIN_SECONDS, failover=self._failover):
            if isinstance(self._blocking, RedisCluster):
                return await _xread_by_key(self._blocking, *streams.items(), block=milliseconds)
            return await self._blocking.xread(streams, count=ENTRIES_AT_ONCE, block=milliseconds)


async def _xread_by_key(cluster: RedisCluster, stream: tuple[str, str], *, block: int) -> object:
    """Read a stream at the node that has it: redis-py would ask another node for the keys in XREAD, dead or alive."""
    key, after = stream
    await cluster.initialize()
    words = ("XREAD", "COUNT", ENTRIES_AT_ONCE, "BLOCK", block, "STREAMS", key, after)
    return await cluster.execute_command(*words, target_nodes=[cluster.get_node_from_key(key)])


async def execute(pipeline: Client) -> list[Any]:
    """Return the replies of a pipeline; raise the first error as the server put it, which redis-py 6 garbles."""
    replies: list[Any] = await pipeline.execute(raise_on_error=False)
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


def stream_entries(streams: object) -> list[tuple[str, dict[str, str]]]:
    """Return the entries in XREAD's reply for one stream, which redis-py gives as a list or, in RESP3, a dict."""
    if not streams:
        return []
    if isinstance(streams, dict):
        (batches,) = streams.values()
        return [entry for batch in batches for entry in batch]
    ((_, entries),) = cast("list[tuple[str, list[tuple[str, dict[str, str]]]]]", streams)
    return entries
