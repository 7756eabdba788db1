"""Declares panic: the leader writes an event when too few replicas are healthy, and another when enough are again.

Every router decides by its own view whether to spread sessions over all replicas. The leader records once, for all
routers, that they do so.
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
from shared_registry.model import Event, Term
from shared_registry.selection.view import View

LONGEST_WAIT_SECONDS = 1.0


class PanicStore(Protocol):
    """The part of the store that declares panic."""

    async def declare_panic(self, term: Term, why: str) -> bool:
        """Declare panic with a reason, or its end with an empty reason; return whether that was a change."""


class PanicWatch:
    """Declares the panic that this router's view shows, while this router is the leader. `run` once per term."""

    def __init__(self, store: PanicStore, view: View, *, clock: Clock, rng: random.Random) -> None:
        """Set up.

        Args:
            store: Writes the declaration.
            view: Shows whether there is panic.
            clock: Used for waits.
            rng: Used for jitter.
        """
        self._store = store
        self._view = view
        self._clock = clock
        self._backoff = Backoff(rng=rng)
        self._changed = asyncio.Event()

    def notice(self, events: Sequence[Event]) -> None:  # noqa: ARG002
        """Check the view again. For `Mirror.subscribed`."""
        self._changed.set()

    async def run(self, term: RunningTerm) -> None:
        """Declare the present state once, and then each change, as long as the term is current.

        Raises:
            Fenced: Another router is the leader.
        """
        declared: bool | None = None
        while term.is_current:
            self._changed.clear()
            panic = self._view.panic
            wait_seconds = LONGEST_WAIT_SECONDS
            if declared is not (panic is not None):
                try:
                    await self._store.declare_panic(term, str(panic or ""))
                except Fenced:
                    raise
                except StoreError:
                    wait_seconds = self._backoff.next_seconds()
                else:
                    self._backoff.reset()
                    declared = panic is not None
            await wait_until(self._clock, self._clock.monotonic() + wait_seconds, self._changed)
