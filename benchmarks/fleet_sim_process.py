"""A process of several routers, each a `SharedReplicaRegistry` with sessions, for `fleet_sim`.

Its settings come as the first line: `config` (of `RouterConfig`), `routers` (how many), `sessions` (how many begin and
end a second at each router), `counts` (numbers of healthy replicas to wait for), `replicas` (urls in their configs),
and `together`, if the routers start at once. Probes are not its work.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import time
from collections.abc import Iterator

from benchmarks.processes import Answer, parent_input, serve, until, write_answer
from shared_registry import RegistryError, ReplicaEndpoint, RouterConfig, SharedReplicaRegistry
from shared_registry.aio.garbage import rare_collections

WATCH_SECONDS = 0.002
TICK_SECONDS = 0.001


class Turns:
    """Measures the turns of this process's event loop.

    Attributes:
        longest: The most CPU time for which a task that was due had to wait, in seconds. Time for which the machine ran
            something else does not count.
    """

    def __init__(self) -> None:
        self.longest = 0.0

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            before = time.thread_time()
            await asyncio.sleep(TICK_SECONDS)
            self.longest = max(self.longest, time.thread_time() - before)


async def keep_sessions(registry: SharedReplicaRegistry, per_second: float) -> None:
    """Begin and end sessions at that rate, until cancelled."""
    while True:
        with contextlib.suppress(RegistryError):
            lease = await registry.acquire()
            await lease.release()
        await asyncio.sleep(1 / per_second)


def healthy_in(registry: SharedReplicaRegistry) -> int:
    """Return how many replicas a router selects from."""
    return len(registry._view._levels)  # noqa: SLF001  counting through the public names would take longer


@contextlib.contextmanager
def cancelled_at_end(tasks: list[asyncio.Task[None]]) -> Iterator[None]:
    """Cancel tasks after the block."""
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()


async def main() -> None:
    """Run the routers until the parent is gone, or SIGTERM comes; stop them cleanly then."""
    lines = await parent_input()
    settings = json.loads(await lines.readline())
    replicas = [ReplicaEndpoint(url) for url in settings.get("replicas", ())]
    config = RouterConfig(**settings["config"], replicas=replicas)
    turns = Turns()
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(rare_collections())
        registries = [SharedReplicaRegistry(config, health_checks=False) for _ in range(settings["routers"])]
        before = resident_bytes()
        seconds: list[float] = []

        async def start(registry: SharedReplicaRegistry) -> None:
            """Start a router, and measure how long that takes."""
            started = time.perf_counter()
            await stack.enter_async_context(registry)
            seconds.append(time.perf_counter() - started)

        used = time.process_time()
        if settings.get("together"):
            await asyncio.gather(*(start(registry) for registry in registries))
        else:
            for registry in registries:
                await start(registry)
        start_cpu = (time.process_time() - used) / len(registries)
        tasks: list[asyncio.Task[None]] = []
        if settings["sessions"]:
            tasks = [asyncio.create_task(keep_sessions(one, settings["sessions"])) for one in registries]
        stack.enter_context(cancelled_at_end(tasks))

        async def usage() -> Answer:
            """Return the CPU time of this process and the longest turn since it is watched."""
            return {"cpu": time.process_time(), "at": time.monotonic(), "turn": turns.longest}

        async def watch() -> Answer:
            """Watch the turns from now on, which costs CPU time."""
            tasks.append(asyncio.create_task(turns.run()))
            return {}

        async def wait_healthy(count: int) -> Answer:
            await until(lambda: all(healthy_in(one) == count for one in registries), poll_seconds=WATCH_SECONDS)
            return {"at": time.monotonic()}

        questions = {"usage": usage, "watch": watch} | {
            f"healthy {count}": (lambda count=count: wait_healthy(count)) for count in settings["counts"]
        }
        memory = (resident_bytes() - before) / len(registries)
        write_answer({"start_cpu": start_cpu, "start_seconds": max(seconds), "bytes": memory})
        await serve(questions, lines)


def resident_bytes() -> int:
    """Return how much memory this process has."""
    with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123  a file of the kernel
        return int(statm.read().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    asyncio.run(main())
