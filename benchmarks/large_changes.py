"""What ten thousand replicas, and fifty thousand, cost where much changes at once; and two hundred routers at rest.

Routers start on a new namespace with all replicas in their config, and on a filled one. Then a tenth of the replicas
turns unhealthy together: twenty routers in two processes follow. Then all of fifty thousand do. Routers are whole
registries. CPU is each process's own; stalls are CPU time of a loop, and scripts are what SLOWLOG says.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.fleet_sim import Leader, filled, redis_cpu, split
from benchmarks.namespace import NAMESPACE, PATIENCE_SECONDS, client_of, distant_urls, longest_command
from benchmarks.policies import WEIGHTS, registry_of
from benchmarks.processes import Child
from benchmarks.rows import Row, Target
from shared_registry.embedded import EmbeddedServer
from shared_registry.model import ReplicaRecord
from shared_registry.store.client import Client, Clients
from shared_registry.store.commands import Store
from shared_registry.store.keys import Keys

REPLICAS, MORE = 10_000, 50_000
ROUTERS, MANY = 20, 200
PROCESSES = 2
TITLE = f"{REPLICAS:,} and {MORE:,} replicas, {MANY} routers"
START_SECONDS = 120.0
REST_SECONDS, REST_SECONDS_QUICK = 30.0, 10.0
EVENTS_AT_ONCE = 20
"""How many events a mirror takes over in one go."""


async def measure(*, is_quick: bool) -> list[Row]:
    """Return the rows of each part. With `is_quick` the fifty thousand are left out."""
    rows = [*await _new_rows(REPLICAS), *await _burst_rows(), *await _ring_rows(), *await _many_rows(is_quick=is_quick)]
    return rows if is_quick else [*rows, *await _more_rows()]


async def _new_rows(replicas: int) -> list[Row]:
    """Return what a router's first start takes, and its next one."""
    urls = distant_urls(replicas)
    found: list[float] = []

    async def start() -> None:
        """Start a router, and end it."""
        async with _routers(server.url, 1, replicas=urls) as children:
            found.append(children[0].ready["start_seconds"])

    with EmbeddedServer() as server:
        async with client_of(server.url) as client:
            name, milliseconds = await longest_command(client, start)
        await start()
    what = f"start() with {replicas:,}"
    return [
        Row(f"{what} new replicas of its config", found[0], "s", target=Target(2.5)),
        Row(f"{what} known replicas of its config", found[1], "s", target=Target(0.5)),
        Row(f"{what} new ones: longest command in Redis ({name})", milliseconds, "ms", target=Target(8.0)),
    ]


async def _burst_rows() -> list[Row]:
    """Return how a thousand of ten thousand turn unhealthy together."""
    urls = distant_urls(REPLICAS)
    down = urls[::10]
    left = REPLICAS - len(down)
    healthy, fallen = f"healthy {REPLICAS}", f"healthy {left}"
    async with _fleet(urls) as (server, client, leader):
        async with (
            _routers(server.url, ROUTERS - 1, [REPLICAS, left]) as others,
            _routers(server.url, 1, [REPLICAS, left]) as alone,
        ):
            routers = [*others, *alone]
            await _ask(routers, healthy)
            await _ask(alone, "watch")
            leader.down = frozenset(down)
            seconds, redis_seconds, cpu_seconds = await _timed(
                client, routers, lambda: _report(leader, down, routers, fallen)
            )
            stall = (await _ask(alone, "usage"))[0]["turn"]
        leader.down = frozenset()
        name, script_ms = await longest_command(client, lambda: leader.report(down))
    what = f"{len(down):,} of {REPLICAS:,} turn unhealthy"
    note = f"CPU: {redis_seconds:.2f} s in Redis, {cpu_seconds:.2f} s in all routers together"
    return [
        Row(f"{what}: to all of {ROUTERS} routers", seconds, "s", target=Target(0.3), note=note),
        Row(f"{what}: longest stall of a router's event loop", stall * 1e3, "ms", target=Target(10.0)),
        Row(f"{what}: CPU of a router for each", cpu_seconds / ROUTERS / len(down) * 1e6, "µs"),
        Row(f"{what}: longest command in Redis ({name})", script_ms, "ms", target=Target(5.0)),
    ]


async def _ring_rows() -> list[Row]:
    """Return what the ring of `hash` does if all weights change at once."""
    view = registry_of(REPLICAS, "hash", weights=WEIGHTS)._view  # noqa: SLF001  as its mirror does
    later = view.selection.later
    changed = [_heavier(replica.record) for replica in view.all()]
    pieces = []

    def timed(work: Callable[[], object]) -> None:
        """Do a piece."""
        started = time.thread_time()
        work()
        pieces.append(time.thread_time() - started)

    with later.in_pieces():
        for at in range(0, REPLICAS, EVENTS_AT_ONCE):
            timed(functools.partial(view.apply, changed[at : at + EVENTS_AT_ONCE]))
            timed(later.do_piece)
            await asyncio.sleep(0)
        while not later.is_done:
            timed(later.do_piece)
            await asyncio.sleep(0)
    what = f"hash, all of {REPLICAS:,} weights change"
    return [
        Row(f"{what}: longest piece", max(pieces) * 1e3, "ms", target=Target(10.0)),
        Row(f"{what}: 99% of the pieces", statistics.quantiles(pieces, n=100)[98] * 1e3, "ms", target=Target(2.0)),
        Row(f"{what}: all pieces", sum(pieces), "s"),
    ]


def _heavier(record: ReplicaRecord) -> ReplicaRecord:
    endpoint = replace(record.endpoint, weight=2 * record.endpoint.weight)
    return replace(record, endpoint=endpoint, revision="9-0")


async def _many_rows(*, is_quick: bool) -> list[Row]:
    """Return what two hundred routers at rest cost Redis, and their start together."""
    seconds = REST_SECONDS_QUICK if is_quick else REST_SECONDS
    with EmbeddedServer() as server:
        async with client_of(server.url) as client, _routers(server.url, MANY) as routers:
            await asyncio.sleep(3.0)

            async def rest() -> None:
                """Wait."""
                await asyncio.sleep(seconds)

            passed, redis_seconds, cpu_seconds = await _timed(client, routers, rest)
            started = max(one.ready["start_seconds"] for one in routers)
    what = f"{MANY} routers at rest"
    return [
        Row(f"{what}: CPU of Redis", 100 * redis_seconds / passed, "%", target=Target(3.0)),
        Row(f"{what}: CPU of a router", 100 * cpu_seconds / passed / MANY, "%"),
        Row(f"{MANY} routers start together in {PROCESSES} processes: the slowest start()", started, "s"),
    ]


async def _more_rows() -> list[Row]:
    """Return what fifty thousand replicas cost a router, and how all of them turn unhealthy."""
    urls = distant_urls(MORE)
    async with _fleet(urls) as (server, client, leader), _routers(server.url, 1, [MORE, 0]) as routers:
        ready = routers[0].ready
        await _ask(routers, "watch")
        leader.down = frozenset(urls)
        seconds, redis_seconds, cpu_seconds = await _timed(
            client, routers, lambda: _report(leader, urls, routers, "healthy 0")
        )
        stall = (await _ask(routers, "usage"))[0]["turn"]
    note = f"CPU: {redis_seconds:.1f} s in Redis, {cpu_seconds:.1f} s in the router that follows"
    return [
        Row(f"start() with {MORE:,} known replicas", ready["start_seconds"], "s", target=Target(2.5)),
        Row(f"{MORE:,} replicas: memory of a router for them", ready["bytes"] / 1e6, "MB", target=Target(50.0)),
        Row(f"all of {MORE:,} turn unhealthy: to a router that follows", seconds, "s", None, "", Target(5.0), note),
        Row(f"all of {MORE:,} turn unhealthy: longest stall of its event loop", stall * 1e3, "ms", target=Target(10.0)),
    ]


@contextlib.asynccontextmanager
async def _fleet(urls: Sequence[str]) -> AsyncIterator[tuple[EmbeddedServer, Client, Leader]]:
    """Yield a server with these replicas, all healthy, a client of it, and a leader that reports on them."""
    with EmbeddedServer() as server:
        async with client_of(server.url) as client:
            store = Store(Clients.of(client), Keys(NAMESPACE), router="simulator", timeout_seconds=PATIENCE_SECONDS)
            leader = await filled(store, client, urls)
            await leader.report(urls)
            yield server, client, leader


@contextlib.asynccontextmanager
async def _routers(
    redis_url: str, count: int, counts: Sequence[int] = (), *, replicas: Sequence[str] = ()
) -> AsyncIterator[list[Child]]:
    """Start routers in a few processes, all at once."""
    settings: dict[str, Any] = {"config": {"redis_url": redis_url}, "replicas": list(replicas), "counts": list(counts)}
    settings |= {"sessions": 0, "together": True}
    async with contextlib.AsyncExitStack() as stack:
        children = [
            Child("fleet_sim_process", settings | {"routers": some}, start_seconds=START_SECONDS)
            for some in split(count, PROCESSES)
        ]
        await asyncio.gather(*(stack.enter_async_context(child) for child in children))
        yield children


async def _report(leader: Leader, urls: Sequence[str], routers: Sequence[Child], question: str) -> None:
    await asyncio.gather(leader.report(urls), _ask(routers, question))


async def _timed(
    client: Client, routers: Sequence[Child], work: Callable[[], Awaitable[object]]
) -> tuple[float, float, float]:
    """Return the time that some work takes, the CPU time of Redis, and that of the routers, in seconds."""
    before, redis_before, started = await _ask(routers, "usage"), await redis_cpu(client), time.monotonic()
    await work()
    seconds, redis_after, after = time.monotonic() - started, await redis_cpu(client), await _ask(routers, "usage")
    used = sum(one["cpu"] for one in after) - sum(one["cpu"] for one in before)
    return seconds, redis_after - redis_before, used


async def _ask(children: Sequence[Child], question: str) -> list[dict[str, Any]]:
    return await asyncio.gather(*(child.ask(question) for child in children))
