"""How many sessions one router places: pairs of acquire() and release(), many tasks at once.

A registry with connections of its own is beside one that uses the caller's client, which makes a connection for each
call under way and sends one command a call. The two take turns in short rounds, so that what disturbs the machine
disturbs them alike; medians count. CPU is the time of the process, for a pair, and that of the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from benchmarks.namespace import client_of, fill
from benchmarks.processes import Child
from benchmarks.rows import Row, Target
from shared_registry import RouterConfig, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer
from shared_registry.store.client import Client

TITLE = "Sessions a second through one router"
REPLICAS = 10
ROUNDS, ROUNDS_QUICK = 10, 3
ROUND_SECONDS, ROUND_SECONDS_QUICK = 1.0, 0.4
BEHIND_SECONDS = 0.005
"""Each way, so that a reply takes 10 ms."""
RIVAL = "a caller's client"


@dataclass(frozen=True)
class Round:
    """What a pair took in one round, in seconds."""

    seconds: float
    cpu: float
    redis_cpu: float


async def measure(*, is_quick: bool) -> list[Row]:
    """Return the rows for a server beside the router, and for one that is 10 ms away."""
    rounds = ROUNDS_QUICK if is_quick else ROUNDS
    seconds = ROUND_SECONDS_QUICK if is_quick else ROUND_SECONDS
    with EmbeddedServer() as server:
        await fill(server.url, REPLICAS, "throughput", primaries=0)
        rows: list[Row] = []
        for tasks in (1, 32, 100):
            own, rival = await _compare(server.url, server.url, tasks, rounds, seconds)
            rows += _rows(f"{tasks} tasks" if tasks > 1 else "1 task", own, rival)
        settings = {"port": urlsplit(server.url).port, "seconds": BEHIND_SECONDS}
        async with Child("distance_process", settings) as distance:
            distant_url = f"redis://127.0.0.1:{distance.ready['port']}"
            own, rival = await _compare(server.url, distant_url, 200, rounds, seconds)
            rows += _rows("200 tasks, Redis 10 ms away", own, rival)[:1]
    return rows


async def _compare(
    server_url: str, redis_url: str, tasks: int, rounds: int, seconds: float
) -> tuple[list[Round], list[Round]]:
    config = RouterConfig(redis_url=redis_url, namespace="throughput", redis_timeout_seconds=5.0)
    async with contextlib.AsyncExitStack() as stack:
        raw = await stack.enter_async_context(client_of(server_url))
        client = await stack.enter_async_context(client_of(redis_url))
        own = await stack.enter_async_context(SharedReplicaRegistry(config, health_checks=False))
        rival = await stack.enter_async_context(SharedReplicaRegistry(config, redis=client, health_checks=False))
        found: tuple[list[Round], list[Round]] = ([], [])
        for _ in range(rounds):
            for registry, results in zip((own, rival), found, strict=True):
                results.append(await _round(registry, raw, tasks, seconds))
        return found


async def _round(registry: SharedReplicaRegistry, raw: Client, tasks: int, seconds: float) -> Round:
    pairs, until = 0, time.perf_counter() + seconds

    async def place() -> None:
        nonlocal pairs
        while time.perf_counter() < until:
            async with await registry.acquire():
                pass
            pairs += 1

    redis_cpu, cpu, started = await _server_cpu(raw), time.process_time(), time.perf_counter()
    await asyncio.gather(*(place() for _ in range(tasks)))
    took, cpu = time.perf_counter() - started, time.process_time() - cpu
    return Round(took / pairs, cpu / pairs, (await _server_cpu(raw) - redis_cpu) / pairs)


async def _server_cpu(raw: Client) -> float:
    info = await raw.info("cpu")
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


def _rows(how: str, own: Sequence[Round], rival: Sequence[Round]) -> list[Row]:
    def median(rounds: Sequence[Round], name: str) -> float:
        return float(1e6 * statistics.median(getattr(one, name) for one in rounds))

    is_many = how.startswith("100")
    targets = {"seconds": Target(0.4, of="ratio") if is_many else None, "cpu": Target(60.0) if is_many else None}
    return [
        Row(
            f"a pair, {how}: {what}",
            median(own, name),
            "µs",
            median(rival, name),
            RIVAL,
            targets.get(name),
            f"{1e6 / median(own, name):,.0f} pairs a second, {1e6 / median(rival, name):,.0f} there"
            if name == "seconds"
            else "",
        )
        for name, what in (("seconds", "time"), ("cpu", "CPU of the router"), ("redis_cpu", "CPU of Redis"))
    ]
