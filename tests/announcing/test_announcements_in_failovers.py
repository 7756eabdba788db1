"""Announced replicas while another Redis becomes the primary, which lacks some of the last writes, or all."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import pytest
from redis import Redis

from shared_registry import AdminState, Announcement, Lease, ReplicaEndpoint, RouterConfig, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer
from shared_registry.model import EventKind
from shared_registry.store.commands import Store
from shared_registry.store.keys import Keys
from shared_registry.store.replies import Beat, BeatWord
from tests.support.failover.deployments import SentinelDeployment, sentinels
from tests.support.pods import TTL, event_kinds, pod_settings, serves
from tests.support.replica_server import ReplicaServer
from tests.support.until import until


@pytest.mark.timeout(180)
async def test_a_planned_failover_expires_nobody(
    own_server: Callable[..., EmbeddedServer], redis_binary: Path, tmp_path: Path
) -> None:
    """The old primary takes heartbeats for ten seconds after the sentinels name the new one."""
    async with contextlib.AsyncExitStack() as stack:
        found = await stack.enter_async_context(sentinels(own_server, tmp_path, redis_binary))
        redis = cast("SentinelDeployment", found)
        config = RouterConfig(redis_url=redis.url, namespace="failover", health_check_interval_seconds=0.3)
        replica = await stack.enter_async_context(ReplicaServer())
        registry = await stack.enter_async_context(SharedReplicaRegistry(config))
        pod = Announcement(config, ReplicaEndpoint(replica.url()), ttl_seconds=TTL, drain_seconds=0)
        await stack.enter_async_context(pod)
        await until(lambda: serves(registry), "it serves")
        await redis.copied()
        await redis.begin_failover()
        await redis.until_new_is_named()
        await until(lambda: redis.is_in_sync(1 - redis.primary), "the old primary is a replica", 60)
        await asyncio.sleep(TTL)
        assert EventKind.REPLICA_EXPIRED not in await event_kinds(registry)
        assert pod.is_held


@pytest.fixture
async def registry(server: EmbeddedServer, namespace: str) -> AsyncIterator[SharedReplicaRegistry]:
    async with SharedReplicaRegistry(pod_settings(server, namespace)) as registry:
        yield registry


async def test_a_drain_outlives_lost_writes(
    server: EmbeddedServer, namespace: str, registry: SharedReplicaRegistry
) -> None:
    """Else the replica would end under its sessions."""
    async with holding(server, namespace, registry) as (pod, lease), contextlib.AsyncExitStack() as stack:
        raw: Any = stack.enter_context(Redis.from_url(server.url))
        older = {key: raw.dump(key) for key in raw.scan_iter(f"{Keys(namespace).prefix}*")}
        drain = asyncio.create_task(pod.drain(60))
        await until(lambda: registry.all()[0].admin is AdminState.DRAINING, "it drains")
        for key in [*raw.scan_iter(f"{Keys(namespace).prefix}*")]:
            raw.delete(key)
        for key, content in older.items():
            raw.restore(key, 0, content)
        await asyncio.sleep(2)
        await until(lambda: registry.all()[0].admin is AdminState.DRAINING, "it drains again")
        assert not drain.done()
        await lease.release()
        assert await asyncio.wait_for(drain, 30)


@pytest.mark.parametrize("is_put_back", [True, False])
async def test_a_drain_waits_until_routers_restore_the_replica(
    server: EmbeddedServer,
    namespace: str,
    registry: SharedReplicaRegistry,
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_put_back: bool,
) -> None:
    ttl_seconds = 600.0 if is_put_back else TTL
    async with holding(server, namespace, registry, ttl_seconds=ttl_seconds) as (pod, lease):
        with monkeypatch.context() as lost:
            beats = 0

            async def beat(*_: object) -> Beat:
                nonlocal beats
                beats += 1
                return Beat(BeatWord.UNKNOWN)

            lost.setattr(Store, "beat", beat)
            began = time.monotonic()
            drain = asyncio.create_task(pod.drain(60))
            await until(lambda: beats > 3, "it asks several times")
            if is_put_back:
                await until(lambda: registry.all()[0].admin is AdminState.DRAINING, "it drains")
                assert not drain.done()
            else:
                assert await asyncio.wait_for(drain, 30)
                assert time.monotonic() - began >= TTL, "routers have one time to live to put it back"
        await lease.release()
        assert await asyncio.wait_for(drain, 30)


@contextlib.asynccontextmanager
async def holding(
    server: EmbeddedServer, namespace: str, registry: SharedReplicaRegistry, *, ttl_seconds: float = TTL
) -> AsyncIterator[tuple[Announcement, Lease]]:
    """Announce a replica, and open a session on it."""
    async with ReplicaServer() as replica:
        endpoint = ReplicaEndpoint(replica.url())
        config = pod_settings(server, namespace)
        async with Announcement(config, endpoint, ttl_seconds=ttl_seconds, drain_seconds=0) as pod:
            await until(lambda: serves(registry), "it serves")
            yield pod, await registry.acquire("a session")
