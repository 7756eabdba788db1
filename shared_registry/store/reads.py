"""The base of all reads of a namespace: ordinary reads use a lane, blocking reads use a client of their own."""

from __future__ import annotations

import math
from typing import Any, cast

from redis.asyncio import RedisCluster

from shared_registry.store.channel import Channel, bounded
from shared_registry.store.client import Client, Clients
from shared_registry.store.keys import Keys
from shared_registry.store.lane import Lane

READS_AT_ONCE = 8
ENTRIES_AT_ONCE = 200
"""How many entries of a stream are read in one go. The client library parses all of them without a pause."""
BLOCK_MARGIN_SECONDS = 1.0
REPLY_SECONDS = 0.2
"""How long the reply to a blocking read may take after its end until the time limit begins to count pauses."""


class Reads:
    """The clients, the lane and the timeouts for all reads of one namespace."""

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
        seconds, milliseconds = self._block_time(seconds)
        async with self._bounded_block(seconds):
            if isinstance(self._blocking, RedisCluster):
                return await _xread_by_key(self._blocking, *streams.items(), block=milliseconds)
            return await self._blocking.xread(streams, count=ENTRIES_AT_ONCE, block=milliseconds)

    def _block_time(self, seconds: float) -> tuple[float, int]:
        """Return how long a blocking read may wait, in seconds, and in milliseconds for the server."""
        seconds = min(seconds, self._longest_block_seconds)
        return seconds, max(1, round(seconds * 1000))

    def _bounded_block(self, seconds: float) -> bounded:
        limit, quiet_seconds = seconds + BLOCK_MARGIN_SECONDS, seconds + REPLY_SECONDS
        return bounded(limit, failover=self._failover, quiet_seconds=quiet_seconds)


async def _xread_by_key(cluster: RedisCluster, stream: tuple[str, str], *, block: int) -> object:
    """Read a stream at the node that has it.

    Without that, redis-py first asks another node which keys an XREAD names, even if that node is dead.
    """
    key, after = stream
    await cluster.initialize()
    command = ("XREAD", "COUNT", ENTRIES_AT_ONCE, "BLOCK", block, "STREAMS", key, after)
    return await cluster.execute_command(*command, target_nodes=[cluster.get_node_from_key(key)])


async def execute(pipeline: Client) -> list[Any]:
    """Return the replies of a pipeline. Raise the first error with the server's text, which redis-py 6 would change."""
    replies: list[Any] = await pipeline.execute(raise_on_error=False)
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


def load_of(score: float, weight: float) -> int:
    """Return the number of sessions on a replica, by its score in a ready set; 0 for a score that cannot be."""
    return max(round(score * weight), 0) if math.isfinite(score) else 0


def stream_entries(streams: object) -> list[tuple[str, dict[str, str]]]:
    """Return the entries in XREAD's reply for one stream. redis-py returns a list or, with RESP3, a dict."""
    if not streams:
        return []
    if isinstance(streams, dict):
        (batches,) = streams.values()
        return [entry for batch in batches for entry in batch]
    ((_, entries),) = cast("list[tuple[str, list[tuple[str, dict[str, str]]]]]", streams)
    return entries
