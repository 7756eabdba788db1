"""What a second worker adds: requests a second of one port, with one process and with two.

The client, the origin and Redis run on the same machine. Where it has few cores, they take what a second worker would
use, so that the throughput cannot double. The CPU of a request shows what the workers themselves cost: if two workers
need as much of it as one, twice the cores serve twice the requests. Two workers get twice the connections of one, so
that each of them has as many requests at once; and the rounds of both alternate, because machines change their speed.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from benchmarks.contenders import cpu_seconds, find_program, free_port, listening, missing_programs, running
from benchmarks.proxying import CONNECTIONS, ORIGIN, QUICK_SECONDS, ROUNDS, SCRIPT, SECONDS, Load, until_served
from benchmarks.rows import Row, Target
from shared_registry.embedded import EmbeddedServer

TITLE = "one port, one worker and two"
PLACEMENTS = ("local", "exact")
WORKERS = (1, 2)
LEAST_SHARE = 0.85
"""Of the throughput that two cores have for two workers, what must come out: 1.7 times that of one worker."""


async def measure(*, is_quick: bool) -> list[Row]:
    """Return the throughput and the CPU of a request with two workers, beside those with one."""
    if missing := missing_programs("nginx", "wrk"):
        return [missing]
    rows = []
    with tempfile.TemporaryDirectory() as name, EmbeddedServer() as redis:
        folder = Path(name)
        (folder / "post.lua").write_text(SCRIPT)
        seconds = QUICK_SECONDS if is_quick else SECONDS
        loads = [Load(find_program("wrk"), folder / "post.lua", seconds, count * CONNECTIONS) for count in WORKERS]
        origin = free_port()
        nginx = [find_program("nginx"), "-p", name, "-c"]
        async with running(folder, nginx, ORIGIN.format(folder=name, port=origin), origin):
            for placement in PLACEMENTS:
                settings: dict[str, object] = {"redis_url": redis.url, "namespace": placement, "placement": placement}
                settings |= {"replicas": [f"http://127.0.0.1:{origin}"]}
                (rate, cpu, _), (rate_of_two, cpu_of_two, share) = await _served(folder, loads, settings)
                what = f"POST, placement: {placement}, two workers"
                rows += [
                    Row(f"{what}: requests/s", rate_of_two, "", rate, "one worker"),
                    Row(
                        f"{what}: CPU a request",
                        cpu_of_two * 1e6,
                        "µs",
                        cpu * 1e6,
                        "one worker",
                        target=Target(1 / LEAST_SHARE, "ratio"),
                    ),
                    Row(f"{what}: smaller share of a worker", 100 * share, "%"),
                ]
    return rows


@dataclass(frozen=True)
class Round:
    """What one load has found.

    Attributes:
        rate: The requests a second.
        cpu: The CPU seconds of a request, of all processes of the router.
        least: The smallest share of a worker in what all workers used.
    """

    rate: float
    cpu: float
    least: float


async def _served(folder: Path, loads: Sequence[Load], settings: Mapping[str, object]) -> list[tuple[float, ...]]:
    """Return the medians of the rounds, for each number of workers."""
    found: list[list[Round]] = [[] for _ in WORKERS]
    async with contextlib.AsyncExitStack() as stack:
        routers = []
        for workers, load in zip(WORKERS, loads, strict=True):
            port = free_port()
            file = folder / f"router-{port}.yaml"
            router = {"host": "127.0.0.1", "port": port, "grace_seconds": 0.0, "log_level": "warning", **settings}
            file.write_text(json.dumps({"router": router | {"workers": workers}}))  # JSON is YAML
            command = [sys.executable, "-m", "shared_registry", "serve", "--config", str(file)]
            process = await stack.enter_async_context(listening(folder, command, port))
            url = f"http://127.0.0.1:{port}/v1/x"
            await until_served(url)
            await load.run(url)  # until all workers have their connections
            routers.append((process.pid, url))
        for _ in range(ROUNDS):
            for at, (pid, url) in enumerate(routers):
                found[at].append(await _round(loads[at], pid, url))
    return [tuple(statistics.median(values) for values in zip(*map(astuple, rounds), strict=True)) for rounds in found]


async def _round(load: Load, pid: int, url: str) -> Round:
    before = _cpu_of_all(pid)
    count = await load.run(url)
    parent, *workers = (after - earlier for after, earlier in zip(_cpu_of_all(pid), before, strict=True))
    least = min(workers) / sum(workers) if workers else 1.0
    return Round(count / load.seconds, (parent + sum(workers)) / count, least)


def _cpu_of_all(parent: int) -> list[float]:
    """Return how much CPU a process and each of its children have used."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [cpu_seconds(parent), *(cpu_seconds(int(child)) for child in children)]
