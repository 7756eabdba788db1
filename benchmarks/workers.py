"""What a second worker adds: requests a second of one port, with one process and with two.

The client, the origin and Redis run on the same machine. Where it has few cores, they take what a second worker would
use, so that the throughput cannot double. The CPU of a request shows what the workers themselves cost: if two workers
need as much of it as one, twice the cores serve twice the requests.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks.contenders import cpu_seconds, find_program, free_port, listening, missing_programs, running
from benchmarks.proxying import ORIGIN, QUICK_SECONDS, ROUNDS, SCRIPT, SECONDS, Load, until_served
from benchmarks.rows import Row, Target
from shared_registry.embedded import EmbeddedServer

TITLE = "one port, one worker and two"
PLACEMENTS = ("local", "exact")
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
        load = Load(find_program("wrk"), folder / "post.lua", QUICK_SECONDS if is_quick else SECONDS)
        origin = free_port()
        nginx = [find_program("nginx"), "-p", name, "-c"]
        async with running(folder, nginx, ORIGIN.format(folder=name, port=origin), origin):
            for placement in PLACEMENTS:
                settings: dict[str, object] = {"redis_url": redis.url, "namespace": placement, "placement": placement}
                settings |= {"replicas": [f"http://127.0.0.1:{origin}"]}
                (rate, cpu), (rate_of_two, cpu_of_two) = [
                    await _served(folder, load, settings | {"workers": workers}) for workers in (1, 2)
                ]
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
                ]
    return rows


async def _served(folder: Path, load: Load, settings: Mapping[str, object]) -> tuple[float, float]:
    """Return the median of the requests a second, and of the CPU of a request."""
    port = free_port()
    file = folder / f"router-{port}.yaml"
    router = {**settings, "host": "127.0.0.1", "port": port, "grace_seconds": 0.0, "log_level": "warning"}
    file.write_text(json.dumps({"router": router}))  # JSON is YAML
    command = [sys.executable, "-m", "shared_registry", "serve", "--config", str(file)]
    found = []
    async with listening(folder, command, port) as process:
        url = f"http://127.0.0.1:{port}/v1/x"
        await until_served(url)
        await load.run(url)  # until all workers have their connections
        for _ in range(ROUNDS):
            before = _cpu_of_all(process.pid)
            count = await load.run(url)
            found.append((count / load.seconds, (_cpu_of_all(process.pid) - before) / count))
    rates, cpus = zip(*found, strict=True)
    return statistics.median(rates), statistics.median(cpus)


def _cpu_of_all(parent: int) -> float:
    """Return how much CPU a process and its children have used."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return cpu_seconds(parent) + sum(cpu_seconds(int(child)) for child in children)
