"""Records whether Redis accepts this router's writes. The age of the view is separate, because it depends on reads.

A Redis that can be read but not written (a demoted primary, too few Redis replicas, no memory, missing rights) must not
take every router out of service, so routers go on selecting. But operators must learn of it, because there is no leader
then, and no lease is counted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from shared_registry.aio.clock import Clock
from shared_registry.errors import StoreError

CURRENT_SECONDS = 5.0
"""While the last read is not older than this, reads work and only writes fail."""
logger = logging.getLogger(__name__)


class Writability:
    """Derives writability from the heartbeats, because every heartbeat writes."""

    def __init__(self, *, read_age: Callable[[], float | None], clock: Clock) -> None:
        """Start without a recorded write.

        Args:
            read_age: Returns how long ago Redis was last read; `None` before the first read.
            clock: For ages.
        """
        self._read_age = read_age
        self._clock = clock
        self._written_at: float | None = None
        self._failing_since: float | None = None
        self._reason = ""
        self._is_reported = False

    @property
    def age_seconds(self) -> float | None:
        """How long ago a heartbeat was last accepted; `None` before the first."""
        return None if self._written_at is None else self._clock.monotonic() - self._written_at

    @property
    def failure(self) -> str | None:
        """The reason why writes fail although reads work; `None` while writes work or Redis is unavailable."""
        age = self._read_age()
        return self._reason if self._is_reported and age is not None and age <= CURRENT_SECONDS else None

    def accepted(self) -> None:
        """Record that a heartbeat was written."""
        now = self._clock.monotonic()
        if self._is_reported and self._failing_since is not None:
            logger.info("redis: writes are accepted again, after %.1f s", now - self._failing_since)
        self._written_at = now
        self._failing_since = None
        self._is_reported = False

    def refused(self, error: StoreError) -> None:
        """Record that a heartbeat was not written.

        A warning is logged once, as soon as a read has succeeded since the first failed heartbeat.
        """
        now = self._clock.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        self._reason = str(error)
        age = self._read_age()
        if not self._is_reported and age is not None and now - age > self._failing_since:
            self._is_reported = True
            seconds = now - self._failing_since
            logger.warning("redis: reads work, but writes have failed for %.1f s: %s", seconds, error)
