"""Waiting until a registry has a replica to select, or verdicts on all."""

from __future__ import annotations

import asyncio
import time

import pytest

from shared_registry import ReplicaEndpoint, RouterConfig, SharedReplicaRegistry, UsageError
from shared_registry.embedded import EmbeddedServer
from tests.support.until import SECONDS

URL = "http://replica-1:8000"


def config_of(server: EmbeddedServer, namespace: str, *urls: str) -> RouterConfig:
    return RouterConfig(
        redis_url=server.url,
        namespace=namespace,
        replicas=[ReplicaEndpoint(url) for url in urls],
        fast_interval_seconds=0.05,
        failure_threshold=2,
    )


async def refuse(url: str, *, timeout: float) -> tuple[float, str | None]:
    return 1.0, "refused"


async def test_waiting_ends_with_the_first_healthy_verdict(server: EmbeddedServer, namespace: str) -> None:
    may_answer = asyncio.Event()

    async def answer(url: str, *, timeout: float) -> tuple[float, str | None]:
        await may_answer.wait()
        return 1.0, None

    async with SharedReplicaRegistry(config_of(server, namespace, URL), http_get=answer) as registry:
        assert not await registry.wait_ready(timeout_seconds=0)
        assert not await registry.wait_judged(timeout_seconds=0.1)
        waiting = [asyncio.create_task(registry.wait_ready()), asyncio.create_task(registry.wait_judged())]
        await asyncio.sleep(0.1)
        assert not any(one.done() for one in waiting)
        may_answer.set()
        assert await asyncio.wait_for(asyncio.gather(*waiting), SECONDS) == [True, True]
        assert registry.select() is not None
        assert await registry.wait_ready(timeout_seconds=0)


async def test_a_replica_that_is_down_is_judged_but_not_ready(server: EmbeddedServer, namespace: str) -> None:
    async with SharedReplicaRegistry(config_of(server, namespace, URL), http_get=refuse) as registry:
        assert await registry.wait_judged(timeout_seconds=SECONDS)
        begun = time.monotonic()
        assert not await registry.wait_ready(timeout_seconds=0.3)
        assert time.monotonic() - begun >= 0.3


async def test_without_replicas_all_replicas_are_judged(server: EmbeddedServer, namespace: str) -> None:
    async with SharedReplicaRegistry(config_of(server, namespace)) as registry:
        assert await registry.wait_judged(timeout_seconds=0)
        assert not await registry.wait_ready(timeout_seconds=0)


async def test_a_disabled_replica_has_no_verdict_to_wait_for(server: EmbeddedServer, namespace: str) -> None:
    async with SharedReplicaRegistry(config_of(server, namespace, URL), health_checks=False) as registry:
        assert not await registry.wait_judged(timeout_seconds=0.1)
        await registry.disable(URL)
        assert await registry.wait_judged(timeout_seconds=0)


async def test_a_stop_ends_waiting_for_readiness(server: EmbeddedServer, namespace: str) -> None:
    registry = SharedReplicaRegistry(config_of(server, namespace, URL), health_checks=False)
    with pytest.raises(UsageError, match="not started"):
        await registry.wait_ready()
    await registry.start()
    waiting = asyncio.create_task(registry.wait_ready())
    await asyncio.sleep(0.05)
    await registry.stop()
    with pytest.raises(UsageError, match="not started"):
        await asyncio.wait_for(waiting, SECONDS)
