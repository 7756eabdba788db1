"""The queue of many processes: everybody in turn, nobody beside room, nobody forgotten."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from shared_registry import RouterConfig, SharedReplicaRegistry
from shared_registry.admin.check import find_violations
from shared_registry.embedded import EmbeddedServer
from tests.support.effort import takes_long
from tests.support.lease_cluster import PATIENCE, TIMEOUT, Cluster, operator_settings, settings
from tests.support.queue_history import QueueHistory, recorded
from tests.support.replica_fleet import fleet, leases
from tests.support.space import on_server
from tests.support.until import until

PROCESSES, SESSIONS = 4, 650
REPLICAS, CAPACITY = 10, 4
PATIENCE_SECONDS = 10.0
REDIS_TIMEOUT_SECONDS = 2.0


@pytest.mark.alone
@takes_long
async def test_thousands_are_served_in_the_order_in_which_they_came_over_all_processes(
    own_server: Callable[..., EmbeddedServer], tmp_path: Path
) -> None:
    server, rng = own_server(), random.Random()
    namespace = "line"
    async with contextlib.AsyncExitStack() as stack:
        space = await stack.enter_async_context(on_server(server.url, namespace))
        lines = await stack.enter_async_context(recorded(server))
        operator = SharedReplicaRegistry(RouterConfig(**operator_settings(server.url, namespace)), health_checks=False)
        await stack.enter_async_context(operator)
        replicas = await stack.enter_async_context(fleet(operator, replicas=REPLICAS, capacity=CAPACITY))
        cluster = Cluster(
            tmp_path,
            settings(server.url, namespace, redis_timeout_seconds=REDIS_TIMEOUT_SECONDS),
            sessions=SESSIONS,
            lasting_seconds=0.1,
            patience_seconds=PATIENCE_SECONDS,
            rng=rng,
        )
        stack.callback(cluster.close)
        await cluster.start(PROCESSES)
        await until(lambda: space.raw.zcard(space.keys.queue) > PROCESSES * SESSIONS * 0.7, seconds=PATIENCE)
        async with asyncio.TaskGroup() as group:
            for url, trouble in zip(replicas.urls, replicas.troubles(), strict=False):
                group.create_task(trouble(url, 1.0))
            group.create_task(cluster.pause_past_expiry())
            await asyncio.sleep(2.0)
            group.create_task(cluster.kill_and_replace())
        await cluster.hold()
        assert await find_violations(space.reader, space.keys) == []
        assert not space.raw.exists(space.keys.queue)
        await cluster.end()
        await until(lambda: not leases(space), seconds=PATIENCE)
        history = QueueHistory(space.keys)
        history.replay(list(lines))
        told = [line for process in cluster.all for line in process.lines()]
    assert history.wrong == []
    assert history.deepest >= 2000
    assert history.woken == history.served
    print(  # noqa: T201  figures
        f"\n{history.joined} joined the line, {history.deepest} at once, {history.served} were served, "
        f"{history.passed_over} times who had expired was passed by"
    )
    answers = [line for line in told if line["what"] in ("acquired", "denied") and line["timeout"]]
    late = [line["at"] - line["asked_at"] - line["timeout"] for line in answers]
    assert len(answers) > 1000
    # At the deadline everybody asks for the last time; on few cores that many calls take a while.
    assert sorted(late)[len(late) // 2] < TIMEOUT, "an answer comes when time is up, and not with the next look"
    assert sorted(late)[int(len(late) * 0.9)] < REDIS_TIMEOUT_SECONDS
