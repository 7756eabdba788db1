"""This router's place among the live ones: it beats, reaps those that stopped, and leaves when it stops."""

from __future__ import annotations

import logging
import random

from shared_registry.backoff import Backoff
from shared_registry.clock import Clock
from shared_registry.errors import StoreError
from shared_registry.model import RouterInfo
from shared_registry.store import Beat, Store

logger = logging.getLogger(__name__)


class Membership:
    """Keeps one router in `routers`. One `run` at a time."""

    def __init__(
        self,
        store: Store,
        info: RouterInfo,
        *,
        heartbeat_seconds: float,
        expiry_seconds: float,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        """Set up; the first `beat` joins.

        Args:
            store: Where the routers are listed.
            info: How this one presents itself.
            heartbeat_seconds: How often it beats.
            expiry_seconds: How long after its last beat the others may reap it; over twice the heartbeat.
            clock: For waiting.
            rng: For jitter.
        """
        self._store = store
        self._info = info
        self._heartbeat_seconds = heartbeat_seconds
        self._expiry_seconds = expiry_seconds
        self._clock = clock
        self._backoff = Backoff(longest_seconds=heartbeat_seconds, rng=rng)
        self._is_in_trouble = False

    async def beat(self) -> Beat:
        """Beat once.

        Raises:
            StoreError: Redis could not be told.
        """
        return await self._store.heartbeat(self._info, expiry_seconds=self._expiry_seconds)

    async def run(self) -> None:
        """Beat, and reap who has expired, until cancelled."""
        while True:
            try:
                beat = await self.beat()
                for router in beat.expired:
                    if await self._store.reap(router):
                        logger.warning("router: %s has expired and was reaped", router)
            except StoreError as error:
                if not self._is_in_trouble:
                    self._is_in_trouble = True
                    logger.warning("router: cannot beat: %s", error)
                await self._clock.sleep(self._backoff.next_seconds())
            else:
                if self._is_in_trouble or beat.joined:
                    logger.info("router: %s is among the live routers", self._info.key)
                self._is_in_trouble = False
                self._backoff.reset()
                await self._clock.sleep(self._heartbeat_seconds)
