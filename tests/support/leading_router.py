"""A health loop over a scripted cluster and a scripted probe, both on the test's clock."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from shared_registry import model
from shared_registry.errors import StoreError, StoreUnavailable
from shared_registry.health import after_failure, after_success
from shared_registry.leader.authority import Lead, Mandate
from shared_registry.leader.election import RunningTerm
from shared_registry.leader.health_loop import HealthLoop, HealthSettings
from shared_registry.model import (
    AdminState,
    Event,
    EventKind,
    ProbeResult,
    Replica,
    ReplicaEndpoint,
    ReplicaHealth,
    ReplicaRecord,
    ReplicaStatus,
    Term,
    Thresholds,
)
from shared_registry.probing import HttpProber
from shared_registry.probing.listeners import ProbeListeners
from shared_registry.probing.probe_counts import ProbeCounts
from shared_registry.probing.trouble_log import TroubleLog
from shared_registry.store.replies import Report
from tests.support.fake_clock import START, FakeClock

INTERVAL = 5.0
FAST = 1.0
FOREVER = 1e6
SERVER_OFFSET = 1_800_000_000.0 - START
THRESHOLDS = Thresholds(failure=3, recovery=2)


def url_of(number: int) -> str:
    return f"http://10.0.{number // 250}.{number % 250}:8000"


def health_url(record: ReplicaRecord) -> str:
    return f"{record.key}/health"


def ignore(events: Sequence[Event]) -> None:
    pass


@dataclass
class Sent:
    """One call of `report`."""

    at: float
    token: str
    epoch: int
    batch: int
    results: list[ProbeResult]

    @property
    def keys(self) -> list[str]:
        return [result.key for result in self.results]


class Records(dict[str, ReplicaRecord]):
    """Records by url, and a handle on each that shows the latest one."""

    def __init__(self) -> None:
        super().__init__()
        self.handles: dict[str, Replica] = {}

    def __setitem__(self, key: str, record: ReplicaRecord) -> None:
        super().__setitem__(key, record)
        self.handles.setdefault(key, Replica.of(record)).record = record


class Cluster:
    """The shared state, which applies results as the scripts do, and fails as the test says."""

    def __init__(self, clock: FakeClock, replicas: int, *, probed_ago: float | None = None) -> None:
        self.leader: model.Leader | None = None
        self.plan: model.Plan | None = None
        self.records = Records()
        self.sent: list[Sent] = []
        self.applied = 0
        self.reports_under_way = 0
        self.most_reports_under_way = 0
        self.latency = 0.0
        self.errors: list[StoreError] = []
        self.error: StoreError | None = None
        self.loses_replies = False
        self.handled_at_once = 1000
        self.is_counting = True
        self.read_error: StoreError | None = None
        self.listener: Callable[[Sequence[Event]], None] = ignore
        self._clock = clock
        for number in range(replicas):
            self.add(number, probed_ago=probed_ago)

    def add(self, number: int, *, incarnation: str = "1", probed_ago: float | None = None) -> None:
        health = ReplicaHealth()
        if probed_ago is not None:
            last_ok_at = self._clock.monotonic() + SERVER_OFFSET - probed_ago
            health = ReplicaHealth(ReplicaStatus.HEALTHY, last_ok_at=last_ok_at)
        key = url_of(number)
        self.records[key] = ReplicaRecord(key, ReplicaEndpoint(key), health, incarnation=incarnation)
        self._emit(EventKind.REPLICA_REGISTERED, self.records[key])

    def remove(self, number: int) -> None:
        record = self.records.pop(url_of(number))
        self._emit(EventKind.REPLICA_DEREGISTERED, replace(record, admin=AdminState.REMOVED))

    def set_admin(self, number: int, admin: AdminState) -> None:
        record = self.records[url_of(number)] = replace(self.records[url_of(number)], admin=admin)
        self._emit(EventKind.REPLICA_ADMIN, record)

    def status(self, number: int) -> ReplicaStatus:
        return self.records[url_of(number)].health.status

    def probed(self) -> Iterable[ReplicaRecord]:
        return list(self.records.values())

    def replica(self, key: str) -> Replica | None:
        return self.records.handles[key] if key in self.records else None

    def record(self, key: str) -> ReplicaRecord | None:
        return self.records.get(key)

    async def read_probe_times(self) -> float:
        if self.read_error:
            raise self.read_error
        return self._clock.monotonic() + SERVER_OFFSET

    async def report(
        self, mandate: Mandate, batch: int, results: Sequence[ProbeResult], thresholds: Thresholds
    ) -> Report:
        token, epoch = (mandate.token, mandate.epoch) if isinstance(mandate, Term) else (mandate.router, mandate.number)
        self.sent.append(Sent(self._clock.monotonic() - START, token, epoch, batch, list(results)))
        self.reports_under_way += 1
        self.most_reports_under_way = max(self.most_reports_under_way, self.reports_under_way)
        try:
            await self._clock.sleep(self.latency)
            if self.errors:
                raise self.errors.pop(0)
            if self.error:
                raise self.error
            if batch > self.applied:
                self.applied = batch
                for result in results[: self.handled_at_once]:
                    self._apply(result, thresholds)
            if self.loses_replies:
                raise StoreUnavailable("no answer")
            return Report(done=min(len(results), self.handled_at_once))
        finally:
            self.reports_under_way -= 1

    def _apply(self, result: ProbeResult, thresholds: Thresholds) -> None:
        record = self.records.get(result.key)
        if record is None or record.incarnation != result.incarnation or result.is_unsure or not self.is_counting:
            return
        at = self._clock.monotonic() + SERVER_OFFSET
        if result.error is None:
            health = after_success(record.health, thresholds, at=at, latency_ms=result.latency_ms)
        else:
            health = after_failure(record.health, thresholds, at=at)
        self.records[result.key] = replace(record, health=health)
        if health.status is not record.health.status:
            event = Event("1-1", EventKind.REPLICA_HEALTHY, 0.0, "0-0", "router", 1)
            self.listener([event.with_changed([self.records[result.key]])])

    def _emit(self, kind: EventKind, record: ReplicaRecord) -> None:
        self.listener([Event("1-1", kind, 0.0, "0-0", "router", 1, record=record)])


class Probe:
    """Answers after the latency set for a replica, with the error set for it, or raises the failure set for it.

    Two probes of one at once fail.
    """

    def __init__(self, clock: FakeClock) -> None:
        self.latency: dict[str, float] = {}
        self.error: dict[str, str] = {}
        self.failure: dict[str, Exception] = {}
        self.starts: list[tuple[float, str]] = []
        self.under_way: set[str] = set()
        self.most_under_way = 0
        self._clock = clock

    async def __call__(self, url: str, *, timeout: float) -> tuple[float, str | None]:
        key = url.removesuffix("/health")
        assert url == f"{key}/health"
        self.starts.append((self._clock.monotonic() - START, key))
        assert key not in self.under_way, "two probes of one replica at once"
        self.under_way.add(key)
        self.most_under_way = max(self.most_under_way, len(self.under_way))
        try:
            await self._clock.sleep(self.latency.get(key, 0.01))
        finally:
            self.under_way.discard(key)
        if key in self.failure:
            raise self.failure[key]
        return 10.0, self.error.get(key)

    def starts_of(self, number: int) -> list[float]:
        return [at for at, key in self.starts if key == url_of(number)]


class Leader:
    """A health loop in its terms."""

    def __init__(
        self,
        clock: FakeClock,
        cluster: Cluster,
        *,
        concurrency: int = 256,
        timeout: float = 2.0,
        prober: HttpProber | None = None,
        url_of: Callable[[ReplicaRecord], str] = health_url,
    ) -> None:
        self.clock = clock
        self.cluster = cluster
        self.probe = Probe(clock)
        self.share_batches = itertools.count(1)
        self.connected: set[str] = set()
        self.retentions = 0
        self.counts = ProbeCounts(clock)
        self.reached: list[tuple[str, bool]] = []
        settings = HealthSettings(url_of, INTERVAL, FAST, timeout, THRESHOLDS, concurrency)
        self.loop = HealthLoop(
            cluster,
            cluster.report,
            prober or self._probe,
            settings,
            router="r~1",
            listeners=ProbeListeners(
                TroubleLog(quiet_seconds=2 * INTERVAL, clock=clock),
                lambda keys, is_reached: self.reached.extend((key, is_reached) for key in keys),
                retain=self._retain,
                forget=lambda url: self.connected.discard(url),  # noqa: PLW0108  it may be replaced
                counts=self.counts,
            ),
            clock=clock,
            rng=random.Random(1),
        )
        cluster.listener = self.loop.notice
        self.term = RunningTerm(0, "", 0.0, clock)
        self.task: asyncio.Task[None] | None = None

    def _retain(self, urls: Iterable[str]) -> None:
        self.connected &= set(urls)
        self.retentions += 1

    async def lead(self, epoch: int = 1, *, seconds: float = FOREVER) -> None:
        self.term = RunningTerm(epoch, f"token {epoch}", self.clock.monotonic() + seconds, self.clock)
        await self.go_on()

    async def go_on(self) -> None:
        """Begin the work anew in the same term."""
        lead = Lead(self.term, self.cluster, router="r~1", share_batches=self.share_batches)
        self.task = asyncio.ensure_future(self.loop.run(lead))
        await self.clock.settle()

    async def stop(self) -> None:
        if self.task is not None and not self.task.done():
            self.task.cancel()
            await self.clock.run_until(self.task.done)

    @property
    def is_running(self) -> bool:
        return self.task is not None and not self.task.done()

    async def _probe(self, url: str, *, timeout: float) -> tuple[float, str | None]:
        return await self.probe(url, timeout=timeout)


@contextlib.asynccontextmanager
async def leading(clock: FakeClock, cluster: Cluster, *, concurrency: int = 256) -> AsyncIterator[Leader]:
    leader = Leader(clock, cluster, concurrency=concurrency)
    await leader.lead()
    try:
        yield leader
    finally:
        await leader.stop()
