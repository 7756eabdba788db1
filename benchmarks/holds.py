"""Measures what leases cost that connections to the API hold: memory of the router, and the time to get one.

A router process, as `shared-registry serve` runs it, in front of one replica without a limit. The leases are held by
connections of this process; the router's memory is that which is resident before and after.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import statistics
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx

from benchmarks.contenders import free_port, resident_bytes
from benchmarks.processes import Child
from benchmarks.rows import Row, Target
from shared_registry.embedded import EmbeddedServer

TITLE = "leases that connections to the API hold, at one router"
HOLDS, HOLDS_QUICK = 1000, 300
AT_ONCE = 20
FIRST = 20
"""So many are held and ended before, because the first ones need memory that the others share."""
BYTES_EACH = Target(60_000.0)
START_SECONDS = 30.0
END = b"\n\n"


async def measure(*, is_quick: bool) -> list[Row]:
    """Return the memory of a held lease, and the time until a client has it."""
    count = HOLDS_QUICK if is_quick else HOLDS
    with EmbeddedServer() as server, _open_files(count * 2):
        async with Child("serving_process", {}) as replica:
            port = free_port()
            config = {"redis_url": server.url, "port": 0, "admin_port": port, "admin_access": "lease"}
            settings = {"config": config, "replicas": [replica.ready["url"]]}
            async with Child("serving_process", settings) as router:
                url = f"http://127.0.0.1:{port}"
                await _until_it_places(url)
                async with contextlib.AsyncExitStack() as stack:
                    await _hold(url, FIRST, stack)
                before = resident_bytes(router.pid)
                async with contextlib.AsyncExitStack() as stack:
                    waits = await _hold(url, count, stack)
                    used = resident_bytes(router.pid) - before
    return [
        Row(f"{count} held: memory of the router for each", used / count, "bytes", target=BYTES_EACH),
        Row(f"{AT_ONCE} clients at once: until one has its lease, median", statistics.median(waits) * 1000, "ms"),
    ]


async def _hold(url: str, count: int, stack: contextlib.AsyncExitStack) -> list[float]:
    """Hold so many leases until the end of the stack. Return how long each has taken."""
    address = urlsplit(url)
    turns = asyncio.Semaphore(AT_ONCE)

    async def one() -> float:
        async with turns:
            began = time.perf_counter()
            reader, writer = await asyncio.open_connection(address.hostname, address.port)
            stack.callback(writer.close)
            writer.write(f"GET /v1/leases/hold HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n".encode())
            await reader.readuntil(b"event: lease")
            await reader.readuntil(END)
            return time.perf_counter() - began

    return await asyncio.gather(*(one() for _ in range(count)))


async def _until_it_places(url: str) -> None:
    async with asyncio.timeout(START_SECONDS), httpx.AsyncClient(trust_env=False) as client:
        while True:
            with contextlib.suppress(httpx.TransportError):
                if (await client.get(f"{url}/v1/select")).status_code == 200:
                    return
            await asyncio.sleep(0.05)


@contextlib.contextmanager
def _open_files(count: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = count + soft if hard == resource.RLIM_INFINITY else min(count + soft, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
