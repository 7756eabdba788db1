"""The page that Prometheus reads: everything that one router knows and has counted."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

from shared_registry._version import __version__
from shared_registry.aio.breath import Breath
from shared_registry.errors import RegistryError
from shared_registry.proxy.app import Router
from shared_registry.proxy.pool import Pool
from shared_registry.proxy.remembered import Remembered
from shared_registry.store.figure_reader import Figures
from shared_registry.telemetry import exposition
from shared_registry.telemetry.collector import OneMetric, Samples
from shared_registry.telemetry.counting import Counting
from shared_registry.telemetry.families import OF_POOL, OF_REPLICA, OF_REPLICA_COUNTS, OF_ROUTER
from shared_registry.telemetry.fleet import CountsByReplica, Fleet
from shared_registry.telemetry.served import put_traffic
from shared_registry.telemetry.view import put_discovery, put_fleet, put_view
from shared_registry.telemetry.work import put_work

OLDEST_SECONDS = 1.0
"""From how old a view on, beyond twice its usual age, Redis is not asked for further numbers."""
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class MetricsPage:
    """The metrics of one router. Any number of calls at once read and write them once.

    Redis is read at most once per `refresh_seconds`. While it is away, the page shows this router's view, with its age.
    """

    def __init__(self, router: Router, counting: Counting) -> None:
        """Set up; nothing is read before `render()`.

        Args:
            router: The router.
            counting: What has been counted since its start.
        """
        self._router = router
        self._counting = counting
        self._began_at = time.monotonic()
        self._process = CollectorRegistry()  # of its own: several routers may run in one process
        ProcessCollector(registry=self._process)
        self._figures = {
            name: Remembered(pool.registry.figures, seconds=pool.config.refresh_seconds)
            for name, pool in router.pools.items()
        }
        self._page = Remembered(
            self._render, seconds=min(pool.config.refresh_seconds for pool in router.pools.values())
        )

    async def render(self) -> Sequence[bytes]:
        """Return the page, in pieces. It may be as old as `refresh_seconds`."""
        return await self._page.get()

    async def _render(self) -> Sequence[bytes]:
        breath, samples = Breath(), Samples((*OF_ROUTER, *OF_POOL))
        pools = list(self._router.pools.values())
        fleets = [await self._put_pool(samples, pool) for pool in pools]
        self._put_router(samples)
        pieces = [generate_latest(self._process)]
        for metric in samples.metrics():
            await breath.pause()
            pieces.append(generate_latest(OneMetric(metric)))
        for family in OF_REPLICA:
            pieces.append(exposition.head_lines(family).encode())
            for fleet in fleets:
                pieces += [piece.encode() async for piece in fleet.samples(family)]
        for family, counts in zip(OF_REPLICA_COUNTS, zip(*map(self._counts, pools), strict=True), strict=True):
            pieces.append(exposition.head_lines(family).encode())
            for fleet, found in zip(fleets, counts, strict=True):
                pieces += [piece.encode() async for piece in fleet.counts(family, found)]
        return pieces

    def _put_router(self, samples: Samples) -> None:
        samples.put("sr_build_info", 1, __version__)
        samples.put("sr_clients", len(self._router.site.clients))
        samples.put_distribution("sr_event_loop_lag_seconds", self._router.lags)
        for kind, count in self._router.site.refusals.counts.items():
            status, _, error = kind.rpartition(" ") if kind.startswith("WebSocket") else kind.partition(" ")
            samples.put("sr_refusals_total", count, status, error)

    async def _put_pool(self, samples: Samples, pool: Pool) -> Fleet:
        figures, is_read = await self._read(pool)
        fleet = Fleet([one.record for one in pool.registry.all()], figures.loads, pool=pool.name)
        await fleet.count()
        put_view(samples, pool, time.monotonic() - self._began_at)
        put_discovery(samples, pool)
        self._counting.happened[pool.name].put(samples, pool.name)
        put_work(samples, pool)
        put_traffic(samples, pool.traffic, pool.name)
        put_fleet(samples, fleet, pool.name)
        samples.put("sr_store_read_failed", not is_read, pool.name)
        if is_read:
            samples.put("sr_routers", figures.live_routers, "live", pool.name)
            samples.put("sr_routers", figures.expired_routers, "expired", pool.name)
            samples.put("sr_queue_depth", figures.queue_depth, pool.name)
            samples.put("sr_queue_oldest_seconds", figures.oldest_wait_seconds, pool.name)
        return fleet

    async def _read(self, pool: Pool) -> tuple[Figures, bool]:
        registry, patience = pool.registry, OLDEST_SECONDS + 2 * pool.config.refresh_seconds
        # While Redis is away, the page must not wait for it each time.
        if registry.is_started and (registry.age_seconds or 0.0) < patience:
            with contextlib.suppress(RegistryError):  # the page says so, and shows the age of the view
                return await self._figures[pool.name].get(), True
        return Figures(), False

    def _counts(self, pool: Pool) -> Sequence[CountsByReplica]:
        """Return the counts by replica, in the order of `OF_REPLICA_COUNTS`."""
        return [dict(self._counting.happened[pool.name].transitions), dict(pool.traffic.failures)]
