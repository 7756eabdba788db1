"""Routers that are not the leader learn of its renewals from their heartbeats, so that they need not campaign."""

from __future__ import annotations

import asyncio

from shared_registry import RouterConfig, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer
from tests.support.until import until

LEASE = 3.0


def calls_of(registry: SharedReplicaRegistry, command: str) -> int:
    """Return how many calls of a command were answered."""
    return sum(registry.call_counts.seconds[command].counts)


async def test_a_router_at_rest_does_not_campaign_while_another_leads(server: EmbeddedServer, namespace: str) -> None:
    config = RouterConfig(redis_url=server.url, namespace=namespace, lease_seconds=LEASE, heartbeat_seconds=0.3)
    async with SharedReplicaRegistry(config) as leader:
        await until(lambda: leader.is_leader)
        async with SharedReplicaRegistry(config) as other:
            await until(lambda: calls_of(other, "campaign") == 1)
            heartbeats = calls_of(other, "heartbeat")
            await asyncio.sleep(2.5 * LEASE)
            assert calls_of(other, "heartbeat") >= heartbeats + 5
            assert calls_of(other, "campaign") <= 2, "1, or 2 if a heartbeat came too late; without hearing 3 or more"
            await leader.stop()
            await until(lambda: other.is_leader)
