"""Two clusters that meet in one namespace are told, and so are routers whose settings differ."""

from __future__ import annotations

from typing import Any

import pytest

from shared_registry import RouterConfig, SharedReplicaRegistry, StoreRefused
from shared_registry.admin.operator import Operator
from shared_registry.embedded import EmbeddedServer
from tests.support.space import A, Space, info


def config(server: EmbeddedServer, namespace: str, **settings: Any) -> RouterConfig:
    return RouterConfig(redis_url=server.url, namespace=namespace, **settings)


def registry(server: EmbeddedServer, namespace: str, **settings: Any) -> SharedReplicaRegistry:
    return SharedReplicaRegistry(config(server, namespace, **settings), health_checks=False)


async def test_a_router_of_another_cluster_is_refused_before_it_writes(space: Space, server: EmbeddedServer) -> None:
    async with registry(server, space.keys.namespace, cluster="eu"):
        before = {key for key in space.dump() if "r9" in key}
        stranger = registry(server, space.keys.namespace, cluster="us", router_id="r9", replicas=[])
        with pytest.raises(StoreRefused, match="belongs to the cluster 'eu', and `cluster` of this config is 'us'"):
            await stranger.start(timeout_seconds=10)
        assert {key for key in space.dump() if "r9" in key} == before == set()
        async with registry(server, space.keys.namespace, cluster="eu"), registry(server, space.keys.namespace):
            pass


@pytest.mark.parametrize("name", ["us", "eu", None])
async def test_an_operator_of_another_cluster_is_refused(
    space: Space, server: EmbeddedServer, name: str | None
) -> None:
    await space.add(A)
    space.raw.hset(space.keys.meta, "cluster", "eu")
    operator = Operator(config(server, space.keys.namespace, cluster=name))
    if name == "us":
        with pytest.raises(StoreRefused, match="another namespace or another Redis"):
            await operator.__aenter__()
    else:
        async with operator:
            pass


async def test_routers_go_on_while_their_cluster_is_renamed(space: Space, server: EmbeddedServer) -> None:
    async with registry(server, space.keys.namespace, cluster="old") as one:
        space.raw.hset(space.keys.meta, "cluster", "new")
        await one._parts.membership.heartbeat()
        async with registry(server, space.keys.namespace, cluster="new"):
            await one._parts.membership.heartbeat()
    assert space.raw.hget(space.keys.meta, "cluster") == "new"


async def test_a_name_is_given_again_after_a_loss(space: Space, server: EmbeddedServer) -> None:
    async with registry(server, space.keys.namespace, cluster="eu") as one:
        space.raw.delete(*space.dump())
        await one._parts.membership.heartbeat()
        assert space.raw.hget(space.keys.meta, "cluster") == "eu"


async def test_differing_settings_are_told_by_an_event(space: Space, server: EmbeddedServer) -> None:
    async with registry(server, space.keys.namespace, router_id="one") as one:
        async with registry(server, space.keys.namespace, router_id="same"):
            assert "settings_differ" not in space.event_kinds()
        async with registry(server, space.keys.namespace, router_id="other", failure_threshold=9) as other:
            [event] = [event for event in await space.reader.last_events(9) if event.kind.value == "settings_differ"]
            assert (event.router, event.by) == (other.router_key, one.router_key)
            assert set(event.reason.split(" and ")) == {one.config.fingerprint(), other.config.fingerprint()}


async def test_a_damaged_record_of_a_router_tells_nothing(space: Space) -> None:
    await space.store.heartbeat(info("router~1"), expiry_seconds=60)
    space.raw.delete(space.keys.router("router~1"))
    space.raw.set(space.keys.router("router~1"), "text")
    await space.store.heartbeat(info("router~2"), expiry_seconds=60)
    assert "settings_differ" not in space.event_kinds()
    space.raw.delete(space.keys.router("router~1"))
    await space.store.heartbeat(info("router~1"), expiry_seconds=60)
