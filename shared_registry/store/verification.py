"""Whether the registry can work on a server."""

from __future__ import annotations

import logging
import re

from redis.asyncio import RedisCluster

from shared_registry.errors import StoreRefused
from shared_registry.store.channel import bounded
from shared_registry.store.client import Client

OLDEST_VERSION = (6, 2)
logger = logging.getLogger(__name__)


async def verify_server(client: Client, *, timeout_seconds: float) -> None:
    """Refuse a server that the registry cannot work on, and warn of one that may lose keys.

    Raises:
        StoreRefused: Older than Redis 6.2, or wrong credentials.
        StoreUnavailable: No answer.
    """
    async with bounded(timeout_seconds):
        options = {"target_nodes": RedisCluster.RANDOM} if isinstance(client, RedisCluster) else {}  # the caller's
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
