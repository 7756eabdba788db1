"""Many replicas in one call: each as a call of its own would register it, and one that is refused affects no other."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from shared_registry import ConfigError, ReplicaEndpoint, RouterConfig, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer
from shared_registry.errors import KeyConflict, ReplicaClaimed, StoreUnavailable
from shared_registry.model import Source
from shared_registry.store.answers import new_token
from shared_registry.store.registering import AT_ONCE, Registered
from tests.support.space import A, B, C, Space, on_server

POD = "http://127.0.0.9:8000"
ITS_OWN = {"incarnation", "instance", "spec_request", "revision"}


async def many(space: Space, endpoints: Mapping[str, ReplicaEndpoint], mode: Source = Source.SEED) -> list[Registered]:
    return await space.add_all(endpoints, mode=mode, by="me")


async def singly(space: Space, endpoints: Mapping[str, ReplicaEndpoint], mode: Source) -> list[Registered]:
    found = []
    for key, endpoint in endpoints.items():
        try:
            await space.store.register(key, endpoint, mode=mode, request=new_token(), by="me")
        except (ConfigError, ReplicaClaimed, KeyConflict) as error:
            found.append(Registered(key, error=error))
        else:
            found.append(Registered(key))
    return found


def content(space: Space) -> dict[str, Any]:
    """Return what the namespace has, without ids, times, and the events' ids."""
    found: dict[str, Any] = dict(space.dump())
    found.pop(space.keys.meta)
    found[space.keys.events] = [
        {
            name: value
            for name, value in fields.items()
            if name in ("kind", "replica", "by", "router", "admin", "weight")
        }
        for _, fields in space.raw.xrange(space.keys.events)
    ]
    for key, value in found.items():
        if key.startswith(space.keys.replica_prefix) and isinstance(value, dict):
            found[key] = {name: text for name, text in value.items() if name not in ITS_OWN}
            found[key] = {name: text for name, text in found[key].items() if not name.endswith("_at_ms")}
            found[key] = {name: text for name, text in found[key].items() if not name.endswith("since_ms")}
    of_time = {space.keys.removed, space.keys.announced}
    return {key.removeprefix(space.keys.prefix): value for key, value in found.items() if key not in of_time}


def some_endpoints(rng: random.Random) -> dict[str, ReplicaEndpoint]:
    urls = rng.sample([f"http://10.0.0.{number}:8000" for number in range(9)], rng.randint(1, 9))
    return {
        url: ReplicaEndpoint(
            url,
            rng.choice([None, None, "one", "two", "three"]),
            primary=rng.random() < 0.3,
            weight=rng.choice([1.0, 2.0]),
            capacity=rng.choice([0, 2]),
            order=rng.choice([None, None, 0, 3]),
            health_check_path=rng.choice([None, "/live"]),
        )
        for url in urls
    }


@pytest.mark.parametrize("seed", range(12))
async def test_many_at_once_are_as_registered_singly(server: EmbeddedServer, namespace: str, seed: int) -> None:
    rng = random.Random(seed)
    async with (
        on_server(server.url, f"{namespace}-a") as together,
        on_server(server.url, f"{namespace}-b") as alone,
    ):
        for space in (together, alone):
            await space.store.announce(POD, ReplicaEndpoint(POD, "one"), owner="o", instance="i", ttl_seconds=60)
        for _ in range(5):
            endpoints, mode = some_endpoints(rng), rng.choice([Source.SEED, Source.SEED, Source.EXPLICIT])
            if rng.random() < 0.3:
                endpoints[POD] = ReplicaEndpoint(POD)
            found, expected = await many(together, endpoints, mode), await singly(alone, endpoints, mode)
            assert [(one.key, str(one.error)) for one in found] == [(one.key, str(one.error)) for one in expected]
            gone = rng.choice([*endpoints])
            for space in (together, alone):
                if gone != POD and space.fields(gone):
                    await space.remove(gone)
            assert content(together) == content(alone)


async def test_one_that_is_refused_affects_no_other(space: Space) -> None:
    await space.add(A, name="gpu-1")
    await space.store.announce(POD, ReplicaEndpoint(POD), owner="pod", instance="i", ttl_seconds=60)
    space.raw.set(space.keys.replica(B), "no hash")
    urls = [POD, B, C, "http://10.0.0.8:8000", "http://10.0.0.9:8000"]
    names = {C: "gpu-1", urls[4]: "gpu-2"}
    answers = await many(space, {url: ReplicaEndpoint(url, names.get(url)) for url in urls})
    refused = {one.key: one.error for one in answers if one.error is not None}
    assert {key: type(error) for key, error in refused.items()} == {POD: ReplicaClaimed, B: KeyConflict, C: ConfigError}
    assert "gpu-1" in str(refused[C])
    assert A in str(refused[C])
    assert set(await space.reader.urls()) == {A, POD, *urls[3:]}
    assert not space.fields(C), "nothing of it was written"
    assert space.fields(urls[4])["name"] == "gpu-2"


async def test_what_an_operator_removed_stays_removed(space: Space) -> None:
    await space.add(A)
    await space.remove(A)
    answers = await many(space, {url: ReplicaEndpoint(url) for url in (A, B)})
    assert answers == [Registered(A, is_tombstone=True), Registered(B)]
    assert await space.reader.urls() == [B]


async def test_hundreds_keep_their_order_and_need_few_calls(server: EmbeddedServer, namespace: str) -> None:
    urls = [f"http://10.1.{number >> 8}.{number & 255}:8000" for number in range(10 * AT_ONCE + 1)]
    config = RouterConfig(redis_url=server.url, namespace=namespace, replicas=[ReplicaEndpoint(url) for url in urls])
    async with SharedReplicaRegistry(config, health_checks=False) as registry:
        assert [replica.url for replica in registry.all()] == urls
        assert [replica.endpoint.order for replica in registry.all()] == list(range(len(urls)))
        assert sum(registry.call_counts.seconds["register_replicas"].counts) == 11
    async with SharedReplicaRegistry(config, health_checks=False) as registry:
        assert "register_replicas" not in registry.call_counts.seconds, "all are known"


async def test_names_of_earlier_versions_are_entered_first(space: Space) -> None:
    await space.add(A, name="gpu-1")
    earlier = {f"http://earlier-{number}": number for number in range(1500)}
    space.raw.zadd(space.keys.replicas, earlier)
    space.raw.hdel(space.keys.meta, "names_cursor")
    space.raw.delete(space.keys.names)
    answers = await many(space, {B: ReplicaEndpoint(B, "gpu-1"), C: ReplicaEndpoint(C, "gpu-3")})
    assert {one.key: type(one.error) for one in answers} == {B: ConfigError, C: type(None)}


async def test_a_call_that_fails_ends_those_under_way(server: EmbeddedServer, namespace: str) -> None:
    endpoint = ReplicaEndpoint(A)
    endpoints = {f"{A}{number}": replace(endpoint, url=f"{A}{number}") for number in range(10 * AT_ONCE)}
    async with on_server(server.url, namespace) as space:
        space.raw.config_set("maxmemory", "1")
        try:
            with pytest.raises(StoreUnavailable):
                await many(space, endpoints)
        finally:
            space.raw.config_set("maxmemory", "0")
        await many(space, endpoints)
        assert len(await space.reader.urls()) == 10 * AT_ONCE
