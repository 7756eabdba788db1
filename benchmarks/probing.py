"""What a probe costs in a large fleet, all processes included, beside HAProxy's checks of the same origins.

One router leads, with the defaults of `shared-registry serve` (uvloop, where it is installed) and an interval of 5 s.
CPU is the run time of the router's process and of Redis, in a window of whole intervals after every replica has
settled. Probes are counted where they arrive. Then HAProxy checks the same origins for as long, with as many checks
as it makes by default: each on a connection of its own.

    python -m benchmarks.probing [--origins 2000] [--seconds 15] [--without-haproxy]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.namespace import local_urls
from benchmarks.processes import Child
from benchmarks.rows import Row, Target
from shared_registry import RouterConfig
from shared_registry.embedded import EmbeddedServer
from shared_registry.embedded.bound_process import BoundProcess

TITLE = "Probes of a large fleet"
ORIGINS, ORIGINS_QUICK = 10_000, 2_000
WINDOW_SECONDS, WINDOW_SECONDS_QUICK = 30.0, 10.0
SETTLING_SECONDS = 10.0
PATIENCE_SECONDS = 120.0
AS_HAPROXY = Target(1.0, of="ratio")
TWO_INTERVALS = Target(2.0 * RouterConfig().health_check_interval_seconds)


@dataclass(frozen=True)
class Cost:
    """What a window saw. Microseconds of CPU a probe, without those of the origins."""

    prober: float
    redis: float
    probes_a_second: float
    up_seconds: float = 0.0
    requests: int = 0
    """Probes until all replicas were healthy."""


def cpu_seconds(pid: int) -> float:
    """Return how long a process has run, all threads together. Linux only."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


async def measure(*, is_quick: bool) -> list[Row]:
    """Return the CPU of a probe, ours with Redis's share, beside HAProxy's, and how long a first start takes."""
    origins = ORIGINS_QUICK if is_quick else ORIGINS
    ours, theirs = await compare(origins, WINDOW_SECONDS_QUICK if is_quick else WINDOW_SECONDS)
    fleet = f"{origins:,} origins"
    beside = None if theirs is None else theirs.prober
    return [
        Row(f"{fleet}: CPU a probe, with Redis's", ours.prober + ours.redis, "us", beside, "HAProxy", AS_HAPROXY),
        Row(f"{fleet}: Redis's share of it", ours.redis, "us"),
        Row(f"{fleet}: all healthy after a first start", ours.up_seconds, "s", target=TWO_INTERVALS),
    ]


async def compare(origins: int, seconds: float, *, with_haproxy: bool = True) -> tuple[Cost, Cost | None]:
    """Let a router probe that many origins, and then HAProxy, if it is installed."""
    async with Child("replica_process", {}) as replicas:
        urls = local_urls(origins, replicas.ready["port"])
        ours = await _our_cost(urls, replicas, seconds)
        theirs = None
        if with_haproxy and shutil.which("haproxy"):
            async with _haproxy(urls) as pid:
                await asyncio.sleep(SETTLING_SECONDS)
                theirs = await _cost(replicas, pid, None, seconds)
        return ours, theirs


async def _our_cost(urls: list[str], replicas: Child, seconds: float) -> Cost:
    with EmbeddedServer() as server:
        settings = {"config": {"redis_url": server.url}, "replicas": urls}
        async with Child("router_process", settings, start_seconds=PATIENCE_SECONDS) as router:
            async with asyncio.timeout(PATIENCE_SECONDS):
                healthy = await router.ask("all_healthy")
            requests = (await replicas.ask("requests"))["requests"]
            await asyncio.sleep(SETTLING_SECONDS)
            cost = await _cost(replicas, router.pid, server.pid, seconds)
            up_seconds = healthy["at"] - router.ready["started_at"]
            return Cost(cost.prober, cost.redis, cost.probes_a_second, up_seconds, requests)


async def _cost(replicas: Child, pid: int, redis_pid: int | None, seconds: float) -> Cost:
    async def used() -> tuple[int, float, float, float]:
        requests = (await replicas.ask("requests"))["requests"]
        return requests, cpu_seconds(pid), cpu_seconds(redis_pid) if redis_pid else 0.0, time.monotonic()

    before = await used()
    await asyncio.sleep(seconds)
    probes, prober, redis, elapsed = (later - earlier for later, earlier in zip(await used(), before, strict=True))
    return Cost(prober / probes * 1e6, redis / probes * 1e6, probes / elapsed)


@contextlib.asynccontextmanager
async def _haproxy(urls: list[str]) -> AsyncIterator[int]:
    interval = RouterConfig().health_check_interval_seconds
    servers = [f"  server s{at} {url.partition('://')[2]} check inter {interval:g}s" for at, url in enumerate(urls)]
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "haproxy.cfg"
        lines = [
            "global",
            "  nbthread 1",
            "defaults",
            "  mode http",
            "  timeout connect 2s",
            "  timeout client 10s",
            "  timeout server 10s",
            "  timeout check 2s",
            "backend origins",
            "  option httpchk GET /health",
            *servers,
            "frontend unused",
            f"  bind unix@{folder}/clients",
            "  default_backend origins",
        ]
        config.write_text("\n".join(lines) + "\n")
        with (Path(folder) / "log").open("wb") as log:
            process = BoundProcess(["haproxy", "-db", "-q", "-f", config], cwd=Path(folder), output=log)
            try:
                yield process.pid
            finally:
                process.kill()


def main() -> None:
    """Print one comparison."""
    parser = argparse.ArgumentParser(description="CPU of a probe, ours and HAProxy's.")
    parser.add_argument("--origins", type=int, default=ORIGINS_QUICK)
    parser.add_argument("--seconds", type=float, default=WINDOW_SECONDS_QUICK)
    parser.add_argument("--without-haproxy", action="store_true")
    arguments = parser.parse_args()
    ours, theirs = asyncio.run(
        compare(arguments.origins, arguments.seconds, with_haproxy=not arguments.without_haproxy)
    )
    print(f"ours    {ours.prober:7.1f} us + Redis {ours.redis:6.1f} us a probe, {ours.probes_a_second:.0f}/s")
    print(f"start   {ours.up_seconds:7.1f} s until all are healthy, {ours.requests} probes")
    if theirs is not None:
        print(f"HAProxy {theirs.prober:7.1f} us a probe, {theirs.probes_a_second:.0f}/s")


if __name__ == "__main__":
    main()
