"""A registry's own `register`: whole specs, and specs by their attributes."""

from __future__ import annotations

import pytest

from shared_registry import ConfigError, ReplicaEndpoint, RouterConfig, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer

URL = "http://replica-1:8000"


async def test_an_endpoint_may_be_given_by_its_attributes(server: EmbeddedServer, namespace: str) -> None:
    config = RouterConfig(redis_url=server.url, namespace=namespace)
    async with SharedReplicaRegistry(config, health_checks=False) as registry:
        replica = await registry.register(URL, capacity=4, name="gpu-1", by="me")
        assert replica.endpoint == ReplicaEndpoint(URL, "gpu-1", capacity=4, order=0)
        await registry.register(replica.endpoint, capacity=5)
        assert replica.endpoint == ReplicaEndpoint(URL, "gpu-1", capacity=5, order=0)
        with pytest.raises(ConfigError, match=r"endpoint\.capcity: no such setting; did you mean capacity\?"):
            await registry.register(URL, capcity=4)
        assert replica.endpoint.capacity == 5


async def test_the_name_of_another_replica_is_refused(server: EmbeddedServer, namespace: str) -> None:
    config = RouterConfig(redis_url=server.url, namespace=namespace)
    other = "http://replica-2:8000"
    async with SharedReplicaRegistry(config, health_checks=False) as registry:
        await registry.register(URL, name="gpu-1")
        with pytest.raises(ConfigError, match=f"{other} cannot be named 'gpu-1': {URL} has this name"):
            await registry.register(other, name="gpu-1")
        assert [replica.url for replica in registry.all()] == [URL]
        await registry.register(URL, name="gpu-1", capacity=4)
        await registry.deregister("gpu-1")
        await registry.register(other, name="gpu-1")
        assert registry.get("gpu-1") == registry.get(other)
