"""Logs the beginning and the end of a time in which this router cannot connect to replicas for reasons of its own."""

from __future__ import annotations

import logging

from shared_registry.aio.clock import Clock
from shared_registry.probing.own_trouble import OwnTrouble

QUIET_SECONDS = 10.0
"""The time without a failure after which a success ends the trouble. Near a limit, failures and successes alternate."""
FORGET_SECONDS = 60.0
"""A router that tries no connection any more, because it leads no longer, is not in trouble for ever."""
LONGEST_REASON = 200
logger = logging.getLogger(__name__)


class TroubleLog:
    """Logs one warning for each reason when trouble begins, and one line when it ends; for both probes and sessions."""

    def __init__(self, *, quiet_seconds: float, clock: Clock) -> None:
        """Create the log.

        Args:
            quiet_seconds: See `QUIET_SECONDS`; a longer time if replicas are probed less often.
            clock: The clock that measures this time.
        """
        self._quiet_seconds = quiet_seconds
        self._clock = clock
        self._reasons: set[str] = set()
        self._failed = 0
        self._last_at = 0.0

    @property
    def is_on(self) -> bool:
        """Whether trouble has begun, has not ended yet, and was noticed within `FORGET_SECONDS`."""
        return bool(self._reasons) and bool(self.reason)  # usually there is none, and the time need not be read

    @property
    def reason(self) -> str:
        """Why this router cannot connect, on one line; empty if there is no trouble, or none was noticed lately."""
        if self._clock.monotonic() - self._last_at >= max(FORGET_SECONDS, self._quiet_seconds):
            return ""
        return "; ".join(sorted(self._reasons))[:LONGEST_REASON]

    def note(self, trouble: OwnTrouble) -> None:
        """Count a connection that could not be tried. Log the trouble if its reason is new."""
        self._last_at = self._clock.monotonic()
        self._failed += 1
        reason = str(trouble)
        if reason not in self._reasons:
            self._reasons.add(reason)
            logger.warning(
                "router: cannot connect to replicas: %s; not counted as failures of replicas; %s",
                reason,
                trouble.remedy,
            )

    def connected(self) -> None:
        """Record a success. It ends the trouble if the last failure is long enough ago."""
        if self._reasons and self._clock.monotonic() - self._last_at >= self._quiet_seconds:
            logger.info(
                "router: connects to replicas again; %d attempts have failed: %s",
                self._failed,
                ", ".join(sorted(self._reasons)),
            )
            self._reasons.clear()
            self._failed = 0
