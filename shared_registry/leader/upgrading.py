"""Upgrades the namespace to the schema of this version, once no router of an older version has lived for a day."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol

from shared_registry.aio.backoff import Backoff
from shared_registry.aio.clock import Clock
from shared_registry.errors import StoreError
from shared_registry.leader.election import RunningTerm
from shared_registry.model import Event
from shared_registry.store.replies import Upgrade

QUIET_SECONDS = 86_400.0
"""How long no router of an older version may have lived. Until then the older version can be installed again."""
LOOK_SECONDS = 60.0


class UpgradeStore(Protocol):
    """The part of the store that upgrades."""

    async def upgrade(self, *, by: str, quiet_seconds: float) -> Upgrade:
        """Upgrade the namespace if no router of an older version has lived for that time."""


class Upgrader:
    """Upgrades while this router is the leader. `run` once per term."""

    def __init__(self, store: UpgradeStore, *, router: str, clock: Clock, rng: random.Random) -> None:
        """Set up.

        Args:
            store: Writes the schema.
            router: This router's key, for the event.
            clock: Used for waits.
            rng: Used for jitter.
        """
        self._store = store
        self._router = router
        self._clock = clock
        self._backoff = Backoff(rng=rng)

    def notice(self, events: Sequence[Event]) -> None:
        """Ignore changes: routers say their versions only in Redis."""

    async def run(self, term: RunningTerm) -> None:
        """Look once a minute, as long as the term is current. After a loss of data the schema may be the old one."""
        while term.is_current:
            try:
                await self._store.upgrade(by=self._router, quiet_seconds=QUIET_SECONDS)
            except StoreError:
                await self._clock.sleep(self._backoff.next_seconds())
            else:
                self._backoff.reset()
                await self._clock.sleep(LOOK_SECONDS)
