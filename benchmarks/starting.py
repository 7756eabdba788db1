"""What the command takes to answer, beside what Python itself takes to start. Both are processes of their own.

The fastest of many runs counts, taken in turns: a start has no reason to take less than it needs. The first run writes
what Python compiles, and is not counted.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time

from benchmarks.namespace import fill
from benchmarks.rows import Row, Target
from shared_registry.embedded import EmbeddedServer

TITLE = "the command's start"
RUNS, RUNS_QUICK = 20, 5
REPLICAS = 10
NOTHING = ("-c", "pass")
COMMANDS = {
    "--version": Target(5.0, "ratio"),
    "--help": Target(5.0, "ratio"),
    "status": Target(15.0, "ratio"),
    "status --json": Target(15.0, "ratio"),
}


async def measure(*, is_quick: bool) -> list[Row]:
    """Return the time of each command, in milliseconds."""
    with EmbeddedServer() as server:
        await fill(server.url, REPLICAS)
        fastest = await asyncio.to_thread(_fastest, server.url, RUNS_QUICK if is_quick else RUNS)
    nothing = fastest.pop(NOTHING)
    return [
        Row(
            f"shared-registry {text}",
            fastest["-m", "shared_registry", *text.split()],
            "ms",
            nothing,
            "python -c pass",
            it,
        )
        for text, it in COMMANDS.items()
    ]


def _fastest(redis_url: str, runs: int) -> dict[tuple[str, ...], float]:
    environment = os.environ | {"SHARED_REGISTRY_REDIS_URL": redis_url}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    words = [NOTHING, *(("-m", "shared_registry", *text.split()) for text in COMMANDS)]
    found: dict[tuple[str, ...], list[float]] = {each: [] for each in words}
    for _ in range(1 + runs):
        for each, times in found.items():
            begun = time.perf_counter()
            subprocess.run([sys.executable, *each], env=environment, stdout=subprocess.DEVNULL, check=True, timeout=60)
            times.append((time.perf_counter() - begun) * 1000)
    return {each: min(times[1:]) for each, times in found.items()}
