"""What a lease costs, beside a script that does nothing; what a router's life and death cost; what is never exceeded.

A registry has its own connections; `return 1` has a client of redis-py, and with one task one connection. The sizes and
the two take turns in short rounds, so that what disturbs the machine disturbs them alike; medians count. All replicas
are primaries, so that the least loaded one is looked for among all of them. Beside them too: the commands without which
no session is placed. Fifty tasks wait for each other on one core: their figures are the wait of one in fifty. Server
time is what INFO commandstats adds to EVALSHA.

See `placement_load` for what follows: eight processes that compete for too few slots, in three ways.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from benchmarks.bare_placement import BarePlacement
from benchmarks.namespace import PATIENCE_SECONDS, client_of, fill, longest_command
from benchmarks.placement_load import measure_load
from benchmarks.rows import Row, Target
from shared_registry import Lease, RouterConfig, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer
from shared_registry.leases.ledger import new_lease_id
from shared_registry.model import RouterInfo
from shared_registry.store.client import Client, Clients
from shared_registry.store.commands import Store
from shared_registry.store.keys import Keys
from shared_registry.store.replies import Departure

TITLE = "acquire() and release()"
SIZES = (10, 1_000, 10_000)
TASKS = (1, 50)
ROUNDS, ROUNDS_QUICK = 60, 6
CALLS_A_ROUND = 100
CALLS_AT_ONCE = 32
SERVER_CALLS, SERVER_CALLS_QUICK = 2_000, 200
LEASES, LEASES_QUICK = 50_000, 10_000
LEASES_AT_ONCE = 500
REAPED_REPLICAS = 100
BARE_EXPIRY_SECONDS = 600.0
BESIDE_RETURN_1 = Target(1.4, of="ratio")
FLAT = Target(1.2, of="ratio")
SCRIPT_MS = Target(10.0)

Call = Callable[[], Awaitable[object]]


@dataclass
class Times:
    """Seconds that calls took."""

    one: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)
    acquire: list[float] = field(default_factory=list)
    release: list[float] = field(default_factory=list)


async def measure(*, is_quick: bool) -> list[Row]:
    """Return the rows of one router, of its end, and of many under load."""
    with EmbeddedServer() as server:
        rows = await _costs(server.url, ROUNDS_QUICK if is_quick else ROUNDS, is_quick=is_quick)
    with EmbeddedServer() as server:
        rows += await _reaping(server.url, LEASES_QUICK if is_quick else LEASES)
    with EmbeddedServer() as server:
        rows += await measure_load(server.url, is_quick=is_quick)
    return rows


async def _costs(redis_url: str, rounds: int, *, is_quick: bool) -> list[Row]:
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(client_of(redis_url))
        registries = {}
        for size in SIZES:
            await fill(redis_url, size, f"of-{size}", primaries=size)
            config = RouterConfig(redis_url=redis_url, namespace=f"of-{size}")
            registry = SharedReplicaRegistry(config, health_checks=False)
            registries[size] = await stack.enter_async_context(registry)
        digest = await client.script_load("return 1")
        bare = BarePlacement(client, Keys(f"of-{SIZES[0]}"), _router("bare~1"), timeout_seconds=PATIENCE_SECONDS)
        await bare.start(expiry_seconds=BARE_EXPIRY_SECONDS)
        rows = []
        for tasks in TASKS:
            times = {size: Times() for size in SIZES}
            for _ in range(rounds):
                for size, registry in registries.items():
                    await _round(client, digest, registry, tasks, times[size])
                if tasks == 1:
                    await _bare_round(bare, times[SIZES[0]])
            rows += _latency_rows(times, tasks)
            if tasks == 1:
                rows += _bare_rows(times[SIZES[0]])
        calls = SERVER_CALLS_QUICK if is_quick else SERVER_CALLS
        rows += await _server_rows(client, registries, calls)
        rows += await _heartbeat_rows(client, digest, calls)
    return rows


async def _round(client: Client, digest: str, registry: SharedReplicaRegistry, tasks: int, times: Times) -> None:
    """Let so many tasks call `return 1`, and then acquire and release, at once."""
    slots = asyncio.Semaphore(CALLS_AT_ONCE)  # more calls would wait in the pool, which is not fair

    async def call_one() -> None:
        for _ in range(CALLS_A_ROUND // tasks):
            started = time.perf_counter()
            async with slots:
                await client.evalsha(digest, 0)
            times.one.append(time.perf_counter() - started)

    async def acquire_and_release() -> None:
        for _ in range(CALLS_A_ROUND // tasks):
            started = time.perf_counter()
            lease = await registry.acquire()
            acquired = time.perf_counter()
            await lease.release()
            times.acquire.append(acquired - started)
            times.release.append(time.perf_counter() - acquired)

    await asyncio.gather(*(call_one() for _ in range(tasks)))
    await asyncio.gather(*(acquire_and_release() for _ in range(tasks)))


async def _bare_round(bare: BarePlacement, times: Times) -> None:
    for _ in range(CALLS_A_ROUND):
        started = time.perf_counter()
        lease_id = await bare.place()
        times.bare.append(time.perf_counter() - started)
        await bare.end(lease_id)


def _bare_rows(times: Times) -> list[Row]:
    what, bare = f"acquire, {SIZES[0]} replicas, 1 task", _microseconds(times.bare)
    return [
        Row(f"{what}: its bare commands", bare, "µs", _microseconds(times.one), "return 1"),
        Row(f"{what}: all of it", _microseconds(times.acquire), "µs", bare, "its bare commands"),
    ]


def _latency_rows(times: dict[int, Times], tasks: int) -> list[Row]:
    by = "1 task" if tasks == 1 else f"{tasks} tasks"
    rows = []
    for name in ("acquire", "release"):
        medians = {size: _microseconds(getattr(each, name)) for size, each in times.items()}
        rows += [
            Row(
                f"{name}, {size:,} replicas, {by}",
                p50,
                "µs",
                _microseconds(times[size].one),
                "return 1",
                BESIDE_RETURN_1,
            )
            for size, p50 in medians.items()
        ]
        first, last = SIZES[0], SIZES[-1]
        what = f"{name}, {last:,} replicas, {by}, again"
        rows.append(Row(what, medians[last], "µs", medians[first], f"with {first}", FLAT))
    return rows


async def _server_rows(client: Client, registries: dict[int, SharedReplicaRegistry], calls: int) -> list[Row]:
    """Return what acquire and release cost the server with most and with least replicas."""
    found: dict[str, list[float]] = {"acquire": [], "release": []}
    for registry in registries.values():
        leases: list[Lease] = []

        async def acquire(registry: SharedReplicaRegistry = registry, leases: list[Lease] = leases) -> None:
            leases.append(await registry.acquire())

        async def release(leases: list[Lease] = leases) -> None:
            await leases.pop().release()

        found["acquire"].append(await _server_microseconds(client, acquire, calls))
        found["release"].append(await _server_microseconds(client, release, calls))
    return [
        Row(f"{name}, {SIZES[-1]:,} replicas: server time", took[-1], "µs", took[0], f"with {SIZES[0]}")
        for name, took in found.items()
    ]


async def _heartbeat_rows(client: Client, digest: str, calls: int) -> list[Row]:
    """Return what a heartbeat costs a router that has leases, and the server."""
    keys = Keys("beating")
    info = _router("router~1")
    store = Store(Clients.of(client), keys, router=info.key, timeout_seconds=PATIENCE_SECONDS)

    async def heartbeat() -> None:
        await store.heartbeat(info, expiry_seconds=RouterConfig().router_expiry_seconds)

    async def call_one() -> None:
        await client.evalsha(digest, 0)

    heartbeats: list[float] = []
    ones: list[float] = []
    for _ in range(calls):
        for call, times in ((call_one, ones), (heartbeat, heartbeats)):
            started = time.perf_counter()
            await call()
            times.append(time.perf_counter() - started)
    in_server = await _server_microseconds(client, heartbeat, calls)
    one_in_server = await _server_microseconds(client, call_one, calls)
    return [
        Row("a heartbeat, once a second", _microseconds(heartbeats), "µs", _microseconds(ones), "return 1"),
        Row("a heartbeat: server time", in_server, "µs", one_in_server, "return 1"),
    ]


async def _reaping(redis_url: str, count: int) -> list[Row]:
    """Return what it costs to end the leases of a router that died."""
    keys = Keys("reaping")
    urls = await fill(redis_url, REAPED_REPLICAS, keys.namespace, primaries=REAPED_REPLICAS)
    async with client_of(redis_url) as client:
        dead = _router("dead~1")
        store = Store(Clients.of(client), keys, router=dead.key, timeout_seconds=PATIENCE_SECONDS)
        await store.heartbeat(dead, expiry_seconds=PATIENCE_SECONDS)
        ids = [new_lease_id(None) for _ in range(count)]
        for at in range(0, count, LEASES_AT_ONCE):
            await store.restore_leases(
                {one: urls[n % len(urls)] for n, one in enumerate(ids[at : at + LEASES_AT_ONCE])}
            )
        await store.heartbeat(dead, expiry_seconds=0.1)
        await asyncio.sleep(0.2)
        seconds = 0.0

        async def reap() -> None:
            nonlocal seconds
            started = time.perf_counter()
            while (departure := await store.reap(dead.key)) is Departure.PARTIAL:
                pass
            seconds = time.perf_counter() - started
            if departure is not Departure.DONE:
                raise RuntimeError("the router was not reaped")

        _, longest = await longest_command(client, reap)
        left = sum([int(await client.hget(keys.replica(url), "in_flight")) for url in urls])
    if left:
        raise RuntimeError(f"{left} sessions are left after reaping")
    return [
        Row(f"reaping a router with {count:,} leases", seconds, "s"),
        Row("the same: longest single call", longest, "ms", target=SCRIPT_MS),
    ]


async def _server_microseconds(client: Client, call: Call, calls: int) -> float:
    before = await client.info("commandstats")
    for _ in range(calls):
        await call()
    after = await client.info("commandstats")
    usec, made = (after["cmdstat_evalsha"][name] - before["cmdstat_evalsha"][name] for name in ("usec", "calls"))
    return float(usec / made)


def _microseconds(seconds: list[float]) -> float:
    return statistics.median(seconds) * 1e6


def _router(key: str) -> RouterInfo:
    return RouterInfo(key=key, host="here", pid=1, version="0", started_at=time.time(), config_fingerprint="")
