"""Tells in the log when this router begins to be unable to connect by its own fault, and when that is over."""

from __future__ import annotations

import logging

from shared_registry.aio.clock import Clock
from shared_registry.probing.own_trouble import OwnTrouble

QUIET_SECONDS = 10.0
"""How long nothing must have failed for a success to end it: at a limit, failures and successes alternate."""
logger = logging.getLogger(__name__)


class TroubleLog:
    """One warning for each reason when trouble begins, one line when it ends, whoever met it: probes or sessions."""

    def __init__(self, *, quiet_seconds: float, clock: Clock) -> None:
        """Set up.

        Args:
            quiet_seconds: See `QUIET_SECONDS`; more where replicas are probed less often.
            clock: For that.
        """
        self._quiet_seconds = quiet_seconds
        self._clock = clock
        self._reasons: set[str] = set()
        self._failed = 0
        self._last_at = 0.0

    @property
    def is_on(self) -> bool:
        """Whether there was trouble, and it has not ended yet."""
        return bool(self._reasons)

    def note(self, trouble: OwnTrouble) -> None:
        """Count a connection that could not be tried."""
        self._last_at = self._clock.monotonic()
        self._failed += 1
        reason = str(trouble)
        if reason not in self._reasons:
            self._reasons.add(reason)
            logger.warning(
                "router: cannot connect to replicas: %s; nothing is held against them; %s", reason, trouble.remedy
            )

    def connected(self) -> None:
        """Take note of a success."""
        if self._reasons and self._clock.monotonic() - self._last_at >= self._quiet_seconds:
            logger.info(
                "router: connects to replicas again; %d attempts have failed: %s",
                self._failed,
                ", ".join(sorted(self._reasons)),
            )
            self._reasons.clear()
            self._failed = 0
