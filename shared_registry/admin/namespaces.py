"""Reads which namespaces a Redis holds. Belongs to none of them, and writes nothing."""

from __future__ import annotations

from shared_registry.config.address import RegistryAddress
from shared_registry.store import client
from shared_registry.store.keys import Keys
from shared_registry.store.namespaces import NamespaceRecord, find_namespaces


async def namespaces_of(config: RegistryAddress) -> list[NamespaceRecord]:
    """Return the namespaces of the Redis of a config, sorted by name. Its own need not be among them.

    Raises:
        StoreRefused: The credentials are wrong, or the rights do not allow to scan.
        StoreUnavailable: Redis did not answer in time.
    """
    clients = client.connect(
        config.redis_url,
        timeout_seconds=config.redis_timeout_seconds,
        block_seconds=config.refresh_seconds,
        key=Keys(config.namespace).meta,
    )
    try:
        return await find_namespaces(clients, timeout_seconds=config.redis_timeout_seconds)
    finally:
        await clients.close()
