"""What announced replicas cost Redis: its CPU for their heartbeats, and how evenly these come.

One router, which does not probe, is there all the time: its heartbeats put silent replicas out of service. First it is
alone. Then many replicas are announced at one moment, each over a connection of its own. CPU is that of the server,
from INFO; what the router alone costs is taken off. Beside a heartbeat stands a PING at a like rate, which is the least
that any call costs the server on this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from dataclasses import dataclass

from benchmarks.namespace import client_of, distant_urls
from benchmarks.processes import Child
from benchmarks.rows import Row, Target
from shared_registry.embedded import EmbeddedServer
from shared_registry.store.client import Client

REPLICAS = 1000
TTL_SECONDS = 10.0
TITLE = f"announced replicas ({REPLICAS:,} with a time to live of {TTL_SECONDS:g} s)"
SETTLING_SECONDS = 5.0
SECONDS, SECONDS_QUICK = 30.0, 10.0
SAMPLE_SECONDS = 0.5
PATIENCE_SECONDS = 30.0
"""One process connects all of them at one moment, which takes it longer than it would take pods."""
CPU_PERCENT = Target(1.0)
BUSIEST = Target(1.5, "ratio")


@dataclass(frozen=True)
class Reading:
    """The server's counters: CPU in seconds, the scripts that it has run; and when they were read."""

    cpu: float
    scripts: int
    at: float

    @classmethod
    async def now(cls, client: Client) -> Reading:
        """Return the present ones."""
        stats = await client.info("commandstats")
        cpu = await client.info("cpu")
        scripts = sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("eval", "evalsha"))
        return cls(cpu["used_cpu_user"] + cpu["used_cpu_sys"], scripts, time.monotonic())


async def measure(*, is_quick: bool) -> list[Row]:
    """Return what the heartbeats cost, and how many come in the busiest moment."""
    seconds = SECONDS_QUICK if is_quick else SECONDS
    async with contextlib.AsyncExitStack() as stack:
        server = stack.enter_context(EmbeddedServer())
        client = await stack.enter_async_context(client_of(server.url))
        config = {"redis_url": server.url, "redis_timeout_seconds": PATIENCE_SECONDS}
        await stack.enter_async_context(Child("router_process", {"config": config, "health_checks": False}))
        alone = await _watch(client, seconds)
        ping = await _ping_cost(client, seconds)
        settings = {"config": config, "urls": distant_urls(REPLICAS), "ttl_seconds": TTL_SECONDS}
        pods = await stack.enter_async_context(Child("announcing_process", settings))
        await pods.ask("held")
        announced = await _watch(client, seconds)
    cpu = _cpu_percent(announced) - _cpu_percent(alone)
    rates = [(later.scripts - earlier.scripts) / (later.at - earlier.at) for earlier, later in _pairs(announced)]
    mean = (announced[-1].scripts - announced[0].scripts) / (announced[-1].at - announced[0].at)
    return [
        Row("CPU of the server for the heartbeats", cpu, "%", target=CPU_PERCENT),
        Row("CPU of the server for one heartbeat", 1e4 * cpu / mean, "µs", ping, "a PING"),
        Row(f"heartbeats in the busiest {SAMPLE_SECONDS:g} s", max(rates), "/s", mean, "mean", target=BUSIEST),
    ]


def _cpu_percent(readings: list[Reading]) -> float:
    return 100 * (readings[-1].cpu - readings[0].cpu) / (readings[-1].at - readings[0].at)


def _pairs(readings: list[Reading]) -> list[tuple[Reading, Reading]]:
    return list(itertools.pairwise(readings))


async def _ping_cost(client: Client, seconds: float) -> float:
    """Return the CPU of a PING in microseconds, which includes what the router asks meanwhile."""
    before, count = await Reading.now(client), 0
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        await client.ping()
        count += 1
        await asyncio.sleep(TTL_SECONDS / 3 / REPLICAS)
    return 1e6 * ((await Reading.now(client)).cpu - before.cpu) / count


async def _watch(client: Client, seconds: float) -> list[Reading]:
    await asyncio.sleep(SETTLING_SECONDS)
    ends_at = time.monotonic() + seconds
    readings = [await Reading.now(client)]
    while time.monotonic() < ends_at:
        await asyncio.sleep(SAMPLE_SECONDS)
        readings.append(await Reading.now(client))
    return readings
