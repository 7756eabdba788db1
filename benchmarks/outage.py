"""What a router costs while Redis is down, what it logs, and how soon it follows again.

Two routers with default settings, each a process of its own, one of which leads; ten replicas that are up. The server
is killed, and a window follows: CPU is each process's own, log lines are those of level INFO and above. Then the
server starts again, empty, and both must agree on the replicas anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

from benchmarks.namespace import NAMESPACE, PATIENCE_SECONDS, client_of, leader_of, local_urls
from benchmarks.processes import Answer, Child
from benchmarks.rows import Row, Target
from shared_registry.embedded import EmbeddedServer
from shared_registry.store.client import Client
from shared_registry.store.keys import Keys

REPLICAS = 10
TITLE = "Redis away"
SECONDS, SECONDS_QUICK = 30.0, 4.0
CPU_PERCENT = Target(2.0)
WATCH_SECONDS = 0.01


async def measure(*, is_quick: bool) -> list[Row]:
    """Return CPU and log lines of both, and the time to recover."""
    seconds = SECONDS_QUICK if is_quick else SECONDS
    async with contextlib.AsyncExitStack() as stack:
        server = stack.enter_context(EmbeddedServer())
        replicas = await stack.enter_async_context(Child("replica_process", {}))
        settings = {"config": {"redis_url": server.url}, "replicas": local_urls(REPLICAS, replicas.ready["port"])}
        first = await stack.enter_async_context(Child("router_process", settings))
        await first.ask("all_healthy")
        second = await stack.enter_async_context(Child("router_process", settings))
        before = await asyncio.gather(first.ask("usage"), second.ask("usage"))
        await asyncio.to_thread(server.kill)
        await asyncio.sleep(seconds)
        after = await asyncio.gather(first.ask("usage"), second.ask("usage"))
        await asyncio.to_thread(server.start)
        started = time.monotonic()
        client = await stack.enter_async_context(client_of(server.url))
        await leader_of(client)
        await _has_replicas(client)
        recovered = time.monotonic() - started
    leader, follower = (_cost(*pair) for pair in zip(before, after, strict=True))
    return [
        Row(f"CPU of the router that led, over {seconds:g} s", leader[0], "%", target=CPU_PERCENT),
        Row("CPU of another", follower[0], "%", target=CPU_PERCENT),
        Row("log lines of the router that led", leader[1], "lines"),
        Row("log lines of another", follower[1], "lines"),
        Row("back, empty: to replicas and leader there again", recovered, "s"),
    ]


def _cost(before: Answer, after: Answer) -> tuple[float, int]:
    """Return CPU in percent of a core, and log lines."""
    cpu = 100 * (after["cpu"] - before["cpu"]) / (after["at"] - before["at"])
    return cpu, after["lines"] - before["lines"]


async def _has_replicas(client: Client) -> None:
    """Wait until the routers have put back what they know."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await client.zcard(Keys(NAMESPACE).replicas) < REPLICAS:  # noqa: ASYNC110
            await asyncio.sleep(WATCH_SECONDS)
