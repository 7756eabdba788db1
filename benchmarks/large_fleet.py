"""What a router with ten thousand replicas does while programs read its pages, and what it costs at rest.

The router leads, and probes seldom, so that its own work is that of its mirror. Programs ask for `/status` and
`/metrics` at the admin address, several at once, while every replica changes. Another router, which does not lead, is
left alone. Both also with three replicas.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence

import httpx

from benchmarks.namespace import COMMANDS_AT_ONCE, NAMESPACE, client_of, fill, leader_of
from benchmarks.processes import Child
from benchmarks.rows import Row, Target
from shared_registry.embedded import EmbeddedServer
from shared_registry.store.client import Client
from shared_registry.store.keys import Keys

REPLICAS = 10_000
READERS = 8
ROUNDS, ROUNDS_QUICK = 20, 6
FEW = 3
TITLE = f"pages of a router with {REPLICAS:,} replicas, read by {READERS} at once"
REST_SECONDS, REST_SECONDS_QUICK = 40.0, 12.0
SETTLING_SECONDS = 8.0
MOST_UNREAD = 1 << 22
AT_REST = Target(0.5)
START_SECONDS = 60.0
STALL = Target(10.0)
ANSWER = Target(300.0)
CONFIG = {
    "host": "127.0.0.1",
    "port": 0,
    "admin_port": 0,
    "health_check_interval_seconds": 3600.0,
    "fast_interval_seconds": 1800.0,
    "grace_seconds": 0.0,
}


async def measure(*, is_quick: bool) -> list[Row]:
    """Return the longest stall and the slowest answer for each page, and what the router costs at rest."""
    async with contextlib.AsyncExitStack() as stack:
        server = stack.enter_context(EmbeddedServer())
        urls = await fill(server.url, REPLICAS)
        settings = {"config": CONFIG | {"redis_url": server.url}, "replicas": []}
        router = await stack.enter_async_context(Child("serving_process", settings))
        client = await stack.enter_async_context(client_of(server.url))
        await leader_of(client)
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=router.ready["admin_url"], timeout=30))
        await _until_loaded(http, REPLICAS)
        rows = [*await _rest_rows(server.url, REPLICAS, is_quick), *await _rest_rows(server.url, FEW, is_quick)]
        for page in ("/status", "/metrics"):
            await router.ask("stalls")
            seconds = []
            for number in range(ROUNDS_QUICK if is_quick else ROUNDS):
                await _change(client, urls, number)
                seconds.append(await _read(http, page))
            found = await router.ask("stalls")
            rows += [
                Row(f"{page}: longest stall of the event loop", found["stall"] * 1000, "ms", target=STALL),
                Row(f"{page}: longest garbage collection", found["collection"] * 1000, "ms"),
                Row(f"{page}: slowest answer to {READERS} at once", max(seconds) * 1000, "ms", target=ANSWER),
            ]
        return rows


async def _rest_rows(redis_url: str, replicas: int, is_quick: bool) -> list[Row]:  # noqa: FBT001  one caller
    """Return what a router costs at rest that does not lead, with the sum of all its work beside its sessions."""
    async with contextlib.AsyncExitStack() as stack:
        namespace = NAMESPACE if replicas == REPLICAS else "few"
        settings = {"config": CONFIG | {"redis_url": redis_url, "namespace": namespace}, "replicas": []}
        client = await stack.enter_async_context(client_of(redis_url))
        if namespace != NAMESPACE:
            await fill(redis_url, replicas, namespace)
            await stack.enter_async_context(Child("serving_process", settings))
            await leader_of(client, namespace)
        router = await stack.enter_async_context(Child("serving_process", settings))
        async with httpx.AsyncClient(base_url=router.ready["admin_url"], timeout=30) as http:
            await _until_loaded(http, replicas)
        await asyncio.sleep(SETTLING_SECONDS)
        before, began = await router.ask("usage"), time.monotonic()
        await asyncio.sleep(REST_SECONDS_QUICK if is_quick else REST_SECONDS)
        after, ended = await router.ask("usage"), time.monotonic()
        percent = 100 * (after["cpu"] - before["cpu"]) / (ended - began)
        return [Row(f"at rest, {replicas:,} replicas: CPU", percent, "%", target=AT_REST)]


async def _until_loaded(http: httpx.AsyncClient, replicas: int) -> None:
    async with asyncio.timeout(START_SECONDS):
        while True:
            if len((await http.get("/status")).json()["replicas"]) == replicas:
                return
            await asyncio.sleep(0.2)


async def _change(client: Client, urls: Sequence[str], number: int) -> None:
    """Give every replica another latency, as its probes do, so that the router's records are replaced."""
    keys = Keys(NAMESPACE)
    for at in range(0, len(urls), COMMANDS_AT_ONCE):
        pipeline = client.pipeline(transaction=False)
        for url in urls[at : at + COMMANDS_AT_ONCE]:
            pipeline.hset(keys.replica(url), "last_latency_ms", f"{number + 1}.5")
        await pipeline.execute()


async def _read(http: httpx.AsyncClient, page: str) -> float:
    """Let several ask at once, each for the whole page; return how long the last one waited."""
    started = time.perf_counter()
    answers = await asyncio.gather(*(_receive(http.base_url, page) for _ in range(READERS)))
    seconds = time.perf_counter() - started
    for answer in answers:
        head, _, body = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 ") or len(body) < REPLICAS:
            raise RuntimeError(f"{page}: {head!r}, {len(body)} bytes")
    await asyncio.sleep(0.3)
    return seconds


async def _receive(url: httpx.URL, page: str) -> bytes:
    """Return a whole response. httpx would need as much CPU for it as the router, on the same machine."""
    reader, writer = await asyncio.open_connection(url.host, url.port, limit=MOST_UNREAD)
    try:
        writer.write(f"GET {page} HTTP/1.1\r\nHost: {url.netloc.decode()}\r\nConnection: close\r\n\r\n".encode())
        return await reader.read()
    finally:
        writer.close()
