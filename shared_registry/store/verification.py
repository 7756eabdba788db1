"""Checks whether a server's version and settings suit the registry."""

from __future__ import annotations

import logging
import re

from redis.asyncio import RedisCluster

from shared_registry.errors import StoreRefused
from shared_registry.store.channel import bounded
from shared_registry.store.client import Client

OLDEST_VERSION = (6, 2)
logger = logging.getLogger(__name__)


async def verify_server(client: Client, key: str, *, timeout_seconds: float) -> None:
    """Refuse a server that the registry cannot use. Log a warning for a server that may drop keys.

    Args:
        client: Its server is asked; if it is a cluster's client, the node that serves the key.
        key: One of the keys that will be used.
        timeout_seconds: The maximum time.

    Raises:
        StoreRefused: The server is older than Redis 6.2, or the credentials are wrong.
        StoreUnavailable: The server did not answer in time.
    """
    async with bounded(timeout_seconds):
        options = {}
        if isinstance(client, RedisCluster):  # the caller's
            await client.initialize()
            options = {"target_nodes": client.get_node_from_key(key)}
        server = await client.info("server", **options)
        memory = await client.info("memory", **options)
    version = str(server.get("redis_version", ""))
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers < OLDEST_VERSION:
        raise StoreRefused(f"Redis {version} is too old; the registry needs Redis 6.2 or newer, or Valkey")
    policy = memory.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        logger.warning(
            "redis: maxmemory-policy is %s, under which Redis may drop registry keys; set it to noeviction", policy
        )
