"""What a replica costs in memory: in a router's process, and in Redis.

In the router: what is allocated (tracemalloc) after `start()` on a filled namespace, less the same on an empty one, in
a fresh process each. In Redis: the rise of `used_memory` with the replicas, without the event stream, which MEMORY
USAGE gives apart: it holds the last ten thousand changes, however many replicas there are.
"""

from __future__ import annotations

from typing import Any

from benchmarks.namespace import NAMESPACE, client_of, fill
from benchmarks.processes import Child
from benchmarks.rows import Row
from shared_registry.embedded import EmbeddedServer
from shared_registry.store.client import Client
from shared_registry.store.keys import Keys

TITLE = "memory"
REPLICAS, REPLICAS_QUICK = 10_000, 2_000


async def measure(*, is_quick: bool) -> list[Row]:
    """Return bytes per replica."""
    count = REPLICAS_QUICK if is_quick else REPLICAS
    with EmbeddedServer() as server:
        async with client_of(server.url) as client:
            empty = await _router_bytes(server.url, "nothing-there")
            before = await _used_bytes(client)
            await fill(server.url, count)
            stream_bytes: int = await client.memory_usage(Keys(NAMESPACE).events, samples=0)
            in_redis = await _used_bytes(client) - before - stream_bytes
            entries: int = await client.xlen(Keys(NAMESPACE).events)
            in_router = await _router_bytes(server.url, NAMESPACE) - empty
    return [
        Row(f"a replica in a router ({count:,} there)", in_router / count, "bytes"),
        Row("a replica in Redis, without the event stream", in_redis / count, "bytes"),
        Row("an entry of the event stream, which keeps some 10,000", stream_bytes / entries, "bytes"),
    ]


async def _router_bytes(redis_url: str, namespace: str) -> int:
    config = {"redis_url": redis_url, "namespace": namespace}
    async with Child("router_process", {"config": config, "health_checks": False, "is_traced": True}) as router:
        return int(router.ready["traced_bytes"])


async def _used_bytes(client: Client) -> int:
    info: dict[str, Any] = await client.info("memory")
    return int(info["used_memory"])
