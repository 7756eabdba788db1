"""What probes of a large fleet cost all processes that make them, and what HAProxy's checks of the same origins cost.

One router leads, with the defaults of `shared-registry serve` (uvloop, where it is installed). CPU is the run time of
the router's process and of Redis in a window after every replica has settled. Probes are counted where they arrive.
Each connection carries six probes, and all of them begin together, so the window has six intervals.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contenders import find_program
from benchmarks.origins import NAME, Origins
from benchmarks.processes import Child
from shared_registry import RouterConfig
from shared_registry.embedded import EmbeddedServer
from shared_registry.embedded.bound_process import BoundProcess
from shared_registry.probing.origins import EXCHANGES_PER_CONNECTION

INTERVAL_SECONDS, INTERVAL_SECONDS_QUICK = RouterConfig().health_check_interval_seconds, 2.0
PATIENCE_SECONDS = 90.0
HAPROXY_INTERVALS = 3


@dataclass(frozen=True)
class Cost:
    """What a window saw. Microseconds of CPU a probe, without those of the origins."""

    prober: float
    redis: float
    probes_a_second: float
    up_seconds: float = 0.0
    requests: int = 0
    """Probes until all replicas were healthy."""

    @property
    def whole(self) -> float:
        """All processes together."""
        return self.prober + self.redis


def cpu_seconds(pid: int) -> float:
    """Return how long a process has run, all threads together. Linux only."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


async def router_cost(origins: Origins, interval: float) -> Cost:
    """Let a router probe them from its first start on."""
    with EmbeddedServer() as server:
        config: dict[str, object] = {"redis_url": server.url, "health_check_interval_seconds": interval}
        if origins.authority is not None:
            config |= {"replica_tls_ca_file": str(origins.authority), "replica_tls_server_name": NAME}
        settings = {"config": config, "replicas": origins.urls}
        async with Child("router_process", settings, start_seconds=PATIENCE_SECONDS) as router:
            async with asyncio.timeout(PATIENCE_SECONDS):
                healthy = await router.ask("all_healthy")
            requests = await origins.requests()
            await asyncio.sleep(interval)
            cost = await _cost(origins, router.pid, server.pid, EXCHANGES_PER_CONNECTION * interval)
            up_seconds = healthy["at"] - router.ready["started_at"]
            return Cost(cost.prober, cost.redis, cost.probes_a_second, up_seconds, requests)


async def haproxy_cost(origins: Origins, interval: float) -> Cost:
    """Let HAProxy check them, with one thread. Each check has a connection of its own."""
    async with _haproxy(origins, interval) as pid:
        async with asyncio.timeout(PATIENCE_SECONDS):
            until = await origins.requests() + len(origins.urls)
            while await origins.requests() < until:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        return await _cost(origins, pid, None, HAPROXY_INTERVALS * interval)


async def _cost(origins: Origins, pid: int, redis_pid: int | None, seconds: float) -> Cost:
    async def used() -> tuple[int, float, float, float]:
        requests = await origins.requests()
        return requests, cpu_seconds(pid), cpu_seconds(redis_pid) if redis_pid else 0.0, time.monotonic()

    before = await used()
    await asyncio.sleep(seconds)
    probes, prober, redis, elapsed = (later - earlier for later, earlier in zip(await used(), before, strict=True))
    return Cost(prober / probes * 1e6, redis / probes * 1e6, probes / elapsed)


@contextlib.asynccontextmanager
async def _haproxy(origins: Origins, interval: float) -> AsyncIterator[int]:
    check = f"check inter {interval:g}s"
    if origins.authority is not None:
        check += f" check-ssl verify required ca-file {origins.authority} verifyhost {NAME} check-sni {NAME}"
    servers = [f"  server s{at} {url.partition('://')[2]} {check}" for at, url in enumerate(origins.urls)]
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
            process = BoundProcess([find_program("haproxy"), "-db", "-q", "-f", config], cwd=Path(folder), output=log)
            try:
                yield process.pid
            finally:
                process.kill()
