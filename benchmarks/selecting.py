"""What one `select()` costs, beside an in-process registry that filters lists at every call.

For each size a namespace is filled with healthy replicas, one of them primary, and a registry is started on it; its
probes always succeed. The rival is this module's: it keeps replicas in a dict and lists the healthy primaries, else
the healthy others, and takes the first, as FastVideo's registry does. Both are called in loops that take turns, and the
best of the repetitions counts: what disturbs a loop only ever makes it slower.
"""

from __future__ import annotations

import asyncio
import contextlib
import timeit
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.namespace import distant_urls, fill
from benchmarks.rows import Row, Target
from shared_registry import RouterConfig, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer
from shared_registry.model import Replica, ReplicaEndpoint, ReplicaHealth, ReplicaStatus

TITLE = "select()"
SIZES = (2, 10, 1_000, 10_000)
REPETITIONS = 30
LOOP_SECONDS = 0.001
TARGETS = {10: Target(0.15, of="ratio"), 1_000: Target(0.02, of="ratio")}
FLAT = Target(1.25, of="ratio")


@dataclass
class ListedReplica:
    """A replica of the rival: an endpoint and its health."""

    endpoint: ReplicaEndpoint
    health: ReplicaHealth = field(default_factory=lambda: ReplicaHealth(ReplicaStatus.HEALTHY))

    @property
    def primary(self) -> bool:
        """Whether it is of the first tier."""
        return self.endpoint.primary

    @property
    def is_healthy(self) -> bool:
        """Whether it may be selected."""
        return self.health.status is ReplicaStatus.HEALTHY


class ListFilter:
    """The rival: an in-process registry that looks at every replica at every call."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._replicas = {url: ListedReplica(ReplicaEndpoint(url, primary=at == 0)) for at, url in enumerate(urls)}

    def select(self) -> ListedReplica | None:
        """Return the first healthy primary, else the first healthy other."""
        primaries = [replica for replica in self._replicas.values() if replica.primary and replica.is_healthy]
        if primaries:
            return primaries[0]
        others = [replica for replica in self._replicas.values() if replica.is_healthy]
        return others[0] if others else None


async def measure(*, is_quick: bool) -> list[Row]:
    """Return a row for each size, and one for how flat the cost is."""
    best = await _best_microseconds(REPETITIONS if is_quick else 3 * REPETITIONS)
    rows = [
        Row(f"{size:,} replicas", ours, "µs", rival, "list filter", TARGETS.get(size))
        for size, (ours, rival) in best.items()
    ]
    what = f"{SIZES[-1]:,} replicas again"
    return [*rows, Row(what, rows[-1].figure, "µs", rows[0].figure, f"at {SIZES[0]} replicas", FLAT)]


async def _best_microseconds(repetitions: int) -> dict[int, tuple[float, float]]:
    """Return, for each size, what a call takes here and with the rival."""
    rivals = {size: ListFilter(distant_urls(size)) for size in SIZES}
    contenders: dict[int, tuple[Callable[[], object], Callable[[], object]]] = {}
    best = dict.fromkeys(SIZES, (float("inf"), float("inf")))
    async with contextlib.AsyncExitStack() as stack:
        server = stack.enter_context(EmbeddedServer())
        for size in SIZES:
            await fill(server.url, size, f"of-{size}")
            config = RouterConfig(redis_url=server.url, namespace=f"of-{size}")
            registry = await stack.enter_async_context(SharedReplicaRegistry(config, http_get=_always_up))
            contenders[size] = (registry.select, rivals[size].select)
            _check(registry.select(), rivals[size].select())
        for _ in range(repetitions):
            for size, (ours, theirs) in contenders.items():
                found = _seconds_a_call(ours) * 1e6, _seconds_a_call(theirs) * 1e6
                best[size] = min(best[size][0], found[0]), min(best[size][1], found[1])
                await asyncio.sleep(0)
    return best


def _check(chosen: Replica | None, listed: ListedReplica | None) -> None:
    if chosen is None or listed is None or chosen.url != listed.endpoint.url:
        raise RuntimeError(f"the two disagree: {chosen} and {listed}")


def _seconds_a_call(select: Callable[[], object]) -> float:
    timer = timeit.Timer(select)
    calls = 1
    while (seconds := timer.timeit(calls)) < LOOP_SECONDS:
        calls *= 4
    return seconds / calls


async def _always_up(url: str, *, timeout: float) -> tuple[float, str | None]:  # noqa: ARG001  as HttpProbe calls it
    return 0.1, None
