"""A name is for one replica, whoever gives it: programs at the same moment, config files, earlier versions."""

from __future__ import annotations

import asyncio
import logging

import pytest

from shared_registry import ConfigError, ReplicaEndpoint, RouterConfig, SharedReplicaRegistry
from shared_registry.admin.check import Violation, find_violations
from shared_registry.admin.repair import repair
from shared_registry.embedded import EmbeddedServer
from shared_registry.model import Source
from shared_registry.store.answers import new_token
from tests.support.space import A, B, C, Space

MANY = 1200


async def named(space: Space, url: str, name: str, mode: Source = Source.EXPLICIT, request: str = "") -> bool:
    """Register a replica with a name; return whether that changed anything."""
    endpoint = ReplicaEndpoint(url, name)
    return bool(await space.store.register(url, endpoint, mode=mode, request=request or new_token(), by="me"))


async def found(space: Space) -> list[Violation]:
    return await find_violations(space.reader, space.keys)


def holders(space: Space, name: str) -> list[str]:
    urls = space.raw.zrange(space.keys.replicas, 0, -1)
    return [url for url in urls if space.raw.hget(space.keys.replica(url), "name") == name]


async def test_of_registrations_at_one_moment_one_gets_the_name(space: Space) -> None:
    urls = [f"http://replica-{number}" for number in range(20)]
    results = await asyncio.gather(*(named(space, url, "gpu-1") for url in urls), return_exceptions=True)
    assert [one for one in results if one is True] == [True]
    assert all(isinstance(one, ConfigError) for one in results if one is not True)
    assert len(holders(space, "gpu-1")) == len(space.raw.zrange(space.keys.replicas, 0, -1)) == 1
    assert await found(space) == []


async def test_a_repeated_registration_keeps_its_name(space: Space) -> None:
    assert await named(space, A, "gpu-1", request="one")
    assert not await named(space, A, "gpu-1", request="one")
    assert not await named(space, A, "gpu-1")


async def test_a_name_is_free_after_a_removal_or_another_name(space: Space) -> None:
    await named(space, A, "gpu-1")
    await named(space, A, "gpu-2")
    assert await named(space, B, "gpu-1")
    with pytest.raises(ConfigError, match=f"{C} cannot be named 'gpu-1': {B} has this name"):
        await named(space, C, "gpu-1")
    await space.remove(B)
    assert await named(space, C, "gpu-1")
    with pytest.raises(ConfigError, match=f"{B} cannot be named 'gpu-1': {C} has this name"):
        await named(space, B, "gpu-1")
    assert await found(space) == []


async def test_names_of_an_earlier_version_are_entered_first(space: Space) -> None:
    pipeline = space.raw.pipeline()
    for number in range(MANY):
        await space.add(f"http://replica-{number}")
        pipeline.hset(space.keys.replica(f"http://replica-{number}"), "name", f"gpu-{number}")
    pipeline.hdel(space.keys.meta, "names_cursor")
    pipeline.delete(space.keys.names)
    pipeline.execute()
    assert await found(space) == []
    for number in (0, MANY // 2, MANY - 1):
        with pytest.raises(ConfigError, match=f"http://replica-{number} has this name"):
            await named(space, A, f"gpu-{number}")
    assert space.raw.hlen(space.keys.names) == MANY
    assert await named(space, A, "another")


async def test_check_tells_names_that_an_earlier_version_gave_twice(space: Space) -> None:
    await named(space, A, "gpu-1")
    await named(space, B, "gpu-2")
    space.raw.hset(space.keys.replica(B), "name", "gpu-1")
    (one,) = await found(space)
    assert (one.rule, one.key) == ("name", space.keys.replica(B))
    assert one.message == f"has the name 'gpu-1', and so has {A}; give one of them another with `shared-registry add`"
    assert not await named(space, B, "gpu-1")
    assert await named(space, B, "gpu-3")
    assert await found(space) == []


async def test_repair_enters_names_that_are_missing(space: Space) -> None:
    await named(space, A, "gpu-1")
    await named(space, B, "gpu-2")
    space.raw.hdel(space.keys.names, "gpu-1")
    space.raw.hset(space.keys.names, "gpu-2", A)
    before = await found(space)
    assert [(one.rule, one.key, one.url) for one in before] == [
        ("membership", space.keys.names, A),
        ("membership", space.keys.names, B),
    ]
    assert await repair(space.store, before, by="me")
    assert await found(space) == []
    assert space.raw.hgetall(space.keys.names) == {"gpu-1": A, "gpu-2": B}


async def test_the_second_config_with_a_name_is_told(
    server: EmbeddedServer, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)

    def config(url: str) -> RouterConfig:
        replicas = [ReplicaEndpoint(url, "gpu-1"), ReplicaEndpoint("http://both:8000", "gpu-2")]
        return RouterConfig(redis_url=server.url, namespace=namespace, replicas=replicas)

    async with SharedReplicaRegistry(config("http://one:8000"), health_checks=False) as first:
        assert "cannot be named" not in caplog.text
        async with SharedReplicaRegistry(config("http://two:8000"), health_checks=False) as second:
            urls = ["http://one:8000", "http://both:8000"]
            assert [one.url for one in second.all()] == [one.url for one in first.all()] == urls
    told = [record.getMessage() for record in caplog.records if "cannot be named" in record.getMessage()]
    assert told == [
        "config: http://two:8000 cannot be named 'gpu-1': http://one:8000 has this name; choose another one, "
        "or rename or remove that replica first; until then it is not registered as this config says"
    ]
