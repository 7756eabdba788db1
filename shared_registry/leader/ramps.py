"""The leader's part in slow start: it updates the ready scores of replicas that ramp up, as time passes.

A replica that turns healthy while `slow_start_seconds` is in force is marked in its hash. Every script that changes the
replica gives it the ready score of that moment. The leader updates the score in between, and at the end of the ramp.
The next leader finds the marks and goes on.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Protocol

from shared_registry.aio.backoff import Backoff
from shared_registry.aio.clock import Clock, wait_until
from shared_registry.errors import Fenced, StoreError
from shared_registry.leader.election import RunningTerm
from shared_registry.mirror.slow_start import step_seconds
from shared_registry.model import Event, Term
from shared_registry.selection.view import View

URLS_AT_ONCE = 100
LONGEST_WAIT_SECONDS = 1.0


class RampStore(Protocol):
    """The part of the store that updates ready scores."""

    async def advance_ramps(self, term: Term, urls: Sequence[str], *, slow_start_seconds: float) -> list[str]:
        """Update the ready scores of these replicas; return the urls of those that still ramp up."""


class Ramps:
    """Advances the ramps that this router's view shows, while this router is the leader. `run` once per term."""

    def __init__(
        self, store: RampStore, view: View, *, slow_start_seconds: float, clock: Clock, rng: random.Random
    ) -> None:
        """Set up.

        Args:
            store: Updates the ready scores.
            view: Shows which replicas ramp up.
            slow_start_seconds: How long a replica ramps up that turns healthy in this router's term; 0 for no ramp.
            clock: Used for waits.
            rng: Used for jitter.
        """
        self._store = store
        self._view = view
        self._slow_start_seconds = slow_start_seconds
        self._clock = clock
        self._backoff = Backoff(rng=rng)
        self._changed = asyncio.Event()
        self._over: dict[str, float | None] = {}

    def notice(self, events: Sequence[Event]) -> None:
        """Check the marks again. For `Mirror.subscribed`; no events mean that anything may have changed."""
        if not events or any(one.slow_start_seconds is not None for event in events for one in event.carried):
            self._changed.set()

    async def run(self, term: RunningTerm) -> None:
        """Write `slow_start_seconds` to Redis, and advance the ramps, as long as the term is current.

        Returns early if no replica ramps up and slow start is off.

        Raises:
            Fenced: Another router is the leader.
        """
        self._over.clear()
        is_said = False
        while term.is_current:
            self._changed.clear()
            marked = self._marked()
            wait_seconds = step_seconds(min(marked.values())) if marked else LONGEST_WAIT_SECONDS
            if marked or not is_said:
                try:
                    await self._advance(term, list(marked))
                except Fenced:
                    raise
                except StoreError:
                    wait_seconds = self._backoff.next_seconds()
                else:
                    self._backoff.reset()
                    is_said = True
            elif self._slow_start_seconds <= 0:
                return
            if marked:
                await self._clock.sleep(wait_seconds)
            else:
                await wait_until(self._clock, self._clock.monotonic() + wait_seconds, self._changed)

    def _marked(self) -> dict[str, float]:
        """Return the length of the ramp, in seconds, of each marked replica whose ramp is not known to be over."""
        return {
            record.key: record.slow_start_seconds
            for record in (replica.record for replica in self._view.all())
            if record.slow_start_seconds is not None
            and (record.key not in self._over or self._over[record.key] != record.status_since)
        }

    async def _advance(self, term: RunningTerm, urls: Sequence[str]) -> None:
        for at in range(0, max(len(urls), 1), URLS_AT_ONCE):
            chunk = urls[at : at + URLS_AT_ONCE]
            since = {url: replica.record.status_since for url in chunk if (replica := self._view.get(url))}
            left = await self._store.advance_ramps(term, chunk, slow_start_seconds=self._slow_start_seconds)
            self._over |= {url: since[url] for url in since.keys() - set(left)}
