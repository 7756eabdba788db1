"""What one Redis carries: routers times replicas, measured in small, fitted, and extrapolated.

    python -m benchmarks.fleet_sim [--quick] [--routers N …] [--replicas M …] [--plot FILE]

Each cell starts N real registries in a few processes on a Redis of its own with M replicas. Probes are simulated: this
process reports a result for every replica in each interval, as a leader that probes would. Sessions begin and end at
each router.
Then a tenth of the replicas turns unhealthy in a few reports; the time runs until the last mirror shows all of that.

Turns of event loops are CPU time, so that they mean something on a busy machine. Times to the mirrors are wall time.
The fit of a figure is a + b N + c M + d N M by least squares of relative errors, without negative parts. In the steady
state the last part stops at the number of replicas that a router reads a second.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import math
import random
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.idle import Traffic
from benchmarks.namespace import NAMESPACE, PATIENCE_SECONDS, client_of, distant_urls
from benchmarks.processes import Child
from shared_registry import RouterConfig
from shared_registry.aio.clock import SystemClock
from shared_registry.embedded import EmbeddedServer
from shared_registry.leader.authority import Mandate
from shared_registry.leader.election import StandAside
from shared_registry.leader.reports import Predecessors, Reports
from shared_registry.leader.unreported import RESULTS_AT_ONCE
from shared_registry.mirror.mirror import REPLICAS_A_SECOND
from shared_registry.model import ProbeResult, ReplicaEndpoint, Source, Term, Thresholds
from shared_registry.store.answers import new_token
from shared_registry.store.client import Client, Clients
from shared_registry.store.commands import Store
from shared_registry.store.keys import Keys
from shared_registry.store.replies import Elected

PROCESSES = 2
SESSIONS_A_SECOND = 1.0
"""Sessions that begin and end at each router."""
START_SECONDS = 300.0
SHARE_DOWN = 10
ROUTERS, ROUTERS_QUICK = (2, 6, 20), (2, 4)
REPLICAS, REPLICAS_QUICK = (1_000, 3_000, 10_000), (500, 1_000)
STEADY_SECONDS, STEADY_SECONDS_QUICK = 6.0, 3.0
LARGE = (500, 50_000)
SLOW_MICROSECONDS = 300
RESULTS_LOGGED = 10_000


@dataclass(frozen=True)
class Figures:
    """What one cell shows, each as a number whose name says the unit."""

    redis_percent: float
    commands_a_second: float
    megabytes_a_second: float
    redis_megabytes: float
    router_percent: float
    router_megabytes: float
    start_cpu_seconds: float
    burst_redis_seconds: float
    burst_router_seconds: float
    all_mirrors_seconds: float
    longest_script_ms: float
    longest_turn_ms: float


NAMES = {
    "redis_percent": "Redis, steady: CPU, % of a core",
    "commands_a_second": "Redis, steady: commands a second",
    "megabytes_a_second": "Redis, steady: MB a second, in and out",
    "redis_megabytes": "Redis: memory, MB",
    "router_percent": "a router, steady: CPU, % of a core",
    "router_megabytes": "a router: memory, MB",
    "start_cpu_seconds": "a router: CPU of its start, s",
    "burst_redis_seconds": "a tenth down: CPU of Redis, s",
    "burst_router_seconds": "a tenth down: CPU of a router, s",
    "all_mirrors_seconds": "a tenth down: to all mirrors, s",
    "longest_script_ms": "a tenth down: longest script, ms",
    "longest_turn_ms": "a tenth down: longest turn of a loop, ms",
}
ADDED_UP = frozenset(NAMES) - {"longest_script_ms", "longest_turn_ms", "all_mirrors_seconds"}
"""Figures that grow by parts that add up. The others are the longest of many, or depend on how many cores there are."""


class Leader:
    """Reports on all replicas as a leader does that probes them. It is the authority of its reports, for ever."""

    is_current = True
    ends_at = math.inf

    def __init__(self, store: Store, incarnations: dict[str, str]) -> None:
        self._store = store
        self._incarnations = incarnations
        self._token = new_token()
        self._batches = itertools.count(1)
        self.mandate: Mandate
        self.down: frozenset[str] = frozenset()
        rng, clock = random.Random(), SystemClock()
        predecessors = Predecessors(router="simulator", clock=clock)
        self._reports = Reports(
            store.report,
            self,
            Thresholds(1, 1),
            predecessors=predecessors,
            on_progress=lambda: None,
            clock=clock,
            rng=rng,
        )

    async def campaign(self) -> None:
        """Become the leader."""
        elected = await self._store.campaign(self._token, lease_seconds=600.0, seen_epoch=0)
        if not isinstance(elected, Elected):
            raise TypeError("somebody else leads")
        self.mandate = Term(elected.epoch, self._token)

    def covers(self, key: str) -> bool:
        """See `Authority`."""
        return key in self._incarnations

    def next_batch(self, mandate: Mandate) -> int:  # noqa: ARG002  there is one
        """See `Authority`."""
        return next(self._batches)

    def stand_aside(self, complaint: str, *, is_contradicted: bool = False) -> None:
        """See `Authority`."""
        raise StandAside(complaint, is_contradicted=is_contradicted)

    async def report(self, keys: Sequence[str]) -> None:
        """Report a result for each of these replicas."""
        for key in keys:
            result = ProbeResult(key, self._incarnations[key], 1.0, "down" if key in self.down else None)
            self._reports.add(result, self.mandate, good_seconds=PATIENCE_SECONDS)
        await self._reports.send_all()

    async def run(self, interval_seconds: float) -> None:
        """Report all in each interval, evenly, until cancelled."""
        keys = list(self._incarnations)
        for at in itertools.cycle(range(0, len(keys), RESULTS_AT_ONCE)):
            started = time.monotonic()
            await self.report(keys[at : at + RESULTS_AT_ONCE])
            pause = interval_seconds * RESULTS_AT_ONCE / len(keys)
            await asyncio.sleep(max(0.0, started + pause - time.monotonic()))


async def measure_cell(routers: int, replicas: int, *, seconds: float) -> Figures:
    """Return the figures of one cell."""
    urls = distant_urls(replicas)
    down = urls[::SHARE_DOWN]
    counts = [replicas, replicas - len(down)]
    async with contextlib.AsyncExitStack() as stack:
        server = stack.enter_context(EmbeddedServer())
        client = await stack.enter_async_context(client_of(server.url))
        store = Store(Clients.of(client), Keys(NAMESPACE), router="simulator", timeout_seconds=PATIENCE_SECONDS)
        leader = await filled(store, client, urls)
        await leader.report(urls)
        settings = {"config": {"redis_url": server.url}, "sessions": SESSIONS_A_SECOND, "counts": counts}
        children = [
            Child("fleet_sim_process", settings | {"routers": count}, start_seconds=START_SECONDS)
            for count in split(routers, PROCESSES)
        ]
        await asyncio.gather(*(stack.enter_async_context(child) for child in children))
        await _ask(children, f"healthy {counts[0]}")
        async with _running(leader.run(RouterConfig().health_check_interval_seconds)):
            await asyncio.sleep(1.0)
            steady = await _window(client, children, lambda: asyncio.sleep(seconds))
        memory: dict[str, Any] = await client.info("memory")
        leader.down = frozenset(down)

        async def burst() -> None:
            await leader.report(down)
            await _ask(children, f"healthy {counts[1]}")

        await client.config_set("slowlog-max-len", RESULTS_LOGGED)
        await client.slowlog_reset()
        await client.config_set("slowlog-log-slower-than", SLOW_MICROSECONDS)
        await _ask(children, "watch")
        fallen = await _window(client, children, burst)
        slow: list[dict[str, Any]] = await client.slowlog_get(RESULTS_LOGGED)
    starts = [child.ready for child in children]
    return Figures(
        redis_percent=100 * steady.redis_cpu / steady.seconds,
        commands_a_second=steady.traffic.commands / steady.seconds,
        megabytes_a_second=(steady.traffic.bytes_in + steady.traffic.bytes_out) / steady.seconds / 1e6,
        redis_megabytes=int(memory["used_memory"]) / 1e6,
        router_percent=100 * steady.routers_cpu / routers / steady.seconds,
        router_megabytes=sum(one["bytes"] for one in starts) / len(starts) / 1e6,
        start_cpu_seconds=sum(one["start_cpu"] for one in starts) / len(starts),
        burst_redis_seconds=fallen.redis_cpu,
        burst_router_seconds=fallen.routers_cpu / routers,
        all_mirrors_seconds=fallen.seconds,
        longest_script_ms=max((int(one["duration"]) for one in slow), default=SLOW_MICROSECONDS) / 1000,
        longest_turn_ms=1000 * fallen.longest_turn,
    )


@dataclass(frozen=True)
class Window:
    """What was used while something went on."""

    seconds: float
    redis_cpu: float
    routers_cpu: float
    longest_turn: float
    traffic: Traffic


async def _window(client: Client, children: Sequence[Child], work: Callable[[], Any]) -> Window:
    usage, cpu, traffic = await _ask(children, "usage"), await redis_cpu(client), await Traffic.now(client)
    started = time.monotonic()
    await work()
    seconds = time.monotonic() - started
    traffic_after, cpu_after, after = await Traffic.now(client), await redis_cpu(client), await _ask(children, "usage")
    return Window(
        seconds,
        cpu_after - cpu,
        sum(one["cpu"] for one in after) - sum(one["cpu"] for one in usage),
        max(one["turn"] for one in after),
        traffic_after.beyond(traffic),
    )


async def redis_cpu(client: Client) -> float:
    """Return the CPU time of the server so far, in seconds."""
    cpu: dict[str, float] = await client.info("cpu")
    return cpu["used_cpu_user"] + cpu["used_cpu_sys"]


async def _ask(children: Sequence[Child], question: str) -> list[dict[str, Any]]:
    return await asyncio.gather(*(child.ask(question) for child in children))


async def filled(store: Store, client: Client, urls: Sequence[str]) -> Leader:
    """Register these replicas; return a leader that has not reported on them yet."""
    endpoints = {url: ReplicaEndpoint(url, capacity=4) for url in urls}
    async for one in store.register_all(endpoints, mode=Source.EXPLICIT):
        if one.error is not None:
            raise one.error
    pipeline = client.pipeline(transaction=False)
    for url in urls:
        pipeline.hget(Keys(NAMESPACE).replica(url), "incarnation")
    leader = Leader(store, dict(zip(urls, await pipeline.execute(), strict=True)))
    await leader.campaign()
    return leader


@contextlib.asynccontextmanager
async def _running(work: Any) -> AsyncIterator[None]:
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def split(count: int, parts: int) -> list[int]:
    """Return how many of a number each of some processes has."""
    return [size for part in range(parts) if (size := count // parts + (part < count % parts))]


Cells = dict[tuple[int, int], Figures]
Fit = tuple[float, float, float, float]


def fitted(cells: Cells, name: str) -> Fit:
    """Return the parts of a figure: constant, for each router, for each replica, and for each pair of the two.

    It tries each subset of the parts and takes the best whose parts are all positive.
    """
    best: tuple[float, Fit] = (float("inf"), (0.0, 0.0, 0.0, 0.0))
    for used in itertools.product((False, True), repeat=4):
        parts = _least_squares(cells, name, [at for at in range(4) if used[at]])
        if parts is not None and min(parts) >= 0:
            error = sum(
                (predicted(parts, name, *at) / (getattr(one, name) or 1e-9) - 1) ** 2 for at, one in cells.items()
            )
            best = min(best, (error, parts))
    return best[1]


def predicted(parts: Fit, name: str, routers: int, replicas: int) -> float:
    """Return a figure by its parts."""
    return sum(part * term for part, term in zip(parts, _terms(name, routers, replicas), strict=True))


def _terms(name: str, routers: int, replicas: int) -> tuple[float, float, float, float]:
    # Without changes a router reads the loads of so many replicas a second at most.
    read = replicas if name.startswith("burst") else min(replicas, REPLICAS_A_SECOND)
    return 1.0, float(routers), float(replicas), float(routers * read)


def _least_squares(cells: Cells, name: str, used: Sequence[int]) -> Fit | None:
    """Solve the normal equations for some of the parts, each cell weighed by its own figure."""
    if not used or len(used) > len(cells):
        return None
    rows = []
    for at, one in cells.items():
        figure = getattr(one, name) or 1e-9
        terms = _terms(name, *at)
        rows.append([terms[part] / figure for part in used])
    size = len(used)
    matrix = [
        [sum(row[i] * row[j] for row in rows) for j in range(size)] + [sum(row[i] for row in rows)] for i in range(size)
    ]
    for i in range(size):
        pivot = max(range(i, size), key=lambda k: abs(matrix[k][i]))
        matrix[i], matrix[pivot] = matrix[pivot], matrix[i]
        if abs(matrix[i][i]) < 1e-30:
            return None
        for k in range(size):
            if k != i:
                factor = matrix[k][i] / matrix[i][i]
                matrix[k] = [one - factor * other for one, other in zip(matrix[k], matrix[i], strict=True)]
    parts = [0.0] * 4
    for i, part in enumerate(used):
        parts[part] = matrix[i][size] / matrix[i][i]
    return parts[0], parts[1], parts[2], parts[3]


def main() -> int:
    """Measure, print and draw."""
    arguments = _arguments()
    cells: Cells = {}
    for routers, replicas in itertools.product(arguments.routers, arguments.replicas):
        seconds = STEADY_SECONDS_QUICK if arguments.quick else STEADY_SECONDS
        cells[routers, replicas] = asyncio.run(measure_cell(routers, replicas, seconds=seconds))
        print(f"{routers} routers, {replicas:,} replicas: {cells[routers, replicas]}", file=sys.stderr, flush=True)
    print("\n".join(table(cells)))
    if arguments.plot:
        draw(cells, arguments.plot)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet_sim", description="Simulate large fleets.")
    parser.add_argument("--quick", action="store_true", help="small fleets and short windows")
    parser.add_argument("--routers", type=int, nargs="+", metavar="N")
    parser.add_argument("--replicas", type=int, nargs="+", metavar="M")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the growth; needs matplotlib")
    arguments = parser.parse_args()
    arguments.routers = arguments.routers or (ROUTERS_QUICK if arguments.quick else ROUTERS)
    arguments.replicas = arguments.replicas or (REPLICAS_QUICK if arguments.quick else REPLICAS)
    return arguments


def table(cells: Cells) -> list[str]:
    """Return a table in Markdown: the figures of each cell, and what the fit says for a large fleet."""
    columns = [f"{routers} x {replicas:,}" for routers, replicas in cells]
    large = f"{LARGE[0]} x {LARGE[1]:,} (fit)"
    lines = [f"| routers x replicas | {' | '.join(columns)} | {large} |", f"|---|{'---|' * (len(columns) + 1)}"]
    for name, text in NAMES.items():
        figures = [f"{getattr(found, name):.3g}" for found in cells.values()]
        fit = f"{predicted(fitted(cells, name), name, *LARGE):.3g}" if name in ADDED_UP else ""
        lines.append(f"| {text} | {' | '.join(figures)} | {fit} |")
    lines.append("")
    for name, text in NAMES.items():
        if name in ADDED_UP:
            constant, router, replica, pair = fitted(cells, name)
            bound = "" if name.startswith("burst") else f", M up to {REPLICAS_A_SECOND:,} in the last part"
            lines.append(f"- {text}: {constant:.3g} + {router:.3g} N + {replica:.3g} M + {pair:.3g} N M{bound}")
    return lines


def draw(cells: Cells, path: Path) -> None:
    """Draw Redis's load, and what a change costs, against the number of routers."""
    import matplotlib as mpl  # noqa: PLC0415  only for drawing

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, panels = plt.subplots(1, 3, figsize=(10.5, 3.4), layout="constrained")
    shown = ("redis_percent", "burst_redis_seconds", "router_megabytes")
    for axes, name in zip(panels, shown, strict=True):
        fit = fitted(cells, name)
        for replicas in sorted({at[1] for at in cells} | {LARGE[1]}):
            measured = [(at[0], getattr(one, name)) for at, one in cells.items() if at[1] == replicas]
            (line,) = axes.plot(
                routers := [2, 5, 10, 20, 50, 100, 200, 500],
                [predicted(fit, name, number, replicas) for number in routers],
                linestyle="--",
                label=f"{replicas:,} replicas",
            )
            axes.plot(*zip(*measured, strict=True), "o", color=line.get_color()) if measured else None
        axes.set(xscale="log", yscale="log", xlabel="routers", title=NAMES[name])
        axes.title.set_fontsize(9)
        axes.grid(alpha=0.3)
    panels[0].legend(fontsize=7)
    figure.savefig(path, dpi=90, metadata={"Software": None})


if __name__ == "__main__":
    sys.exit(main())
