"""A process of one router: a `SharedReplicaRegistry` and nothing else, which tells its parent how it fares.

Its settings come as the first line: `config` (of `RouterConfig`), `replicas` (urls, the first one primary),
`health_checks`, `is_traced` to count what `start` allocates, and `is_counting` to count its probes.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import time
import tracemalloc

from benchmarks.processes import Answer, parent_input, serve, until, write_answer
from shared_registry import Lease, RouterConfig, SharedReplicaRegistry
from shared_registry.aio.garbage import rare_collections
from shared_registry.cli.serving_loop import serving_loop_factory
from shared_registry.model import ReplicaEndpoint
from shared_registry.probing import HttpProber

WATCH_SECONDS = 0.01
WATCH_SECONDS_A_REPLICA = 0.00005
"""To look at all of many replicas takes a part of the time that is measured."""
LONG_SECONDS = 600.0


class LogCount(logging.Handler):
    """Counts log lines instead of writing them."""

    def __init__(self) -> None:
        super().__init__()
        self.lines = 0

    def emit(self, record: logging.LogRecord) -> None:  # noqa: ARG002
        self.lines += 1


class CountedProbes:
    """The ordinary probe, and how often it was made. Its connections end with the process."""

    def __init__(self, config: RouterConfig) -> None:
        self.count = 0
        self._prober = HttpProber(config)

    async def __call__(self, url: str, *, timeout: float) -> tuple[float, str | None]:
        self.count += 1
        return await self._prober(url, timeout=timeout)


async def main() -> None:
    """Run the router until the parent is gone, or SIGTERM comes; stop it cleanly then."""
    lines = await parent_input()
    settings = json.loads(await lines.readline())
    replicas = [ReplicaEndpoint(url, primary=at == 0) for at, url in enumerate(settings.get("replicas", ()))]
    config = RouterConfig(replicas=replicas, **settings["config"])
    probes = CountedProbes(config) if settings.get("is_counting") else None
    registry = SharedReplicaRegistry(config, http_get=probes, health_checks=settings.get("health_checks", True))
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
        count = probes.count if probes else None
        return {"cpu": time.process_time(), "at": time.monotonic(), "lines": log.lines, "probes": count}

    async def all_healthy() -> Answer:
        """Wait until every replica is healthy here."""
        seconds = max(WATCH_SECONDS, len(replicas) * WATCH_SECONDS_A_REPLICA)
        await until(lambda: all(replica.is_healthy for replica in registry.all()), poll_seconds=seconds)
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
        questions = {"wait_for_slot": wait_for_slot, "release": release}
        # As `shared-registry serve` and `probe` do.
        collections = contextlib.nullcontext() if settings.get("is_traced") else rare_collections()
        with collections:
            await serve(questions | {"usage": usage, "all_healthy": all_healthy}, lines)
    finally:
        await registry.stop()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=serving_loop_factory()) as runner:
        runner.run(main())
