"""A router's own part of slow start: a replica that turned healthy a short time ago has only a share of its weight.

Redis stores when a replica turned healthy and how long it ramps. This router converts that to its own clock once, and
then updates the share in steps, so that a selection reads no clock.
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
"""How long after a ramp the replica's ready score may still differ from its load, because there is no leader."""


@dataclass(frozen=True, slots=True)
class _Ramp:
    since: float
    began_at: float
    seconds: float


class SlowStart:
    """Updates the share of its weight that each replica of a view has. Only one `run` may be active."""

    def __init__(self, reader: Reader, mirror: Mirror, *, clock: Clock) -> None:
        """Read nothing yet; `run` does.

        Args:
            reader: Reads the server's time.
            mirror: Its records name the replicas that ramp up; its view receives the shares.
            clock: For measuring the ramps and for waiting.
        """
        self._reader = reader
        self._mirror = mirror
        self._clock = clock
        self._ramps: dict[str, _Ramp] = {}
        self._has_changes = True
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Advance the ramps until cancelled."""
        self._has_changes = True
        with self._mirror.subscribed(self._notice):
            while True:
                self._changed.clear()
                if self._has_changes:
                    self._has_changes = False
                    await self._begin()
                wait_seconds = self._step()
                while not self._mirror.view.settle():  # noqa: ASYNC110  each call does a piece
                    await asyncio.sleep(0)
                await wait_until(self._clock, self._clock.monotonic() + wait_seconds, self._changed)

    def _notice(self, events: Sequence[Event]) -> None:
        if not events or any(
            record.slow_start_seconds is not None or record.key in self._ramps
            for event in events
            for record in event.carried
        ):
            self._has_changes = True
            self._changed.set()

    async def _begin(self) -> None:
        """Find the replicas that ramp up, and compute the start of each ramp that is new."""
        marked = [replica.record for replica in self._mirror.view.all() if _is_marked(replica.record)]
        known = {
            record.key: ramp
            for record in marked
            if (ramp := self._ramps.get(record.key)) and ramp.since == record.status_since
        }
        if len(known) < len(marked):
            try:
                server_now: float | None = await self._reader.server_time()
            except StoreError:  # then assume that their ramps have just begun
                server_now = None
            now = self._clock.monotonic()
            for record in marked:
                if record.key not in known and (ramp := _begun(record, now, server_now)):
                    known[record.key] = ramp
        self._ramps = known

    def _step(self) -> float:
        """Update the shares in the view. Return the time until the next update, in seconds."""
        now = self._clock.monotonic()
        self._ramps = {
            key: ramp for key, ramp in self._ramps.items() if now - ramp.began_at < ramp.seconds + MARGIN_SECONDS
        }
        shares: dict[str, float] = {}
        wait_seconds = MARGIN_SECONDS if self._ramps else 3600.0
        for key, ramp in self._ramps.items():
            step = int((now - ramp.began_at) / ramp.seconds * STEPS)
            if step < STEPS:
                # Shares change in steps, so that replicas with equal ramps have equal weights; policies then do less.
                shares[key] = max(LEAST_RAMP_SHARE, step / STEPS)
                wait_seconds = min(wait_seconds, step_seconds(ramp.seconds))
        self._mirror.view.ramp(shares, self._ramps.keys())
        return wait_seconds


def step_seconds(slow_start_seconds: float) -> float:
    """Return the time between two steps of a ramp of that length, in seconds."""
    return min(max(slow_start_seconds / STEPS, SHORTEST_STEP_SECONDS), LONGEST_STEP_SECONDS)


def _is_marked(record: ReplicaRecord) -> bool:
    return record.slow_start_seconds is not None and record.is_selectable


def _begun(record: ReplicaRecord, now: float, server_now: float | None) -> _Ramp | None:
    """Return a replica's ramp on this router's clock.

    Return `None` if the ramp is over, or begins in the future because the server's clock was set back.
    """
    since, seconds = record.status_since, record.slow_start_seconds
    if since is None or not seconds:
        return None
    elapsed = 0.0 if server_now is None else server_now - since
    if not -1.0 < elapsed < seconds + MARGIN_SECONDS:
        return None
    return _Ramp(since, now - max(elapsed, 0.0), seconds)
