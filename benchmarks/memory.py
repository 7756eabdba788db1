"""What replicas, leases, waiters and routers cost in memory: a replica also in a router's process, all in Redis.

In the router: what is allocated (tracemalloc) after `start()` on a filled namespace, less the same on an empty one, in
a fresh process each. In Redis: the rise of `used_memory` with the replicas, without the event stream, which MEMORY
USAGE gives apart: it holds the last ten thousand changes, however many replicas there are. Leases and waiters have
named sessions, each of another name, as in the worst case; what stays of an ended session for `affinity_seconds` is
given apart. These figures are sums of MEMORY USAGE.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from benchmarks.namespace import NAMESPACE, PATIENCE_SECONDS, client_of, fill
from benchmarks.processes import Child
from benchmarks.rows import Row
from shared_registry.embedded import EmbeddedServer
from shared_registry.leases.ledger import new_lease_id
from shared_registry.model import RouterInfo
from shared_registry.store.client import Client, Clients
from shared_registry.store.commands import Store
from shared_registry.store.keys import Keys

TITLE = "memory"
REPLICAS, REPLICAS_QUICK = 10_000, 2_000
SLOTS_OF = 100
"""Replicas over which leases are spread."""
LASTING_SECONDS = 3600.0
AT_ONCE = 50


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
            costs = await session_costs(server.url, client, count, "sessions")
            in_router = await _router_bytes(server.url, NAMESPACE) - empty
    return [
        Row(f"a replica in a router ({count:,} there)", in_router / count, "bytes"),
        Row("a replica in Redis, without the event stream", in_redis / count, "bytes"),
        Row("an entry of the event stream, which keeps some 10,000", stream_bytes / entries, "bytes"),
        *(Row(f"{what} in Redis", each, "bytes") for what, each in costs.items()),
    ]


async def session_costs(redis_url: str, client: Client, count: int, namespace: str) -> dict[str, float]:
    """Return the bytes in Redis of a lease, a waiter, the affinity of an ended session, and a router."""
    await fill(redis_url, SLOTS_OF, namespace, capacity=count // SLOTS_OF)
    store = _store(client, namespace, "router~0")
    await _heartbeat(store, 0)

    async def rise(calls: Sequence[Callable[[], Awaitable[object]]]) -> float:
        """Return by how many bytes each call lets the keys grow."""
        before = await _namespace_bytes(client, namespace)
        for at in range(0, len(calls), AT_ONCE):
            await asyncio.gather(*(call() for call in calls[at : at + AT_ONCE]))
        return (await _namespace_bytes(client, namespace) - before) / len(calls)

    ids = [new_lease_id(f"session {number}") for number in range(2 * count)]
    leases, waiters = ids[:count], ids[count:]
    routers = [partial(_heartbeat, _store(client, namespace, f"router~{at}"), at) for at in range(1, count // 10)]
    lease = await rise([partial(store.acquire, one) for one in leases])
    waiter = await rise([partial(store.acquire, one, max_queue=2 * count) for one in waiters])
    await rise([partial(store.release, one) for one in waiters])
    ended = await rise([partial(store.release, one, affinity_seconds=LASTING_SECONDS) for one in leases])
    return {
        "a lease": lease,
        "a waiter": waiter,
        "the affinity of an ended session": lease + ended,
        "a router": await rise(routers),
    }


async def _namespace_bytes(client: Client, namespace: str) -> int:
    """Return how many bytes the keys of a namespace take, without the event stream."""
    events = Keys(namespace).events
    keys = [key async for key in client.scan_iter(match=f"{Keys(namespace).prefix}*", count=1000)]
    pipeline = client.pipeline(transaction=False)
    for key in keys:
        if key != events:
            pipeline.memory_usage(key, samples=0)
    return sum(await pipeline.execute())


def _store(client: Client, namespace: str, router: str) -> Store:
    return Store(Clients.of(client), Keys(namespace), router=router, timeout_seconds=PATIENCE_SECONDS)


async def _heartbeat(store: Store, number: int) -> None:
    info = RouterInfo(
        f"router~{number}", "gpu-router-1.example.org", 12345, "1.0.0", 1.0, "http://10.0.0.1:9000", "f" * 16
    )
    await store.heartbeat(info, expiry_seconds=LASTING_SECONDS)


async def _router_bytes(redis_url: str, namespace: str) -> int:
    config = {"redis_url": redis_url, "namespace": namespace}
    async with Child("router_process", {"config": config, "health_checks": False, "is_traced": True}) as router:
        return int(router.ready["traced_bytes"])


async def _used_bytes(client: Client) -> int:
    info: dict[str, Any] = await client.info("memory")
    return int(info["used_memory"])
