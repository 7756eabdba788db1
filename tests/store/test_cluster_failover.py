"""Redis Cluster while nodes die, hang and come back: only the namespace's own shard matters, and it is found again."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import warnings
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from redis.asyncio import RedisCluster as RedisClusterClient
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from shared_registry import ReplicaEndpoint, RouterConfig, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer
from shared_registry.errors import RegistryError, SlotMigrating, StoreUnavailable
from shared_registry.store.keys import Keys
from tests.support.redis_cluster import PRIMARIES, RedisCluster, formed
from tests.support.space import A, B
from tests.support.until import until

CURRENT_SECONDS = 3.0
OwnServer = Callable[..., EmbeddedServer]


@pytest.fixture
async def cluster(own_server: OwnServer) -> AsyncIterator[RedisCluster]:
    try:
        cluster = await formed(own_server)
    except StoreUnavailable as error:
        pytest.skip(f"this server cannot form a cluster: {error}")
    yield cluster
    cluster.close()


@contextlib.asynccontextmanager
async def two_routers(
    cluster: RedisCluster, shard: int, *, url: str = "", clients: tuple[Any, Any] = (None, None)
) -> AsyncIterator[tuple[SharedReplicaRegistry, SharedReplicaRegistry]]:
    config = RouterConfig(
        redis_url=url or cluster.url,
        namespace=cluster.namespace_on(shard),
        refresh_seconds=0.2,
        heartbeat_seconds=0.5,
        redis_timeout_seconds=1.0,
        replicas=[ReplicaEndpoint(A)],
    )
    one, other = (SharedReplicaRegistry(config, health_checks=False, redis=client) for client in clients)
    async with one, other:
        yield one, other


async def work(one: SharedReplicaRegistry, other: SharedReplicaRegistry, *, seconds: float = 30) -> None:
    """Wait until changes are made and seen, and views are current; leave all as it was."""
    for verb, is_there in ((one.register, True), (one.deregister, False)):
        await until(lambda verb=verb: _succeeds(verb), seconds=seconds)  # type: ignore[misc]
        await until(lambda is_there=is_there: (other.get(B) is not None) is is_there, seconds=seconds)  # type: ignore[misc]
        await until(lambda: all((each.age_seconds or 9) < CURRENT_SECONDS for each in (one, other)), seconds=seconds)


async def _succeeds(verb: Callable[[str], Any]) -> bool:
    try:
        await verb(B)
    except StoreUnavailable:
        return False
    except RegistryError:
        return True  # made by a call whose answer was lost
    return True


async def stay_current(one: SharedReplicaRegistry, other: SharedReplicaRegistry, *, seconds: float) -> None:
    """Verify that no view grows old within that time."""
    loop = asyncio.get_running_loop()
    for _ in range(round(seconds / 0.1)):
        began = loop.time()
        await asyncio.sleep(0.1)
        late = loop.time() - began - 0.1  # for so long this process stood still, and so did its mirrors
        assert max(one.age_seconds or 0, other.age_seconds or 0) < CURRENT_SECONDS + late


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP], ids=["dies", "hangs"])
async def test_a_failover_of_another_shard_freezes_no_mirror(cluster: RedisCluster, fault: signal.Signals) -> None:
    async with two_routers(cluster, shard=2) as (one, other):
        os.kill(cluster.nodes[0].pid, fault)
        try:
            await until(lambda: cluster.is_promoted(0), seconds=30)
            await stay_current(one, other, seconds=2)
            await work(one, other)
        finally:
            os.kill(cluster.nodes[0].pid, signal.SIGCONT)


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP], ids=["dies", "hangs"])
async def test_the_new_primary_of_the_own_shard_is_followed(cluster: RedisCluster, fault: signal.Signals) -> None:
    async with two_routers(cluster, shard=1) as (one, other):
        os.kill(cluster.nodes[1].pid, fault)
        try:
            await until(lambda: cluster.is_promoted(1), seconds=30)
            await work(one, other)
        finally:
            os.kill(cluster.nodes[1].pid, signal.SIGCONT)
        await work(one, other)


async def test_a_planned_failover_costs_no_call(cluster: RedisCluster) -> None:
    async with two_routers(cluster, shard=0) as (one, other):

        async def is_promoted() -> bool:
            if not cluster.is_promoted(0):  # a busy server gives a planned failover up after some seconds
                with contextlib.suppress(ResponseError):
                    cluster.raws[PRIMARIES].execute_command("CLUSTER", "FAILOVER")
                await asyncio.sleep(1)
            return cluster.is_promoted(0)

        await until(is_promoted, seconds=30)
        await stay_current(one, other, seconds=1)
        await work(one, other)


async def test_nodes_missing_at_the_start_are_skipped(cluster: RedisCluster) -> None:
    silent, away = cluster.nodes[0], cluster.nodes[PRIMARIES + 1]
    os.kill(silent.pid, signal.SIGSTOP)
    try:
        await asyncio.to_thread(away.kill)
        last = cluster.nodes[2]
        url = f"redis+cluster://127.0.0.1:{silent.port},127.0.0.1:{away.port},127.0.0.1:1,127.0.0.1:{last.port}"
        async with two_routers(cluster, shard=2, url=url) as (one, other):
            await work(one, other)
    finally:
        os.kill(silent.pid, signal.SIGCONT)


async def test_routers_recover_after_all_nodes_restart(cluster: RedisCluster) -> None:
    async with two_routers(cluster, shard=1) as (one, other):
        for node in cluster.nodes:
            node.kill()
        await until(lambda: (one.age_seconds or 0) > 1)
        for node in cluster.nodes:
            await asyncio.to_thread(node.start)
        await work(one, other)


@pytest.fixture
async def forgotten_nodes() -> AsyncIterator[None]:
    """Close the nodes that the cluster client of redis-py 7.4 forgets when it refreshes its slots.

    A log record may keep one alive until the test has ended, so collecting garbage is not enough.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        for node in [each for each in gc.get_objects() if isinstance(each, ClusterNode)]:
            await node.disconnect()
        gc.collect()


@pytest.mark.usefixtures("forgotten_nodes")
@pytest.mark.parametrize("shard", [0, 2], ids=["own", "another"])
async def test_a_callers_cluster_client_does_not_freeze(cluster: RedisCluster, shard: int) -> None:
    """Nor one that never tries again by itself, which redis-py would heal by chance."""
    options: dict[str, Any] = {"decode_responses": True, "socket_connect_timeout": 1, "retry": Retry(NoBackoff(), 0)}
    nodes = [ClusterNode("127.0.0.1", node.port) for node in cluster.nodes]
    clients = [RedisClusterClient(startup_nodes=nodes, **options) for _ in range(2)]
    try:
        async with two_routers(cluster, shard=shard, clients=(clients[0], clients[1])) as (one, other):
            await asyncio.to_thread(cluster.nodes[0].kill)
            await until(lambda: cluster.is_promoted(0), seconds=30)
            await work(one, other)
    finally:
        for client in clients:
            await client.aclose()


@pytest.mark.usefixtures("forgotten_nodes")
@pytest.mark.parametrize("is_callers", [False, True], ids=["url", "client"])
async def test_the_node_of_the_namespace_is_verified(
    cluster: RedisCluster, caplog: pytest.LogCaptureFixture, is_callers: bool
) -> None:
    for node in (0, PRIMARIES):
        cluster.raws[node].config_set("maxmemory-policy", "allkeys-lru")
    for shard in (1, 2, 0):
        async with contextlib.AsyncExitStack() as stack:
            client = None
            if is_callers:
                client = RedisClusterClient(host="127.0.0.1", port=cluster.nodes[2].port, decode_responses=True)
                stack.push_async_callback(client.aclose)
            config = RouterConfig(redis_url=cluster.url, namespace=cluster.namespace_on(shard))
            await stack.enter_async_context(SharedReplicaRegistry(config, health_checks=False, redis=client))
            assert ("maxmemory-policy is allkeys-lru" in caplog.text) == (shard == 0)


async def test_sessions_wait_while_the_hash_slot_migrates(cluster: RedisCluster) -> None:
    """And keep their positions; those that may not wait are told, and nobody is placed behind Redis's back."""
    async with two_routers(cluster, shard=0) as (one, other):
        await one.register(ReplicaEndpoint(A, capacity=1))
        await one.record_success(one.all()[0], recovery_threshold=1, latency_ms=1.0)
        await until(lambda: other.select() is not None)
        holder = await one.acquire()
        first = asyncio.create_task(other.acquire(timeout=60))
        await until(other.queue_depth)
        with cluster.migrating(one.config.namespace, source=0, target=1):
            later = [asyncio.create_task(each.acquire(timeout=60)) for each in (one, other)]
            with pytest.raises(SlotMigrating, match="is being migrated"):
                await one.acquire()
            with pytest.raises(SlotMigrating):
                await other.drain(A)
            await asyncio.sleep(1.5)
            assert not any(task.done() for task in (first, *later))
        await until(lambda: _has_depth(one, 3), seconds=30)
        await holder.release()
        lease = await asyncio.wait_for(first, 30)
        for _ in range(2):
            assert not lease.is_degraded
            await lease.release()
            done, pending = await asyncio.wait(later, timeout=30, return_when=asyncio.FIRST_COMPLETED)
            [task], later = done, list(pending)
            lease = task.result()
        await lease.release()
        assert await one.check() == []


async def test_a_migration_that_moves_the_first_keys_loses_nothing(cluster: RedisCluster) -> None:
    """The new node would run scripts on the keys that have moved, and make the others anew, which then cannot move."""
    async with two_routers(cluster, shard=0) as (one, other):
        namespace = one.config.namespace
        await one.register(ReplicaEndpoint(A, capacity=2))
        await one.record_success(one.all()[0], recovery_threshold=1, latency_ms=1.0)
        await until(lambda: other.select() is not None)
        lease = await one.acquire()
        with cluster.migrating(namespace, source=0, target=1):
            assert cluster.move_key(Keys(namespace).meta, source=0, target=1)
            for _ in range(3):
                with pytest.raises(SlotMigrating):
                    await other.acquire()
                with pytest.raises(SlotMigrating):
                    await other.drain(A)
                await asyncio.sleep(0.5)  # heartbeats are due meanwhile
            waiting = asyncio.create_task(other.acquire(timeout=60))
            await asyncio.sleep(0.5)
            assert cluster.finish_migration(namespace, source=0, target=1) == []
            placed = await asyncio.wait_for(waiting, 30)
        assert not placed.is_degraded
        await work(one, other)
        assert await one.check() == []
        for each in (lease, placed):
            await each.release()


async def _has_depth(registry: SharedReplicaRegistry, depth: int) -> bool:
    try:
        return await registry.queue_depth() == depth
    except StoreUnavailable:
        return False
