"""Routers at rest on a real server: few reads of the event stream, and what it loses is found by heartbeats."""

from __future__ import annotations

import asyncio
from typing import Any

import redis.asyncio

from shared_registry import ReplicaEndpoint, RouterConfig, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer
from tests.support.until import until

HEARTBEAT, REFRESH = 0.2, 3.0


async def answer(url: str, *, timeout: float) -> tuple[float, None]:
    return 1.0, None


async def reads_of_events(client: Any) -> int:
    return int((await client.info("commandstats")).get("cmdstat_xread", {"calls": 0})["calls"])


async def test_a_router_at_rest_reads_the_event_stream_seldom(server: EmbeddedServer, namespace: str) -> None:
    refresh = 0.5
    config = RouterConfig(
        redis_url=server.url, namespace=namespace, heartbeat_seconds=HEARTBEAT, refresh_seconds=refresh
    )
    async with SharedReplicaRegistry(config) as registry, redis.asyncio.from_url(server.url) as client:
        await until(lambda: registry.is_leader)
        await asyncio.sleep(2 * refresh)
        before = await reads_of_events(client)
        await asyncio.sleep(12 * refresh)
        assert 1 <= await reads_of_events(client) - before <= 7, "4 or 5; without heartbeats 12"


async def test_a_lost_event_is_found_by_the_next_heartbeat(server: EmbeddedServer, namespace: str) -> None:
    config = RouterConfig(
        redis_url=server.url,
        namespace=namespace,
        replicas=[ReplicaEndpoint("http://127.0.0.1:9")],
        heartbeat_seconds=HEARTBEAT,
        refresh_seconds=REFRESH,
    )
    registry = SharedReplicaRegistry(config, http_get=answer)
    async with registry, redis.asyncio.from_url(server.url) as client:
        await until(lambda: registry.is_leader and registry.select())
        await asyncio.sleep(1.5 * REFRESH)  # from now on it waits for events, for three times as long
        lost, prefix = "9999999999999-0", f"sr:{{{namespace}}}:"
        async with client.pipeline() as transaction:
            transaction.hset(f"{prefix}replica:http://127.0.0.1:9", "weight", "7")
            transaction.xadd(f"{prefix}events", {"kind": "replica_updated"}, id=lost)
            transaction.xdel(f"{prefix}events", lost)
            transaction.hset(f"{prefix}meta", "revision", lost)
            await transaction.execute()
        await until(lambda: registry.all()[0].endpoint.weight == 7, seconds=1.5 * REFRESH)
