"""A thousand replicas that are up, default settings: how soon all are healthy, and what the steady state costs.

Three routers, each a process of its own, start at once on an empty namespace, with the same thousand replicas in their
configs: origins on 127.0.x.y that another process serves. Time runs from the first router's start to the moment when
the last one shows every replica healthy. Then follows a steady window, whole intervals long: CPU is the leader's own
(`time.process_time`), probes are counted where they arrive, events in the event stream. The others stop then, and a
second window shows the same with one router.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

from benchmarks.namespace import client_of, count_events, leader_of, local_urls, revision_of
from benchmarks.processes import Child
from benchmarks.rows import Row, Target
from shared_registry import RouterConfig
from shared_registry.embedded import EmbeddedServer
from shared_registry.model import EventKind
from shared_registry.store.client import Client

ORIGINS = 1_000
ROUTERS = 3
TITLE = f"{ORIGINS:,} replicas that are up ({ROUTERS} routers)"
SETTLING_INTERVALS = 1.5
UP = Target(1.0, of="ratio")
LEADER_CPU_PERCENT = Target(40.0)
NONE = Target(0)
PROBES = Target(1.02)


@dataclass(frozen=True)
class Window:
    """What a steady window saw; probes are per replica and interval."""

    cpu_percent: float
    probes: float
    events: int


async def measure(*, is_quick: bool) -> list[Row]:
    """Return how the fleet comes up, and its steady state with three routers and with one."""
    interval = RouterConfig().health_check_interval_seconds
    seconds = interval * (1 if is_quick else 3)
    async with contextlib.AsyncExitStack() as stack:
        server = stack.enter_context(EmbeddedServer())
        client = await stack.enter_async_context(client_of(server.url))
        replicas = await stack.enter_async_context(Child("replica_process", {}))
        settings = {"config": {"redis_url": server.url}, "replicas": local_urls(ORIGINS, replicas.ready["port"])}
        routers = [Child("router_process", settings) for _ in range(ROUTERS)]
        await asyncio.gather(*(stack.enter_async_context(router) for router in routers))
        healthy = await asyncio.gather(*(router.ask("all_healthy") for router in routers))
        up_seconds = max(entry["at"] for entry in healthy) - min(router.ready["started_at"] for router in routers)
        await asyncio.sleep(SETTLING_INTERVALS * interval)  # until every replica is in its slot
        leading = await leader_of(client)
        (leader,) = (router for router in routers if router.ready["router"] == leading)
        three = await _watch(leader, replicas, client, seconds)
        await asyncio.gather(*(router.end() for router in routers if router is not leader))
        one = await _watch(leader, replicas, client, seconds)
        unhealthy = await count_events(client, kind=EventKind.REPLICA_UNHEALTHY)
    return _rows(up_seconds, interval, three, one, unhealthy)


def _rows(up_seconds: float, interval: float, three: Window, one: Window, unhealthy: int) -> list[Row]:
    alone = "with 1 router"
    return [
        Row("start, until all are healthy in every router", up_seconds, "s", 2 * interval, "two intervals", UP),
        Row("ever marked unhealthy", unhealthy, "replicas", target=NONE),
        Row("then: CPU of the leader", three.cpu_percent, "%", one.cpu_percent, alone, LEADER_CPU_PERCENT),
        Row("then: probes of a replica in an interval", three.probes, "", one.probes, alone, PROBES),
        Row("the same with 1 router", one.probes, "", target=PROBES),
        Row("then: events", three.events, "events", one.events, alone, NONE),
    ]


async def _watch(leader: Child, replicas: Child, client: Client, seconds: float) -> Window:
    revision = await revision_of(client)
    usage, asked = await leader.ask("usage"), await replicas.ask("requests")
    await asyncio.sleep(seconds)
    usage_after, asked_after = await leader.ask("usage"), await replicas.ask("requests")
    intervals = (asked_after["at"] - asked["at"]) / RouterConfig().health_check_interval_seconds
    return Window(
        cpu_percent=100 * (usage_after["cpu"] - usage["cpu"]) / (usage_after["at"] - usage["at"]),
        probes=(asked_after["requests"] - asked["requests"]) / ORIGINS / intervals,
        events=await count_events(client, after=revision),
    )
