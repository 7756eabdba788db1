"""What a router costs that has nothing to do: CPU of its process, and what it asks of Redis.

Ten replicas that are up, default settings. First one router, which leads, in a process of its own; then a second one
joins that does not. CPU is each process's own; commands, those inside scripts included, and bytes are INFO's counters
over the window. What the second one asks of Redis is what both ask, less what the first one asked alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from dataclasses import dataclass
from typing import Any

from benchmarks.namespace import client_of, local_urls
from benchmarks.processes import Child
from benchmarks.rows import Row, Target
from shared_registry.embedded import EmbeddedServer
from shared_registry.store.client import Client

REPLICAS = 10
TITLE = f"a router with nothing to do ({REPLICAS} replicas)"
SETTLING_SECONDS = 1.0
SECONDS, SECONDS_QUICK = 20.0, 6.0
CPU_PERCENT = Target(1.0)


@dataclass(frozen=True)
class Traffic:
    """What Redis was asked, and answered: since its start, in a window, or per second."""

    commands: float
    bytes_in: float
    bytes_out: float

    @classmethod
    async def now(cls, client: Client) -> Traffic:
        """Return the counters; reading them adds to them."""
        counts: dict[str, dict[str, Any]] = await client.info("commandstats")
        stats: dict[str, Any] = await client.info("stats")
        commands = sum(counter["calls"] for counter in counts.values())
        return cls(commands, stats["total_net_input_bytes"], stats["total_net_output_bytes"])

    def per_second(self, seconds: float) -> Traffic:
        """Return the mean."""
        return Traffic(self.commands / seconds, self.bytes_in / seconds, self.bytes_out / seconds)

    def beyond(self, other: Traffic) -> Traffic:
        """Return what is more here."""
        return Traffic(self.commands - other.commands, self.bytes_in - other.bytes_in, self.bytes_out - other.bytes_out)


async def measure(*, is_quick: bool) -> list[Row]:
    """Return the cost of a router that leads, and of one that does not."""
    seconds = SECONDS_QUICK if is_quick else SECONDS
    async with contextlib.AsyncExitStack() as stack:
        server = stack.enter_context(EmbeddedServer())
        client = await stack.enter_async_context(client_of(server.url))
        replicas = await stack.enter_async_context(Child("replica_process", {}))
        settings = {"config": {"redis_url": server.url}, "replicas": local_urls(REPLICAS, replicas.ready["port"])}
        leader = await stack.enter_async_context(Child("router_process", settings))
        await leader.ask("all_healthy")
        alone, leading_cpu = await _watch(leader, client, seconds)
        follower = await stack.enter_async_context(Child("router_process", settings))
        both, following_cpu = await _watch(follower, client, seconds)
    return [
        *_rows("not leading", following_cpu, both.beyond(alone)),
        *_rows("leading", leading_cpu, alone),
    ]


def _rows(router: str, cpu_percent: float, traffic: Traffic) -> list[Row]:
    return [
        Row(f"{router}: CPU", cpu_percent, "%", target=CPU_PERCENT),
        Row(f"{router}: commands in Redis, in scripts too", traffic.commands, "/s"),
        Row(f"{router}: bytes to Redis", traffic.bytes_in, "bytes/s"),
        Row(f"{router}: bytes from Redis", traffic.bytes_out, "bytes/s"),
    ]


async def _watch(router: Child, client: Client, seconds: float) -> tuple[Traffic, float]:
    await asyncio.sleep(SETTLING_SECONDS)
    readings = [await Traffic.now(client) for _ in range(3)]
    own = min(
        (later.beyond(earlier) for earlier, later in itertools.pairwise(readings)), key=lambda read: read.bytes_out
    )
    usage, started = await router.ask("usage"), time.monotonic()
    await asyncio.sleep(seconds)
    usage_after, after, ended = await router.ask("usage"), await Traffic.now(client), time.monotonic()
    cpu_percent = 100 * (usage_after["cpu"] - usage["cpu"]) / (usage_after["at"] - usage["at"])
    return after.beyond(readings[-1]).beyond(own).per_second(ended - started), cpu_percent
