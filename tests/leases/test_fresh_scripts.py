"""Calls keep their order on a server that does not know the scripts, as after each restart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import redis
from redis.asyncio import Redis, RedisCluster

from shared_registry import ReplicaEndpoint, RouterConfig, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer
from shared_registry.errors import StoreUnavailable
from tests.support.redis_cluster import formed
from tests.support.until import until

REPLICA = "http://127.0.0.1:8000"


async def well(url: str, *, timeout: float) -> tuple[float, str | None]:
    return 1.0, None


async def release_and_acquire(url: str, servers: Sequence[EmbeddedServer], client: Any = None) -> None:
    """Let each session release the only slot when the next one asks for it, which does not wait.

    A caller's client sends known scripts over several connections, whose order nobody promises. So it makes no third
    round.
    """
    config = RouterConfig(redis_url=url, replicas=[ReplicaEndpoint(REPLICA, capacity=1)])
    async with SharedReplicaRegistry(config, http_get=well, redis=client) as registry:
        await until(lambda: registry.select() is not None, "the replica is healthy")
        lease = await registry.acquire()
        for forgets in (False, True, False) if client is None else (False, True):
            if forgets:
                forget_scripts(servers)
            releasing = asyncio.create_task(lease.release())
            await asyncio.sleep(0)
            lease = await registry.acquire()  # it is refused if the release must be sent again behind it
            await releasing
        await lease.release()


def forget_scripts(servers: Sequence[EmbeddedServer]) -> None:
    for server in servers:
        with redis.Redis.from_url(server.url) as raw:
            raw.script_flush()


@pytest.mark.parametrize("is_callers", [False, True], ids=["url", "client"])
async def test_the_first_release_frees_the_slot_for_the_next_session(is_callers: bool) -> None:
    with EmbeddedServer() as server:
        if not is_callers:
            await release_and_acquire(server.url, [server])
            return
        async with Redis.from_url(server.url, decode_responses=True) as client:
            await release_and_acquire(server.url, [server], client)


@pytest.mark.parametrize("is_callers", [False, True], ids=["url", "client"])
async def test_a_cluster_keeps_the_order_of_first_calls(
    own_server: Callable[..., EmbeddedServer], is_callers: bool
) -> None:
    try:
        cluster = await formed(own_server)
    except StoreUnavailable as error:
        pytest.skip(f"this server cannot form a cluster: {error}")
    try:
        if not is_callers:
            await release_and_acquire(cluster.url, cluster.nodes)
            return
        async with RedisCluster(host="127.0.0.1", port=cluster.nodes[0].port, decode_responses=True) as client:
            await release_and_acquire(cluster.url, cluster.nodes, client)
    finally:
        cluster.close()


async def test_a_script_is_sent_as_text_once_for_each_connection() -> None:
    with EmbeddedServer() as server:
        config = RouterConfig(redis_url=server.url, replicas=[ReplicaEndpoint(REPLICA)])
        async with SharedReplicaRegistry(config, http_get=well) as registry:
            await until(lambda: registry.select() is not None, "the replica is healthy")
            for _ in range(50):
                await (await registry.acquire()).release()
            raw = redis.Redis.from_url(server.url)
            calls = {name: one["calls"] for name, one in raw.info("commandstats").items() if "eval" in name}
            raw.close()
        assert calls["cmdstat_eval"] < 40 < calls["cmdstat_evalsha"]
