"""Tracks an outage for one router: whether Redis accepts its writes, and which slots it may use without Redis.

Writes can fail while reads work. That can last for a moment or for long, and can concern one router or all. The counts
in Redis differ from those of the routers until every session that was placed without Redis is put back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Literal

from shared_registry.aio.clock import Clock
from shared_registry.errors import SlotMigrating, StoreError, StoreRefused, StoreUnavailable
from shared_registry.leases.degraded import DegradedPlacement, LastLoads
from shared_registry.leases.lease_news import LeaseNews
from shared_registry.leases.ledger import Ledger
from shared_registry.mirror.mirror import REPLICAS_A_SECOND, Mirror
from shared_registry.model import Replica, ReplicaEndpoint
from shared_registry.store.failures import was_refused
from shared_registry.store.reader import Reader

IDLE_SECONDS = 60.0
"""How long after the last acquire the loads are still read."""
SETTLING_SECONDS = 2.5
"""How long after a failed write shares stay in force.

It is longer than any router takes to retry to put back its unrecorded leases.
"""
MOST_LEFT_TO_OTHERS = 100
"""How many replicas one request may leave to other routers. If there are more, the request leaves none."""
AWAY = (StoreUnavailable, StoreRefused)
"""The errors after which a session is placed as in an outage. A router whose password or rights were changed while it
ran is cut off from Redis like one whose network is down, and its replicas are as good as before."""
logger = logging.getLogger(__name__)


class Outage:
    """One router's record of an outage. `poll_loads` must be kept running.

    Attributes:
        degraded: Counts the slots taken and given back since the loads were read.
        was_refused: Whether Redis refused a write lately. Only then may `left_to_others` return replicas.
    """

    def __init__(
        self,
        mode: Literal["share", "off", "unlimited"],
        reader: Reader,
        mirror: Mirror,
        ledger: Ledger,
        news: LeaseNews,
        *,
        router: str,
        refresh_seconds: float,
        clock: Clock,
    ) -> None:
        """Set up, without loads.

        Args:
            mode: See `RouterConfig.degraded_placement`.
            reader: Reads the loads.
            mirror: Shows the replicas.
            ledger: Records this router's leases, and those of them that Redis lacks.
            news: Reports that sessions are placed without Redis.
            router: This router's key.
            refresh_seconds: How often loads are read.
            clock: Used for waits.
        """
        self.degraded = DegradedPlacement(mode, router=router, kept=ledger.kept)
        self.was_refused = False
        self._mode = mode
        self._reader = reader
        self._mirror = mirror
        self._ledger = ledger
        self._news = news
        self._refresh_seconds = refresh_seconds
        self._clock = clock
        self._failed_at = self._refused_at = self._unsettled_since = self._read_at = -math.inf
        self._reading = asyncio.Lock()
        self._recorded: Mapping[str, int] = {}
        self._requests = self._covered = 0
        self._used_at = -IDLE_SECONDS
        self._is_logged = False
        self._placed = 0

    def begin(self, error: StoreError) -> None:
        """Record that a session is placed without Redis. The first one of an outage is logged."""
        self._placed += 1
        if not self._is_logged:
            self._is_logged = True
            logger.warning("placement: placing without Redis (%s): %s", self._mode, str(error))
            if self._news.emitter.has_listeners:
                self._news.degraded_began(error)

    def end(self) -> None:
        """Record that a session was placed through Redis. The first one after an outage is logged."""
        if self._is_logged:
            self._is_logged = False
            logger.info("placement: placing through Redis again; sessions placed without it: %d", self._placed)
            if self._news.emitter.has_listeners:
                self._news.degraded_ended(self._placed)
            self._placed = 0

    def note_failure(self, error: StoreError) -> None:
        """Record that a write to Redis failed. While a hash slot migrates, no router places anything without Redis."""
        if isinstance(error, SlotMigrating):
            return
        if not self.is_unsettled:
            self._unsettled_since = self._clock.monotonic()
        self._failed_at = self._clock.monotonic()
        if was_refused(error):
            self.was_refused = True
            self._refused_at = self._failed_at

    @property
    def is_unsettled(self) -> bool:
        """Whether writes fail, or failed a moment ago, or Redis lacks a change of this router's leases."""
        return self._is_out or self._clock.monotonic() - self._failed_at < SETTLING_SECONDS

    @property
    def _is_out(self) -> bool:
        """Whether Redis counts other leases than this router, because writes failed."""
        return bool(self._ledger.unrecorded or self._ledger.kept)

    async def place(
        self,
        error: StoreUnavailable | StoreRefused,
        *,
        avoided: Collection[str],
        excluded: Collection[str],
        takes_spare: bool,
    ) -> Replica:
        """Return the replica on which this router places a session without Redis.

        Args:
            error: Why Redis could not be asked. It is raised if this router may use no replica.
            avoided: Canonical urls of replicas that are used only if no other replica is possible.
            excluded: Canonical urls of replicas that are never used.
            takes_spare: See `choose`.
        """
        self.note_failure(error)
        await self.read_late_loads()
        await self.read_recorded_loads(error)
        replica = self.choose(avoided=avoided, excluded=excluded, takes_spare=takes_spare)
        if replica is None:
            raise error
        return replica

    def choose(self, *, avoided: Collection[str], excluded: Collection[str], takes_spare: bool) -> Replica | None:
        """Return the replica that this router may use for a session without Redis; `None` if there is none.

        Args:
            avoided: Canonical urls of replicas that are used only if no other replica is possible.
            excluded: Canonical urls of replicas that are never used.
            takes_spare: Whether the replica need not be healthy if there is a panic and no healthy one can be used.
        """
        view, full = self._mirror.view, self._full()
        if full:
            excluded = {*excluded, *full}
        replica = self.degraded.choose(view.preference, avoided=avoided, excluded=excluded)
        if replica is None and takes_spare:
            replica = self.degraded.choose(view.spares, avoided=avoided, excluded=excluded)
        return replica

    def _usable(self) -> tuple[Replica, ...]:
        """Return the replicas that may take sessions, the healthy ones first."""
        return self._mirror.view.preference + self._mirror.view.spares

    def _full(self) -> list[str]:
        """Return the canonical urls of the replicas that have no free slot.

        The load is the count in Redis, plus the leases that this router has to put back, minus those in `Ledger.kept`.
        Shares stay in force. This check reduces them by the slots that Redis granted to a router that saw no refused
        write, or saw one earlier.
        """
        if self._mode != "share" or not self._recorded:
            return []
        own_counts = Counter(self._ledger.missing().values())
        own_counts.subtract(Counter(self._ledger.kept.values()))
        return [
            one.key
            for one in self._usable()
            if 0 < one.endpoint.capacity <= self._recorded.get(one.key, 0) + own_counts[one.key]
        ]

    async def read_recorded_loads(self, error: StoreError) -> None:
        """Read the present counts from Redis if it refuses writes but answers reads.

        Concurrent callers share one reading, which begins after all of them have called.
        """
        if self._mode != "share" or not was_refused(error):
            self._recorded = {}
            return
        self._requests += 1
        request = self._requests
        async with self._reading:
            if self._covered >= request:
                return
            covers, self._recorded = self._requests, {}
            replicas = [one for one in self._usable() if one.endpoint.capacity]
            with contextlib.suppress(StoreError):
                self._recorded, _ = await self._loads(replicas)
                self._covered = covers

    def left_to_others(self) -> Collection[str]:
        """Return the canonical urls of the replicas to leave to other routers after Redis refused writes.

        Other routers may have placed sessions there that Redis has not recorded yet.
        """
        if self._clock.monotonic() - self._refused_at >= SETTLING_SECONDS:
            self.was_refused = False
            return ()
        left_to_others = self.degraded.used_up(self._usable())
        return left_to_others if len(left_to_others) <= MOST_LEFT_TO_OTHERS else ()

    def lately_alive(self) -> Collection[str]:
        """Return the keys of the live routers, if they were read within the last few seconds."""
        is_fresh = self._clock.monotonic() - self._read_at < 3 * self._interval_seconds()
        return self.degraded.loads.routers if self.degraded.loads is not None and is_fresh else ()

    async def poll_loads(self) -> None:
        """Read the loads regularly while leases are acquired, so that this router can place sessions in an outage."""
        acquires = self._ledger.acquires
        while True:
            if acquires == self._ledger.acquires and not self._is_used():
                self._ledger.is_used.clear()
                await self._ledger.is_used.wait()
            await self._clock.sleep(self._refresh_seconds)
            if acquires != self._ledger.acquires:
                acquires = self._ledger.acquires
                self._used_at = self._clock.monotonic()
            if self._needs_loads() and not self.is_unsettled and self._is_due():
                with contextlib.suppress(StoreError):  # the mirror logs that Redis is away
                    await self._read_loads()

    async def read_late_loads(self) -> None:
        """Read the loads now if none were read shortly before writes began to fail. Reads may still work."""
        async with self._reading:
            if self._is_too_old() and not self._is_out:
                self._read_at = self._clock.monotonic()  # one attempt only: if it fails, the old loads are used
                with contextlib.suppress(StoreError):
                    await self._read_loads()

    async def _read_loads(self) -> None:
        """Read the loads, and take them over unless Redis lacks a change of this router's leases by then."""
        failed_at, replicas = self._failed_at, self._usable()
        self.degraded.begin_read()
        try:
            in_flight, routers = await self._loads(replicas)
            if failed_at == self._failed_at and not self._is_out:
                self.degraded.update(LastLoads(in_flight, routers), replicas, missing=self._ledger.missing())
                self._read_at = self._clock.monotonic()
        finally:
            self.degraded.end_read()

    async def _loads(self, replicas: Iterable[Replica]) -> tuple[dict[str, int], list[str]]:
        healthy: dict[str, ReplicaEndpoint] = {}
        spares: dict[str, ReplicaEndpoint] = {}
        for replica in replicas:
            (healthy if replica.record.is_selectable else spares)[replica.key] = replica.endpoint
        return await self._reader.loads(healthy, ramping=self._mirror.view.ramping, spares=spares)

    def _interval_seconds(self) -> float:
        """Return the time between two readings. Each of them has all replicas, so in large fleets it is longer."""
        return max(self._refresh_seconds, len(self._mirror.view.all()) / REPLICAS_A_SECOND)

    def _is_due(self) -> bool:
        interval = self._interval_seconds()
        return interval <= self._refresh_seconds or self._clock.monotonic() - self._read_at >= interval

    def _is_too_old(self) -> bool:
        oldest = self._unsettled_since - 2 * self._interval_seconds() - 1
        return self._read_at < oldest and self._mode == "share"

    def _is_used(self) -> bool:
        return self._clock.monotonic() - self._used_at < IDLE_SECONDS

    def _needs_loads(self) -> bool:
        return (
            self._mode == "share" and self._is_used() and any(replica.endpoint.capacity for replica in self._usable())
        )
