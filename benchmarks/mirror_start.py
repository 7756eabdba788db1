"""How long a router takes to start where ten thousand replicas are registered, and whether Redis stalls meanwhile.

A registry without health checks is started on a filled namespace, several times; then once more while the server logs
every command, for the longest that a single one kept it busy (SLOWLOG with a threshold of 0). The start on an empty
namespace stands beside.
"""

from __future__ import annotations

import statistics
import time

from benchmarks.namespace import client_of, fill, longest_command
from benchmarks.rows import Row, Target
from shared_registry import RouterConfig, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer

REPLICAS = 10_000
TITLE = f"start() with {REPLICAS:,} replicas registered"
REPETITIONS, REPETITIONS_QUICK = 5, 2
START = Target(2.0)
COMMAND = Target(5.0)


async def measure(*, is_quick: bool) -> list[Row]:
    """Return the time to ready and the longest command."""
    with EmbeddedServer() as server:
        empty, filled = [], []
        await fill(server.url, REPLICAS)
        for _ in range(REPETITIONS_QUICK if is_quick else REPETITIONS):
            empty.append(await _seconds_to_start(server.url, "nothing-there"))
            filled.append(await _seconds_to_start(server.url))
        async with client_of(server.url) as client:
            name, milliseconds = await longest_command(client, lambda: _seconds_to_start(server.url))
    return [
        Row("until ready", statistics.median(filled), "s", statistics.median(empty), "with none", START),
        Row(f"longest single command in Redis ({name})", milliseconds, "ms", target=COMMAND),
    ]


async def _seconds_to_start(redis_url: str, namespace: str = "default") -> float:
    registry = SharedReplicaRegistry(RouterConfig(redis_url=redis_url, namespace=namespace), health_checks=False)
    started = time.perf_counter()
    async with registry:
        return time.perf_counter() - started
