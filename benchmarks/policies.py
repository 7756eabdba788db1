"""What `select()` costs by each policy, what a change costs, and how evenly loads come out.

Costs are taken in loops that take turns with the default policy and with an empty call of the same form, and the best
of the repetitions counts: what disturbs a loop only ever makes it slower. Evenness is simulated: see `spreading`.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from benchmarks.namespace import distant_urls
from benchmarks.rows import Row, Target
from benchmarks.spreading import Traffic, forever, max_to_mean
from shared_registry import RouterConfig, SharedReplicaRegistry
from shared_registry.model import Replica, ReplicaEndpoint, ReplicaHealth, ReplicaRecord, ReplicaStatus
from shared_registry.selection import policy_names

TITLE = "policies"
SIZES = (2, 10, 100, 1_000, 10_000)
KEYS = [f"client-{number}" for number in range(1_000)]
LIMITS: dict[str, float] = {"round_robin": 1.5, "least_loaded": 1.5, "hash": 3.0}
CHANGE_LIMIT_MS = 0.5
HERD_LIMIT = 1.3
WEIGHTS = (1.0, 2.0, 3.0)
UNEQUAL = "weights 1, 2 and 3"


async def measure(*, is_quick: bool) -> list[Row]:
    """Return rows for calls, for changes, and for evenness."""
    rows = await _call_rows(15 if is_quick else 60)
    rows += await _change_rows(20 if is_quick else 100)
    return [*rows, *_herd_rows(5.0 if is_quick else 20.0)]


def registry_of(size: int, policy: str, *, weights: Sequence[float] = (1.0,)) -> SharedReplicaRegistry:
    """Return an unstarted registry that shows this many healthy replicas."""
    registry = SharedReplicaRegistry(RouterConfig(policy=policy), seed=1)
    records = [record(url, at, weight=weights[at % len(weights)]) for at, url in enumerate(distant_urls(size))]
    registry._view.replace_all({each.key: each for each in records})  # noqa: SLF001  as its mirror does
    return registry


def record(url: str, order: int, *, weight: float = 1.0) -> ReplicaRecord:
    """Return what is known of a healthy replica."""
    endpoint = ReplicaEndpoint(url, weight=weight, order=order)
    return replace(Replica(endpoint).record, health=ReplicaHealth(ReplicaStatus.HEALTHY), revision="1-0")


async def best_microseconds(repetitions: int) -> dict[tuple[str, int], float]:
    """Return what a call takes, by policy (or `empty`) and size."""
    selects: dict[tuple[str, int], Callable[..., object]] = {("empty", 0): _empty}
    for size in SIZES:
        selects |= {(policy, size): registry_of(size, policy).select for policy in policy_names()}
        selects |= {
            (f"{policy}, {UNEQUAL}", size): registry_of(size, policy, weights=WEIGHTS).select for policy in LIMITS
        }
    best = dict.fromkeys(selects, float("inf"))
    for _ in range(repetitions):
        for name, select in selects.items():
            for key in KEYS:  # brings what it works on into the processor's caches
                select(key=key)
            started = time.perf_counter()
            for key in KEYS:
                select(key=key)
            best[name] = min(best[name], (time.perf_counter() - started) / len(KEYS) * 1e6)
        await asyncio.sleep(0)
    return best


async def _call_rows(repetitions: int) -> list[Row]:
    best = await best_microseconds(repetitions)
    note = f"an empty call of the same form, in the same loop: {best['empty', 0]:.3f} µs"
    rows = []
    for policy, limit in LIMITS.items():
        for name in (policy, f"{policy}, {UNEQUAL}"):
            for size in SIZES:
                figure, beside = best[name, size], best["priority", size]
                rows.append(Row(f"{name}, {size:,} replicas", figure, "µs", beside, "priority", Target(limit), note))
    return rows


async def _change_rows(changes: int) -> list[Row]:
    """Return what it takes to prepare each policy anew when one of 10,000 replicas turns unhealthy, or healthy."""
    size = SIZES[-1]
    found: dict[str, list[float]] = {policy: [] for policy in policy_names()}
    views = {policy: registry_of(size, policy, weights=WEIGHTS)._view for policy in policy_names()}  # noqa: SLF001
    changing = views["priority"].all()[size // 2].record
    for number in range(changes):
        status = ReplicaStatus.HEALTHY if number % 2 else ReplicaStatus.UNHEALTHY
        changed = replace(changing, health=ReplicaHealth(status), revision=f"{number + 2}-0")
        for policy, view in views.items():
            started = time.perf_counter()
            view.apply([changed])
            found[policy].append((time.perf_counter() - started) * 1e3)
        await asyncio.sleep(0)
    medians = {policy: statistics.median(taken) for policy, taken in found.items()}
    note = "median; one replica of 10,000 changes its status, all that the view does about it"
    beside, limit = medians["priority"], Target(CHANGE_LIMIT_MS)
    return [Row(f"{policy}: a change", medians[policy], "ms", beside, "priority", limit, note) for policy in LIMITS]


def _herd_rows(seconds: float) -> list[Row]:
    """Return how even 10,000 sessions come out that 20 routers select by loads up to a second old."""
    rows = []
    for replicas in (10, 50, 200):
        traffic = Traffic([1.0] * replicas, 10_000 / seconds, seconds, forever)
        ours, plain = (
            list(max_to_mean(policy, traffic))[-1][1] for policy in ("least_loaded", "least of what was read")
        )
        what = f"20 routers, {replicas} replicas: most loaded / mean"
        rows.append(Row(what, ours, "", plain, "by the least of what was read", Target(HERD_LIMIT), "simulated"))
    return rows


def _empty(*, key: str | None = None, exclude: Collection[str] = (), policy: str | None = None) -> None:
    """Do nothing."""
