"""The leader's word on panic: it tells all, by an event, when too few replicas are healthy, and when enough are again.

Every router finds by its own view whether to spread sessions over all replicas. That all do so is worth one event, and
the one that leads writes it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Protocol

from shared_registry.aio.backoff import Backoff
from shared_registry.aio.clock import Clock, wait_until
from shared_registry.errors import StoreUnavailable
from shared_registry.leader.election import RunningTerm
from shared_registry.model import Event, Term
from shared_registry.selection.view import View

LONGEST_WAIT_SECONDS = 1.0


class PanicStore(Protocol):
    """Where panic is declared."""

    async def declare_panic(self, term: Term, why: str) -> bool:
        """Say why there is panic, or that there is none; return whether that was news."""


class PanicWatch:
    """Declares what this router's view shows, while it leads. `run` once per term."""

    def __init__(self, store: PanicStore, view: View, *, clock: Clock, rng: random.Random) -> None:
        """Set up.

        Args:
            store: Where to declare it.
            view: Whose panic.
            clock: For waiting.
            rng: For jitter.
        """
        self._store = store
        self._view = view
        self._clock = clock
        self._backoff = Backoff(rng=rng)
        self._changed = asyncio.Event()

    def notice(self, events: Sequence[Event]) -> None:  # noqa: ARG002
        """Look again. For `Mirror.subscribed`."""
        self._changed.set()

    async def run(self, term: RunningTerm) -> None:
        """Declare how it is, and each change, as long as the term is current.

        Raises:
            Fenced: Another leads.
        """
        declared: bool | None = None
        while term.is_current:
            self._changed.clear()
            panic = self._view.panic
            wait_seconds = LONGEST_WAIT_SECONDS
            if declared is not (panic is not None):
                try:
                    await self._store.declare_panic(term, str(panic or ""))
                except StoreUnavailable:
                    wait_seconds = self._backoff.next_seconds()
                else:
                    self._backoff.reset()
                    declared = panic is not None
            await wait_until(self._clock, self._clock.monotonic() + wait_seconds, self._changed)
