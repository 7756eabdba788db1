"""What a probe of an https origin costs, all processes included, beside HAProxy's checks of the same origins.

Some origins keep connections open, and others close each. HAProxy opens a connection for each check in any case.
See `benchmarks.probe_cost` for how it is measured.

    python -m benchmarks.probing_tls [--origins 2000] [--interval 5]
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks.contenders import missing_programs
from benchmarks.origins import nginx_origins
from benchmarks.probe_cost import INTERVAL_SECONDS, INTERVAL_SECONDS_QUICK, Cost, haproxy_cost, router_cost
from benchmarks.rows import Row, Target
from shared_registry.proxy.descriptors import raise_soft_limit

TITLE = "Probes of https origins"
ORIGINS, ORIGINS_QUICK = 2_000, 500
KEPT, CLOSING = "that keep connections", "that close connections"
TARGETS = {KEPT: Target(200.0), CLOSING: Target(1500.0)}


async def measure(*, is_quick: bool) -> list[Row]:
    """Return the CPU of a probe, ours with Redis's share, beside HAProxy's."""
    if missing := missing_programs("nginx", "haproxy"):
        return [missing]
    origins = ORIGINS_QUICK if is_quick else ORIGINS
    interval = INTERVAL_SECONDS_QUICK if is_quick else INTERVAL_SECONDS
    ours, theirs = await compare(origins, interval)
    return [
        Row(
            f"{origins:,} https origins {which} every {interval:g} s: CPU a probe, with Redis's",
            cost.whole,
            "us",
            theirs.prober,
            "HAProxy",
            TARGETS[which],
        )
        for which, cost in ours.items()
    ]


async def compare(count: int, interval: float) -> tuple[Mapping[str, Cost], Cost]:
    """Let a router probe that many origins of each kind, and HAProxy the last kind."""
    raise_soft_limit()
    ours = {}
    for which in (KEPT, CLOSING):
        with tempfile.TemporaryDirectory() as folder:
            async with nginx_origins(Path(folder), count, tls=True, keeps=which is KEPT) as origins:
                ours[which] = await router_cost(origins, interval)
                theirs = await haproxy_cost(origins, interval) if which is CLOSING else None
    if theirs is None:
        raise RuntimeError("nothing was measured")
    return ours, theirs


def main() -> None:
    """Print one comparison."""
    parser = argparse.ArgumentParser(description="CPU of a probe by TLS, ours and HAProxy's.")
    parser.add_argument("--origins", type=int, default=ORIGINS)
    parser.add_argument("--interval", type=float, default=INTERVAL_SECONDS)
    arguments = parser.parse_args()
    ours, theirs = asyncio.run(compare(arguments.origins, arguments.interval))
    for which, cost in ours.items():
        figures = f"{cost.prober:7.1f} us + Redis {cost.redis:6.1f} us a probe, {cost.probes_a_second:.0f}/s"
        print(f"{which:24} {figures}; all healthy after {cost.up_seconds:.1f} s")
    print(f"{'HAProxy':24} {theirs.prober:7.1f} us a probe, {theirs.probes_a_second:.0f}/s")


if __name__ == "__main__":
    main()
