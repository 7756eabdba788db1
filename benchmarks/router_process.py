"""A process of one router: a `SharedReplicaRegistry` and nothing else, which tells its parent how it fares.

Its settings come as the first line: `config` (of `RouterConfig`), `replicas` (urls, the first one primary),
`health_checks`, and `is_traced` to count what `start` allocates.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import time
import tracemalloc

from benchmarks.processes import Answer, parent_input, write_answer, serve, until
from shared_registry import Lease, RouterConfig, SharedReplicaRegistry
from shared_registry.model import ReplicaEndpoint

WATCH_SECONDS = 0.01
LONG_SECONDS = 600.0


class LogCount(logging.Handler):
    """Counts log lines instead of writing them."""

    def __init__(self) -> None:
        super().__init__()
        self.lines = 0

    def emit(self, record: logging.LogRecord) -> None:  # noqa: ARG002
        self.lines += 1


async def main() -> None:
    """Run the router until the parent is gone, or SIGTERM comes; stop it cleanly then."""
    lines = await parent_input()
    settings = json.loads(await lines.readline())
    replicas = [ReplicaEndpoint(url, primary=at == 0) for at, url in enumerate(settings.get("replicas", ()))]
    config = RouterConfig(replicas=replicas, **settings["config"])
    registry = SharedReplicaRegistry(config, health_checks=settings.get("health_checks", True))
    leases: list[Lease] = []
    log = LogCount()
    logging.getLogger("shared_registry").setLevel(logging.INFO)
    logging.getLogger("shared_registry").addHandler(log)
    if settings.get("is_traced"):
        gc.collect()
        tracemalloc.start()
    started_at = time.monotonic()
    await registry.start()
    ready_at = time.monotonic()
    gc.collect()
    traced_bytes = tracemalloc.get_traced_memory()[0]

    async def usage() -> Answer:
        """Say how much CPU this process has used, and how many lines it has logged."""
        return {"cpu": time.process_time(), "at": time.monotonic(), "lines": log.lines}

    async def all_healthy() -> Answer:
        """Wait until every replica is healthy here."""
        await until(lambda: all(replica.is_healthy for replica in registry.all()), poll_seconds=WATCH_SECONDS)
        return {"at": time.monotonic(), "replicas": len(registry.all())}

    async def wait_for_slot() -> Answer:
        """Wait for a slot; say when it came."""
        leases.append(await registry.acquire(timeout=LONG_SECONDS))
        return {"at": time.monotonic()}

    async def release() -> Answer:
        """Give it back; say when that began."""
        started_at = time.monotonic()
        await leases.pop().release()
        return {"at": started_at}

    write_answer(
        {"router": registry.router_key, "started_at": started_at, "ready_at": ready_at, "traced_bytes": traced_bytes}
    )
    try:
        questions = {"wait_for_slot": wait_for_slot, "give_back": release}
        await serve(questions | {"usage": usage, "all_healthy": all_healthy}, lines)
    finally:
        await registry.stop()


if __name__ == "__main__":
    asyncio.run(main())
