"""Measures what the registry promises, each figure beside a rival's or a setting, in one table.

    python -m benchmarks [--json] [--quick] [--only NAME ...]

Everything runs on this machine, on servers and processes that are started here and end with this process. Figures in
seconds and CPU depend on it, and on what else it does: compare ratios. --quick takes about a minute.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import Protocol

from rich.console import Console

from benchmarks import (
    announced,
    bounds,
    failover,
    fleet,
    gateways,
    holds,
    idle,
    large_changes,
    large_fleet,
    loss,
    memory,
    metering,
    mirror_start,
    outage,
    placement,
    policies,
    probe_round,
    probing,
    probing_tls,
    propagation,
    proxying,
    router,
    selecting,
    sharing,
    starting,
    streaming,
    throughput,
    verdicts,
    waiting,
    workers,
)
from benchmarks.rows import Row, machine_facts, show


class Subject(Protocol):
    """A module of this package that measures something."""

    TITLE: str

    async def measure(self, *, is_quick: bool) -> list[Row]:
        """Return its rows."""


SUBJECTS: dict[str, Subject] = {
    "selecting": selecting,
    "policies": policies,
    "failover": failover,
    "fleet": fleet,
    "sharing": sharing,
    "placement": placement,
    "throughput": throughput,
    "waiting": waiting,
    "propagation": propagation,
    "mirror-start": mirror_start,
    "memory": memory,
    "probe-round": probe_round,
    "probing": probing,
    "probing-tls": probing_tls,
    "router": router,
    "proxying": proxying,
    "metering": metering,
    "streaming": streaming,
    "workers": workers,
    "gateways": gateways,
    "holds": holds,
    "idle": idle,
    "large": large_fleet,
    "changes": large_changes,
    "announced": announced,
    "starting": starting,
    "outage": outage,
    "loss": loss,
    "verdicts": verdicts,
    "bounds": bounds,
}
WAITING = ("announced", "failover", "fleet", "idle", "outage", "sharing")
"""They mostly wait, and measure CPU by the process: --quick runs them side by side."""
INTERRUPTED = 130
REPORT_WIDTH = 130


def main() -> int:
    """Measure, print, and return the exit status: 1 where a subject failed; a missed target is no failure."""
    arguments = _arguments()
    started = time.monotonic()
    try:
        facts = machine_facts() | {"is_quick": arguments.quick}
        rows, failed = _measure(arguments.only, is_quick=arguments.quick)
    except KeyboardInterrupt:
        return INTERRUPTED
    facts["seconds"] = round(time.monotonic() - started, 1)
    if arguments.json:
        print(json.dumps({"machine": facts, "rows": _as_json(rows), "failed": failed}, indent=2))
    else:
        console = Console()
        console = console if console.is_terminal else Console(width=REPORT_WIDTH)
        show(console, {SUBJECTS[name].TITLE: found for name, found in rows.items()}, facts)
    return 1 if failed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure the registry.")
    parser.add_argument("--json", action="store_true", help="print rows and machine facts as JSON")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions and shorter windows: about a minute")
    names = ", ".join(SUBJECTS)
    parser.add_argument("--only", nargs="+", choices=SUBJECTS, default=list(SUBJECTS), metavar="NAME", help=names)
    return parser.parse_args()


def _measure(names: Sequence[str], *, is_quick: bool) -> tuple[dict[str, list[Row]], list[str]]:
    """Return the rows of each subject, and which ones failed."""
    console = Console(stderr=True)
    together = [name for name in names if is_quick and name in WAITING]
    groups = [together] * bool(together) + [[name] for name in names if name not in together]
    found: dict[str, list[Row] | BaseException] = {}
    for group in groups:
        with console.status(f"measuring: {', '.join(group)}"):
            found |= zip(group, asyncio.run(_side_by_side(group, is_quick=is_quick)), strict=True)
    failed = []
    rows = {}
    for name in names:
        result = found[name]
        if isinstance(result, BaseException):
            failed.append(name)
            console.print(f"{name} failed", style="bold red")
            traceback.print_exception(result)
        else:
            rows[name] = result
    return rows, failed


async def _side_by_side(names: Sequence[str], *, is_quick: bool) -> list[list[Row] | BaseException]:
    work = (SUBJECTS[name].measure(is_quick=is_quick) for name in names)
    return await asyncio.gather(*work, return_exceptions=True)


def _as_json(rows: Mapping[str, Sequence[Row]]) -> list[dict[str, object]]:
    return [{"subject": name} | row.as_json() for name, found in rows.items() for row in found]


if __name__ == "__main__":
    sys.exit(main())
