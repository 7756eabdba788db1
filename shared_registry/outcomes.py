"""What a router saw itself of a replica: counted for all routers or, before the registry is started, for this one."""

from __future__ import annotations

import logging
import time

from shared_registry.cooldown import Cooldown
from shared_registry.errors import StoreError
from shared_registry.health import after_failure, after_success
from shared_registry.model import ProbeResult, Replica, Thresholds
from shared_registry.shared_state import SharedState
from shared_registry.view import View

logger = logging.getLogger(__name__)


class Outcomes:
    """Counts outcomes, and never raises: what Redis cannot be told is dropped, with one line in the log."""

    def __init__(self, state: SharedState, view: View, cooldown: Cooldown) -> None:
        self.is_shared = False
        self._state = state
        self._view = view
        self._cooldown = cooldown
        self._has_reported: set[str] = set()
        self._is_dropping = False

    async def success(self, replica: Replica, thresholds: Thresholds, *, latency_ms: float) -> None:
        """Count a success."""
        if self.is_shared:
            await self._record(ProbeResult(replica.key, replica.record.incarnation, latency_ms), thresholds)
        else:
            health = after_success(replica.health, thresholds, at=time.time(), latency_ms=latency_ms)
            self._view.set_health(replica, health)

    async def failure(self, replica: Replica, thresholds: Thresholds, *, reason: str) -> None:
        """Count a failure."""
        if self.is_shared:
            await self._record(ProbeResult(replica.key, replica.record.incarnation, 0.0, reason), thresholds)
        else:
            self._view.set_health(replica, after_failure(replica.health, thresholds, at=time.time()))

    async def passive(self, replica: Replica, thresholds: Thresholds, *, ok: bool, reason: str) -> None:
        """Weigh what a session met. A success says something only where a failure was reported before it."""
        key = replica.key
        if ok:
            self._cooldown.end(key)
            if key not in self._has_reported:
                return
            self._has_reported.discard(key)
        else:
            self._cooldown.begin(key)
            self._has_reported.add(key)
        if self.is_shared:
            result = ProbeResult(key, replica.record.incarnation, 0.0, None if ok else reason)
            await self._record(result, thresholds, is_passive=True)
        elif ok:
            await self.success(replica, thresholds, latency_ms=0.0)
        else:
            await self.failure(replica, thresholds, reason=reason)

    async def _record(self, result: ProbeResult, thresholds: Thresholds, *, is_passive: bool = False) -> None:
        try:
            await self._state.record_outcome(result, thresholds, is_passive=is_passive)
        except StoreError as error:
            if not self._is_dropping:
                self._is_dropping = True
                logger.warning("router: outcomes are not counted: %s", error)
        else:
            self._is_dropping = False
