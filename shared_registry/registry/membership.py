"""This router among the live ones: it sends heartbeats, reaps routers that stopped, and leaves when it stops."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence

from shared_registry.aio.backoff import Backoff
from shared_registry.aio.clock import Clock
from shared_registry.errors import StoreError
from shared_registry.model import RouterInfo
from shared_registry.store.commands import Store
from shared_registry.store.replies import Heartbeat, Parting

logger = logging.getLogger(__name__)


HeartbeatCheck = Callable[[Heartbeat | StoreError], None]


class Membership:
    """Keeps one router in `routers`. One `run` at a time."""

    def __init__(
        self,
        store: Store,
        info: RouterInfo,
        *,
        heartbeat_seconds: float,
        expiry_seconds: float,
        affinity_seconds: float,
        begin_heartbeat: Callable[[], HeartbeatCheck],
        clock: Clock,
        rng: random.Random,
    ) -> None:
        """Set up; the first heartbeat joins.

        Args:
            store: Where the routers are listed.
            info: How this one presents itself.
            heartbeat_seconds: How often it sends a heartbeat.
            expiry_seconds: How long after its last heartbeat the others may reap it; over twice the heartbeat.
            affinity_seconds: How long the sessions of one that was reaped may find their replicas again.
            begin_heartbeat: Called before each heartbeat; what it returns is called with the reply, or why it
                failed.
            clock: For waiting.
            rng: For jitter.
        """
        self._store = store
        self._info = info
        self._heartbeat_seconds = heartbeat_seconds
        self._affinity_seconds = affinity_seconds
        self._begin_heartbeat = begin_heartbeat
        self._expiry_seconds = expiry_seconds
        self._clock = clock
        self._backoff = Backoff(longest_seconds=heartbeat_seconds, rng=rng)
        self._is_in_trouble = False

    async def heartbeat(self) -> Heartbeat:
        """Send one heartbeat.

        Raises:
            StoreError: Redis could not be told.
        """
        end_heartbeat = self._begin_heartbeat()
        try:
            heartbeat = await self._store.heartbeat(self._info, expiry_seconds=self._expiry_seconds)
        except StoreError as error:
            end_heartbeat(error)
            raise
        end_heartbeat(heartbeat)
        return heartbeat

    async def leave(self) -> None:
        """End this router's leases, and take it out of the live ones.

        Raises:
            StoreError: Redis could not be told; the others reap it when it has expired.
        """
        while await self._store.leave(affinity_seconds=self._affinity_seconds) is Parting.PARTIAL:
            pass

    async def run(self) -> None:
        """Send heartbeats, and reap routers that have expired, until cancelled."""
        while True:
            try:
                heartbeat = await self.heartbeat()
                next_heartbeat_at = self._clock.monotonic() + self._heartbeat_seconds
                await self._reap(heartbeat.expired, until=next_heartbeat_at)
            except StoreError as error:
                if not self._is_in_trouble:
                    self._is_in_trouble = True
                    logger.warning("router: cannot send a heartbeat: %s", error)
                await self._clock.sleep(self._backoff.next_seconds())
            else:
                if self._is_in_trouble or heartbeat.joined:
                    logger.info("router: %s is among the live routers", self._info.key)
                self._is_in_trouble = False
                self._backoff.reset()
                await self._clock.sleep(next_heartbeat_at - self._clock.monotonic())

    async def _reap(self, expired: Sequence[str], *, until: float) -> None:
        """Reap until the next heartbeat is due; its reply names those that are left."""
        for router in expired:
            parting = Parting.PARTIAL
            while parting is Parting.PARTIAL:
                if self._clock.monotonic() >= until:
                    return
                parting = await self._store.reap(router, affinity_seconds=self._affinity_seconds)
            if parting is Parting.DONE:
                logger.warning("router: %s has expired and was reaped", router)
