"""What a router knows of an outage: whether Redis takes its writes, and what it may place without Redis meanwhile.

Writes can fail while reads work, for a moment or for long, and for one router or for all. Until everything that was
placed meanwhile is put back, Redis counts otherwise than the routers do.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Literal

from shared_registry.aio.clock import Clock
from shared_registry.errors import StoreError, StoreUnavailable
from shared_registry.leases.degraded import DegradedPlacement, SeenLoads
from shared_registry.leases.ledger import Ledger
from shared_registry.mirror.mirror import Mirror
from shared_registry.model import Replica
from shared_registry.store.failures import was_refused
from shared_registry.store.reader import Reader

IDLE_SECONDS = 60.0
"""For how long after the last acquire the loads are still looked at."""
SETTLING_SECONDS = 2.5
"""For how long after a failed write shares stand: longer than any router takes to try again to put back what is out."""
MOST_SPARED = 100
"""How many replicas may be left to others in one question; where they are more, none are."""
logger = logging.getLogger(__name__)


class Outage:
    """One router's account. `look_at_loads` must be kept running.

    Attributes:
        degraded: What was taken and given back since the loads were seen.
        was_refused: Redis refused a write lately, so that `spared` may name replicas; else it names none.
    """

    def __init__(
        self,
        mode: Literal["share", "off", "unlimited"],
        reader: Reader,
        mirror: Mirror,
        ledger: Ledger,
        *,
        router: str,
        refresh_seconds: float,
        clock: Clock,
    ) -> None:
        """Set up; nothing was seen yet.

        Args:
            mode: See `RouterConfig.degraded_placement`.
            reader: Where loads are read.
            mirror: For the replicas.
            ledger: What this router holds, and what of it Redis lacks.
            router: This router's key.
            refresh_seconds: How often loads are read.
            clock: For waiting.
        """
        self.degraded = DegradedPlacement(mode, router=router, kept=ledger.kept)
        self.was_refused = False
        self._mode = mode
        self._reader = reader
        self._mirror = mirror
        self._ledger = ledger
        self._refresh_seconds = refresh_seconds
        self._clock = clock
        self._failed_at = self._refused_at = self._apart_since = self._seen_at = -math.inf
        self._seeing = asyncio.Lock()
        self._recorded: Mapping[str, int] = {}
        self._came = self._covered = 0
        self._used_at = -IDLE_SECONDS
        self._is_told = False

    def begin(self, error: StoreError) -> None:
        """A session is placed without Redis; the first time that is logged."""
        if not self._is_told:
            self._is_told = True
            logger.warning("placement: placing without Redis (%s): %s", self._mode, error)

    def end(self) -> None:
        """A session was placed through Redis."""
        if self._is_told:
            self._is_told = False
            logger.info("placement: placing through Redis again")

    def note_failure(self, error: StoreError) -> None:
        """Redis did not take a write."""
        if not self.is_apart:
            self._apart_since = self._clock.monotonic()
        self._failed_at = self._clock.monotonic()
        if was_refused(error):
            self.was_refused = True
            self._refused_at = self._failed_at

    @property
    def is_apart(self) -> bool:
        """Whether writes fail, or did a moment ago, or something is out."""
        return self._is_out or self._clock.monotonic() - self._failed_at < SETTLING_SECONDS

    @property
    def _is_out(self) -> bool:
        """Whether Redis counts otherwise than this router, because it could not be told."""
        return bool(self._ledger.unrecorded or self._ledger.kept)

    async def place(self, error: StoreUnavailable, *, avoided: Collection[str], excluded: Collection[str]) -> Replica:
        """Return the replica that this router gives a session without Redis.

        Args:
            error: Why Redis could not be asked. Raised where there is no such replica.
            avoided: Canonical urls taken only where there is nothing else.
            excluded: Canonical urls never taken.
        """
        self.note_failure(error)
        await self.see_late()
        await self.see_recorded(error)
        replica = self.choose(avoided=avoided, excluded=excluded)
        if replica is None:
            raise error
        return replica

    def choose(self, *, avoided: Collection[str], excluded: Collection[str]) -> Replica | None:
        """Return the replica that this router may give a session without Redis; `None` where there is none."""
        preference = self._mirror.view.preference
        full = self._full()
        return self.degraded.choose(preference, avoided=avoided, excluded={*excluded, *full} if full else excluded)

    def _full(self) -> list[str]:
        """Return the canonical urls of those without room by what Redis counts and this router has to put back.

        Shares stand; this takes of them what a router was given that heard of no refused write, or heard of it earlier.
        """
        if self._mode != "share" or not self._recorded:
            return []
        own = Counter(self._ledger.missing().values())
        own.subtract(Counter(self._ledger.kept.values()))
        return [
            one.key
            for one in self._mirror.view.preference
            if 0 < one.endpoint.capacity <= self._recorded.get(one.key, 0) + own[one.key]
        ]

    async def see_recorded(self, error: StoreError) -> None:
        """Read what Redis counts by now, where it only refuses writes. Callers share a reading that begins later."""
        if self._mode != "share" or not was_refused(error):
            self._recorded = {}
            return
        self._came += 1
        came = self._came
        async with self._seeing:
            if self._covered >= came:
                return
            covers, self._recorded = self._came, {}
            endpoints = {one.key: one.endpoint for one in self._mirror.view.preference if one.endpoint.capacity}
            with contextlib.suppress(StoreError):
                self._recorded, _ = await self._reader.loads(endpoints, ramping=self._mirror.view.ramping)
                self._covered = covers

    def spared(self) -> Collection[str]:
        """Return where others may have placed sessions that Redis does not know of yet, since it refused writes."""
        if self._clock.monotonic() - self._refused_at >= SETTLING_SECONDS:
            self.was_refused = False
            return ()
        spared = self.degraded.used_up(self._mirror.view.preference)
        return spared if len(spared) <= MOST_SPARED else ()

    async def look_at_loads(self) -> None:
        """See who has how much while leases are asked for, for the case that Redis goes away."""
        acquires = self._ledger.acquires
        while True:
            await self._clock.sleep(self._refresh_seconds)
            if acquires != self._ledger.acquires:
                acquires = self._ledger.acquires
                self._used_at = self._clock.monotonic()
            if self._needs_loads() and not self.is_apart:
                with contextlib.suppress(StoreError):  # the mirror says that Redis is away
                    await self._see_loads()

    async def see_late(self) -> None:
        """Read the loads where none were seen shortly before writes began to fail: perhaps reads do not."""
        async with self._seeing:
            if self._looks_too_old() and not self._is_out:
                self._seen_at = self._clock.monotonic()  # once, also where it fails: what was seen long ago counts then
                with contextlib.suppress(StoreError):
                    await self._see_loads()

    async def _see_loads(self) -> None:
        """Read the loads, and go by them unless something is out by then that they do not count."""
        failed_at, replicas = self._failed_at, self._mirror.view.preference
        self.degraded.look()
        try:
            in_flight, routers = await self._reader.loads(
                {replica.key: replica.endpoint for replica in replicas}, ramping=self._mirror.view.ramping
            )
            if failed_at == self._failed_at and not self._is_out:
                self.degraded.see(SeenLoads(in_flight, routers), replicas, missing=self._ledger.missing())
                self._seen_at = self._clock.monotonic()
        finally:
            self.degraded.look_away()

    def _looks_too_old(self) -> bool:
        oldest = self._apart_since - 2 * self._refresh_seconds - 1
        return self._seen_at < oldest and self._mode == "share"

    def _needs_loads(self) -> bool:
        return (
            self._mode == "share"
            and self._clock.monotonic() - self._used_at < IDLE_SECONDS
            and any(replica.endpoint.capacity for replica in self._mirror.view.preference)
        )
