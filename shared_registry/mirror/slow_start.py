"""A router's own part in slow start: a replica that turned healthy not long ago has only a part of its weight.

What Redis says is when a replica turned healthy and how long it ramps; from then on the local clock counts, so that
selecting looks at none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from shared_registry.aio.clock import Clock, wait_until
from shared_registry.errors import StoreError
from shared_registry.mirror.mirror import Mirror
from shared_registry.model import LEAST_RAMP_SHARE, Event, ReplicaRecord
from shared_registry.store.reader import Reader

STEPS = 20
SHORTEST_STEP_SECONDS, LONGEST_STEP_SECONDS = 0.1, 1.0
MARGIN_SECONDS = 10.0
"""For how long after a ramp its replica's ready score may still say more than its load: while nobody leads."""


@dataclass(frozen=True, slots=True)
class _Ramp:
    since: float
    began_at: float
    seconds: float


class SlowStart:
    """Tells the view which part of its weight each replica has. One `run` at a time."""

    def __init__(self, reader: Reader, mirror: Mirror, *, clock: Clock) -> None:
        """Set up.

        Args:
            reader: For the server's time.
            mirror: Says which replicas ramp up; its view is told how far.
            clock: For that.
        """
        self._reader = reader
        self._mirror = mirror
        self._clock = clock
        self._ramps: dict[str, _Ramp] = {}
        self._is_news = True
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Advance the ramps, until cancelled."""
        self._is_news = True
        with self._mirror.subscribed(self._notice):
            while True:
                self._changed.clear()
                if self._is_news:
                    self._is_news = False
                    await self._begin()
                await wait_until(self._clock, self._clock.monotonic() + self._step(), self._changed)

    def _notice(self, events: Sequence[Event]) -> None:
        if not events or any(
            event.record and (event.record.slow_start_seconds is not None or event.record.key in self._ramps)
            for event in events
        ):
            self._is_news = True
            self._changed.set()

    async def _begin(self) -> None:
        """Find out since when those ramp that were not known to."""
        marked = [replica.record for replica in self._mirror.view.all() if _is_marked(replica.record)]
        known = {
            record.key: ramp
            for record in marked
            if (ramp := self._ramps.get(record.key)) and ramp.since == record.status_since
        }
        if len(known) < len(marked):
            try:
                server_now: float | None = await self._reader.server_time()
            except StoreError:  # their events have just come, then
                server_now = None
            now = self._clock.monotonic()
            for record in marked:
                if record.key not in known and (ramp := _begun(record, now, server_now)):
                    known[record.key] = ramp
        self._ramps = known

    def _step(self) -> float:
        """Show how far they are, and return when to do so again."""
        now = self._clock.monotonic()
        self._ramps = {
            key: ramp for key, ramp in self._ramps.items() if now - ramp.began_at < ramp.seconds + MARGIN_SECONDS
        }
        shares: dict[str, float] = {}
        wait_seconds = MARGIN_SECONDS if self._ramps else 3600.0
        for key, ramp in self._ramps.items():
            step = int((now - ramp.began_at) / ramp.seconds * STEPS)
            if step < STEPS:
                # In steps, so that those that ramp alike have the same weight, which spares policies work.
                shares[key] = max(LEAST_RAMP_SHARE, step / STEPS)
                wait_seconds = min(wait_seconds, step_seconds(ramp.seconds))
        self._mirror.view.ramp(shares, self._ramps.keys())
        return wait_seconds


def step_seconds(slow_start_seconds: float) -> float:
    """Return how often a ramp of that length is advanced."""
    return min(max(slow_start_seconds / STEPS, SHORTEST_STEP_SECONDS), LONGEST_STEP_SECONDS)


def _is_marked(record: ReplicaRecord) -> bool:
    return record.slow_start_seconds is not None and record.is_selectable


def _begun(record: ReplicaRecord, now: float, server_now: float | None) -> _Ramp | None:
    """Return the ramp of a replica; `None` where it is over, or lies ahead since the server's clock was set back."""
    since, seconds = record.status_since, record.slow_start_seconds
    if since is None or not seconds:
        return None
    elapsed = 0.0 if server_now is None else server_now - since
    if not -1.0 < elapsed < seconds + MARGIN_SECONDS:
        return None
    return _Ramp(since, now - max(elapsed, 0.0), seconds)
