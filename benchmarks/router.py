"""What a router costs a session: messages, requests and latency through it, beside a direct connection to its replica.

Replica, router and client are a process each; the client takes turns between the two ways, so that both meet the same
machine. Where that has fewer cores than processes, the router also takes from what the others would have had.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from redis.asyncio import Redis
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from benchmarks.processes import Child
from benchmarks.rows import Row, Target
from shared_registry.embedded import EmbeddedServer

TITLE = "a session through the router, beside a direct connection to the same replica"

ROUNDS = 3
SESSIONS = 4
SIZES = {"64 B": (64, 3_000), "256 KiB": (256 * 1024, 40)}
"""Message sizes, and how many messages each of the sessions sends in a round."""
PINGS = {"64 B": 600, "256 KiB": 120}
REQUESTS = 150
CLIENTS = 8
COUNTED = 10_000
"""Requests over which connections to Redis are counted."""
START_SECONDS = 20.0
CONFIG = {"host": "127.0.0.1", "port": 0, "fast_interval_seconds": 0.05, "grace_seconds": 0.0}
T = TypeVar("T")
CPU_NOTE = "of the router process, for each message echoed (two passed on) or request"


async def measure(*, is_quick: bool) -> list[Row]:
    """Return rows for each message size, and for HTTP."""
    factor = 1 if is_quick else 5
    with EmbeddedServer() as redis:
        async with Child("serving_process", {}) as replica:
            direct = replica.ready["url"]
            settings = {"config": CONFIG | {"redis_url": redis.url}, "replicas": [direct]}
            async with Child("serving_process", settings) as router:
                ways = (router.ready["url"], direct)
                await _until_served(ways[0])
                rows = []
                for name, (size, count) in SIZES.items():
                    rows += await _message_rows(name, size, count * factor, PINGS[name] * factor, ways, router)
                rows += await _request_rows(REQUESTS * factor, ways, router)
                return [*rows, await _connection_row(redis.url, ways[0])]


async def _message_rows(
    name: str, size: int, count: int, pings: int, ways: tuple[str, str], router: Child
) -> list[Row]:
    cpu = await _cpu(router)
    rates = await _in_turn(ways, lambda url: _messages_a_second(url, size, count))
    cpu = (await _cpu(router) - cpu) / (ROUNDS * SESSIONS * count)
    trips = await _in_turn(ways, lambda url: _round_trips(url, size, pings))
    what = f"WebSocket, {name}"
    return [
        Row(f"{what}: messages/s, {SESSIONS} sessions", max(rates[0]), "", max(rates[1]), "direct"),
        Row(f"{what}: router CPU a message", cpu * 1e6, "µs", note=CPU_NOTE),
        *(_added(what, percent, trips) for percent in (50, 99)),
    ]


def _added(what: str, percent: int, trips: tuple[list[list[float]], list[list[float]]]) -> Row:
    through, direct = (min(_percentile(values, percent) for values in rounds) for rounds in trips)
    return Row(f"{what}: added to a round trip, p{percent}", through - direct, "ms", direct, "direct, all of it")


async def _request_rows(count: int, ways: tuple[str, str], router: Child) -> list[Row]:
    cpu = await _cpu(router)
    rates = await _in_turn(ways, lambda url: _requests_a_second(url, count))
    cpu = (await _cpu(router) - cpu) / (ROUNDS * CLIENTS * count)
    return [
        Row(f"HTTP: requests/s, {CLIENTS} connections", max(rates[0]), "", max(rates[1]), "direct"),
        Row("HTTP: router CPU a request", cpu * 1e6, "µs", note=CPU_NOTE),
    ]


async def _connection_row(redis_url: str, url: str) -> Row:
    """Count the connections that a router gave up: those that it opened, but for those by which its pools grew."""
    async with Redis.from_url(redis_url) as raw:
        opened, held = await _connections(raw)
        await _requests_a_second(url, COUNTED // CLIENTS)
        opened_then, held_then = await _connections(raw)
    given_up = opened_then - opened - (held_then - held)
    return Row(f"HTTP: connections to Redis given up in {COUNTED:,} requests", given_up, "", target=Target(0))


async def _connections(raw: Redis) -> tuple[int, int]:
    """Return how many the server has received, and how many are open."""
    stats, clients = await raw.info("stats"), await raw.info("clients")
    return stats["total_connections_received"], clients["connected_clients"]


async def _in_turn(ways: tuple[str, str], work: Callable[[str], Awaitable[T]]) -> tuple[list[T], list[T]]:
    found: tuple[list[T], list[T]] = ([], [])
    for _ in range(ROUNDS):
        for url, results in zip(ways, found, strict=True):
            results.append(await work(url))
    return found


async def _messages_a_second(url: str, size: int, count: int) -> float:
    message = bytes(size)

    async def send_all(session: ClientConnection) -> None:
        for _ in range(count):
            await session.send(message)

    async def converse(session: ClientConnection) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(send_all(session))
            for _ in range(count):
                await session.recv()

    sessions = [await _open(url) for _ in range(SESSIONS)]
    started = time.perf_counter()
    await asyncio.gather(*(converse(session) for session in sessions))
    seconds = time.perf_counter() - started
    await asyncio.gather(*(session.close() for session in sessions))
    return SESSIONS * count / seconds


async def _round_trips(url: str, size: int, count: int) -> list[float]:
    """Return what each took, in milliseconds."""
    message = bytes(size)
    found = []
    session = await _open(url)
    for _ in range(count):
        started = time.perf_counter()
        await session.send(message)
        await session.recv()
        found.append((time.perf_counter() - started) * 1000)
    await session.close()
    return found


async def _open(url: str) -> ClientConnection:
    target = url.replace("http", "ws", 1) + "/v1/stream"
    return await connect(target, proxy=None, compression=None, max_size=None, ping_interval=None)


async def _requests_a_second(url: str, count: int) -> float:
    host, _, port = url.removeprefix("http://").rpartition(":")
    request = f"GET /answer?status=200&body=ok HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()

    async def ask() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        for _ in range(count):
            writer.write(request)
            await reader.readuntil(b"\r\n\r\nok")
        writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(CLIENTS)))
    return CLIENTS * count / (time.perf_counter() - started)


async def _until_served(url: str) -> None:
    async with asyncio.timeout(START_SECONDS):
        while True:
            async with await _open(url) as session:
                with contextlib.suppress(ConnectionClosed):  # there is no replica yet
                    await session.send("ready?")
                    if await session.recv() == "ready?":
                        return
            await asyncio.sleep(0.05)


async def _cpu(child: Child) -> float:
    return float((await child.ask("usage"))["cpu"])


def _percentile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1]
