"""What a probe costs in a large fleet, all processes included, beside HAProxy's checks of the same origins.

See `benchmarks.probe_cost` for how it is measured.

    python -m benchmarks.probing [--origins 10000] [--interval 5] [--without-haproxy]
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path

from benchmarks.contenders import missing_programs
from benchmarks.origins import nginx_origins
from benchmarks.probe_cost import INTERVAL_SECONDS, INTERVAL_SECONDS_QUICK, Cost, haproxy_cost, router_cost
from benchmarks.rows import Row, Target
from shared_registry.proxy.descriptors import raise_soft_limit

TITLE = "Probes of a large fleet"
ORIGINS, ORIGINS_QUICK = 10_000, 2_000
AS_HAPROXY = Target(1.0, of="ratio")
START_INTERVALS = 2.0


async def measure(*, is_quick: bool) -> list[Row]:
    """Return the CPU of a probe, ours with Redis's share, beside HAProxy's, and how long a first start takes."""
    if missing := missing_programs("nginx", "haproxy"):
        return [missing]
    origins = ORIGINS_QUICK if is_quick else ORIGINS
    interval = INTERVAL_SECONDS_QUICK if is_quick else INTERVAL_SECONDS
    ours, theirs = await compare(origins, interval)
    fleet = f"{origins:,} origins every {interval:g} s"
    beside, two_intervals = None if theirs is None else theirs.prober, Target(START_INTERVALS * interval)
    return [
        Row(f"{fleet}: CPU a probe, with Redis's", ours.whole, "us", beside, "HAProxy", AS_HAPROXY),
        Row(f"{fleet}: Redis's share of it", ours.redis, "us"),
        Row(f"{fleet}: all healthy after a first start", ours.up_seconds, "s", target=two_intervals),
    ]


async def compare(count: int, interval: float, *, with_haproxy: bool = True) -> tuple[Cost, Cost | None]:
    """Let a router probe that many origins, and then HAProxy."""
    raise_soft_limit()
    with tempfile.TemporaryDirectory() as folder:
        async with nginx_origins(Path(folder), count) as origins:
            ours = await router_cost(origins, interval)
            return ours, await haproxy_cost(origins, interval) if with_haproxy else None


def main() -> None:
    """Print one comparison."""
    parser = argparse.ArgumentParser(description="CPU of a probe, ours and HAProxy's.")
    parser.add_argument("--origins", type=int, default=ORIGINS)
    parser.add_argument("--interval", type=float, default=INTERVAL_SECONDS)
    parser.add_argument("--without-haproxy", action="store_true")
    arguments = parser.parse_args()
    with_haproxy = not arguments.without_haproxy
    ours, theirs = asyncio.run(compare(arguments.origins, arguments.interval, with_haproxy=with_haproxy))
    print(f"ours    {ours.prober:7.1f} us + Redis {ours.redis:6.1f} us a probe, {ours.probes_a_second:.0f}/s")
    print(f"start   {ours.up_seconds:7.1f} s until all are healthy, {ours.requests} probes")
    if theirs is not None:
        print(f"HAProxy {theirs.prober:7.1f} us a probe, {theirs.probes_a_second:.0f}/s")


if __name__ == "__main__":
    main()
