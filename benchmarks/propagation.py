"""How long a status change takes to the last of many routers' mirrors.

The mirrors run in one process, each with connections of its own, on a namespace of a hundred replicas. A writer in the
same process lets a replica fall, and rise again; time runs from just before its command to the moment when the last
mirror's view shows the new status. One process makes it the worst case: the mirrors take turns on one core.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import statistics
import time
from collections.abc import AsyncIterator, Iterator, Sequence

from benchmarks.namespace import NAMESPACE, PATIENCE_SECONDS, fill
from benchmarks.rows import Row, Target
from shared_registry import RouterConfig
from shared_registry.aio.clock import SystemClock
from shared_registry.embedded import EmbeddedServer
from shared_registry.happenings import Emitter
from shared_registry.mirror.mirror import Mirror
from shared_registry.mirror.rest import Rest
from shared_registry.model import Event, ProbeResult, Thresholds
from shared_registry.selection.view import View
from shared_registry.store.client import connect
from shared_registry.store.commands import Store
from shared_registry.store.keys import Keys
from shared_registry.store.reader import Reader

TITLE = "a status change, to the last of the mirrors"
REPLICAS = 100
CHANGES, CHANGES_QUICK = 500, 200
PAUSE_SECONDS = 0.005
TARGETS = {20: Target(20.0), 50: None}


class Audience:
    """Mirrors, and how many of them show the change that is on its way."""

    def __init__(self, mirrors: Sequence[Mirror]) -> None:
        self._mirrors = mirrors
        self._missing = 0
        self._all_know = asyncio.Event()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Be told of every step of every mirror."""
        with contextlib.ExitStack() as stack:
            for mirror in self._mirrors:
                stack.enter_context(mirror.subscribed(self._notice))
            yield

    def expect(self) -> None:
        """Begin to count."""
        self._missing = len(self._mirrors)
        self._all_know.clear()

    async def all_know(self) -> None:
        """Wait until every mirror shows the change."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self._all_know.wait()

    def _notice(self, events: Sequence[Event]) -> None:
        self._missing -= sum(len(event.carried) for event in events)
        if self._missing <= 0:
            self._all_know.set()


async def measure(*, is_quick: bool) -> list[Row]:
    """Return the median and the 99th percentile for each number of mirrors."""
    rows = []
    for count, target in TARGETS.items():
        delays = await _milliseconds(count, CHANGES_QUICK if is_quick else CHANGES)
        p99 = statistics.quantiles(delays, n=100, method="inclusive")[98]
        what = f"{count} mirrors"
        rows += [
            Row(f"{what}, p50", statistics.median(delays), "ms"),
            Row(f"{what}, p99", p99, "ms", target=target),
        ]
    return rows


async def _milliseconds(count: int, changes: int) -> list[float]:
    delays = []
    async with contextlib.AsyncExitStack() as stack:
        server = stack.enter_context(EmbeddedServer())
        await fill(server.url, REPLICAS)
        mirrors = [await stack.enter_async_context(_mirror(server.url)) for _ in range(count)]
        audience = Audience(mirrors)
        stack.enter_context(audience.listening())
        writer = connect(server.url, timeout_seconds=PATIENCE_SECONDS, block_seconds=1.0)
        stack.push_async_callback(writer.close)
        store = Store(writer, Keys(NAMESPACE), router="writer", timeout_seconds=PATIENCE_SECONDS)
        records = [replica.record for replica in mirrors[0].view.all()]
        await asyncio.sleep(0.2)
        for at in range(changes):
            record = records[at // 2 % len(records)]
            error = "fallen" if at % 2 == 0 else None
            audience.expect()
            started = time.perf_counter()
            await store.record_outcome(ProbeResult(record.key, record.incarnation, 1.0, error), Thresholds(1, 1))
            await audience.all_know()
            delays.append((time.perf_counter() - started) * 1000)
            await asyncio.sleep(PAUSE_SECONDS)
    return delays


@contextlib.asynccontextmanager
async def _mirror(redis_url: str) -> AsyncIterator[Mirror]:
    settings = RouterConfig()
    clients = connect(redis_url, timeout_seconds=settings.redis_timeout_seconds, block_seconds=settings.refresh_seconds)
    mirror = Mirror(
        Reader(clients, Keys(NAMESPACE), timeout_seconds=settings.redis_timeout_seconds),
        View(),
        rest=Rest(refresh_seconds=settings.refresh_seconds, clock=SystemClock()),
        max_staleness_seconds=None,
        clock=SystemClock(),
        rng=random.Random(),
        on_lost_history=_nothing,
        emitter=Emitter(),
    )
    await mirror.load()
    following = asyncio.create_task(mirror.run())
    try:
        yield mirror
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await clients.close()


async def _nothing() -> None:
    return
