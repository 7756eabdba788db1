"""Calls keep their order on a server that does not know the scripts, as after each restart."""

from __future__ import annotations

import asyncio

import redis

from shared_registry import ReplicaEndpoint, RouterConfig, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer
from tests.support.until import until

REPLICA = "http://127.0.0.1:8000"


async def well(url: str, *, timeout: float) -> tuple[float, str | None]:
    return 1.0, None


async def test_the_first_release_frees_the_slot_for_the_next_session() -> None:
    with EmbeddedServer() as server:
        config = RouterConfig(redis_url=server.url, replicas=[ReplicaEndpoint(REPLICA, capacity=1)])
        async with SharedReplicaRegistry(config, http_get=well) as registry:
            await until(lambda: registry.select() is not None, "the replica is healthy")
            first = await registry.acquire()
            releasing = asyncio.create_task(first.release())
            await asyncio.sleep(0)
            second = await registry.acquire()  # it is refused if the release must be sent again behind it
            await releasing
            await second.release()


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
