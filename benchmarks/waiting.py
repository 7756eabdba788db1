"""The queue: how soon a free slot reaches the session that waits for it, and what waiting costs.

A handover runs from before the holder's `release()` to the return of the waiter's `acquire()` on another router, in
another process, which a machine's monotonic clock lets compare; beside it, in turns, `return 1` from a third one. Then
many sessions wait at some routers in one process for a slot that does not come: what that costs Redis is its own CPU
time, beside the same routers with nobody waiting. At last they are served one after another, each giving back what it
got at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator

from benchmarks.namespace import PATIENCE_SECONDS, client_of, fill
from benchmarks.processes import Child
from benchmarks.rows import Row, Target
from shared_registry import Lease, RouterConfig, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer
from shared_registry.store.client import Client
from shared_registry.store.keys import Keys

WAITERS = 1_000
ROUTERS = 4
TITLE = "the queue"
NAMESPACE = "waiting"
HANDOVERS, HANDOVERS_QUICK = 1_000, 200
IDLE_SECONDS, IDLE_SECONDS_QUICK = 10.0, 4.0
LONG_SECONDS = 600.0
ROUND_TRIPS = Target(3.0, of="ratio")
CPU_PERCENT = Target(5.0)


async def measure(*, is_quick: bool) -> list[Row]:
    """Return the rows."""
    async with contextlib.AsyncExitStack() as stack:
        server = stack.enter_context(EmbeddedServer())
        await fill(server.url, 1, NAMESPACE, primaries=1, capacity=1)
        client = await stack.enter_async_context(client_of(server.url))
        rows = await _handovers(client, server.url, HANDOVERS_QUICK if is_quick else HANDOVERS)
        routers = [await stack.enter_async_context(_router(server.url)) for _ in range(ROUTERS)]
        return rows + await _waiting(client, routers, IDLE_SECONDS_QUICK if is_quick else IDLE_SECONDS)


@contextlib.asynccontextmanager
async def _router(redis_url: str) -> AsyncIterator[SharedReplicaRegistry]:
    config = RouterConfig(redis_url=redis_url, namespace=NAMESPACE, redis_timeout_seconds=PATIENCE_SECONDS)
    async with SharedReplicaRegistry(config, health_checks=False) as router:
        yield router


async def _handovers(client: Client, redis_url: str, count: int) -> list[Row]:
    """Let a slot go to and fro between the routers of two processes."""
    digest = await client.script_load("return 1")
    ones: list[float] = []
    handovers: list[float] = []
    settings = {"config": {"redis_url": redis_url, "namespace": NAMESPACE}, "health_checks": False}
    async with Child("router_process", settings) as one, Child("router_process", settings) as other:
        holder, waiter = one, other
        await holder.ask("wait_for_slot")
        for _ in range(count):
            started = time.perf_counter()
            await client.evalsha(digest, 0)
            ones.append(time.perf_counter() - started)
            waiting = asyncio.create_task(waiter.ask("wait_for_slot"))
            await _until_waiting(client, 1)
            released_at = await holder.ask("release")
            handovers.append((await waiting)["at"] - released_at["at"])
            holder, waiter = waiter, holder
    round_trip = statistics.median(ones) * 1e6
    p99 = statistics.quantiles(handovers, n=100, method="inclusive")[98]
    return [
        Row(
            "a slot given back, until who waits at another router has it, p50",
            statistics.median(handovers) * 1e6,
            "µs",
            round_trip,
            "return 1",
            ROUND_TRIPS,
        ),
        Row("the same, p99", p99 * 1e6, "µs", round_trip, "return 1"),
    ]


async def _waiting(client: Client, routers: list[SharedReplicaRegistry], seconds: float) -> list[Row]:
    """Let many wait for nothing, and then serve them."""
    blocker = await routers[0].acquire()
    idle = await _cpu_percent(client, seconds)
    served: list[float] = []

    async def wait(router: SharedReplicaRegistry) -> None:
        lease: Lease = await router.acquire(timeout=LONG_SECONDS)
        served.append(time.perf_counter())
        await lease.release()

    async with asyncio.TaskGroup() as group:
        for number in range(WAITERS):
            group.create_task(wait(routers[number % len(routers)]))
        await _until_waiting(client, WAITERS)
        waiting = await _cpu_percent(client, seconds)
        started = time.perf_counter()
        await blocker.release()
    per_second = len(served) / (max(served) - started)
    return [
        Row(f"{WAITERS:,} who wait at {len(routers)} routers: CPU of Redis", waiting, "%", idle, "idle", CPU_PERCENT),
        Row("the same, one slot handed on: sessions served", per_second, "/s"),
    ]


async def _until_waiting(client: Client, count: int) -> None:
    key = Keys(NAMESPACE).queue
    while await client.zcard(key) < count:  # noqa: ASYNC110  the line tells nobody
        await asyncio.sleep(0.0005)


async def _cpu_percent(client: Client, seconds: float) -> float:
    before, started = await _cpu_seconds(client), time.monotonic()
    await asyncio.sleep(seconds)
    return 100 * (await _cpu_seconds(client) - before) / (time.monotonic() - started)


async def _cpu_seconds(client: Client) -> float:
    cpu = await client.info("cpu")
    return float(cpu["used_cpu_user"] + cpu["used_cpu_sys"])
