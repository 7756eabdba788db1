"""Counts outcomes: this router's own experience with replicas.

Outcomes count for all routers or, before the registry is started, for this router alone.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shared_registry.aio.clock import Clock
from shared_registry.errors import StoreError
from shared_registry.health import after_failure, after_success
from shared_registry.model import (
    SEVERAL_CLIENTS,
    ConnectedSessions,
    EjectionLimits,
    Event,
    EventKind,
    ProbeResult,
    Replica,
    Thresholds,
)
from shared_registry.probing.own_trouble import OwnTrouble, own_trouble
from shared_registry.probing.prober_list import ProberList
from shared_registry.probing.text import one_line
from shared_registry.probing.trouble_log import TroubleLog
from shared_registry.selection.cooldown import Cooldown
from shared_registry.selection.view import View
from shared_registry.store.commands import Store

REPORT_SECONDS = 1.0
"""While other routers probe, a session's failure only makes the prober probe: one report a second is enough."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FailedSession:
    """A session that could not connect. `at` is on the monotonic clock."""

    result: ProbeResult
    thresholds: Thresholds
    at: float


class Outcomes:
    """Counts outcomes, and never raises.

    An outcome that cannot be written to Redis is dropped, with one line in the log. A failure because of this router's
    own trouble is no failure of the replica, and is dropped too.
    """

    def __init__(
        self,
        store: Store,
        view: View,
        cooldown: Cooldown,
        trouble_log: TroubleLog,
        *,
        ejection: EjectionLimits,
        on_failed_session: Callable[[str], None],
        probers: ProberList,
        clock: Clock,
    ) -> None:
        self.is_shared = False
        self._ejection = ejection
        self._on_failed_session = on_failed_session
        self._lasting = _LastingFailures()
        self._unreached: set[str] = set()
        self._probers = probers
        self._clock = clock
        self._reported_at: dict[str, float] = {}
        self._store = store
        self._view = view
        self._cooldown = cooldown
        self._trouble_log = trouble_log
        self._has_reported: set[str] = set()
        self._failed: dict[str, FailedSession] = {}
        self._is_dropping = False

    async def success(self, replica: Replica, thresholds: Thresholds, *, latency_ms: float) -> None:
        """Count a success."""
        if self.is_shared:
            await self._record(ProbeResult(replica.key, replica.record.incarnation, latency_ms), thresholds)
        else:
            health = after_success(replica.health, thresholds, at=time.time(), latency_ms=latency_ms)
            self._view.set_health(replica, health)

    @property
    def is_in_trouble(self) -> bool:
        """Whether this router could not connect lately because of its own trouble."""
        return self._trouble_log.is_on

    async def failure(self, replica: Replica, thresholds: Thresholds, *, reason: str | BaseException) -> None:
        """Count a failure."""
        if self._own_trouble(replica, reason) is not None:
            return
        if self.is_shared:
            result = ProbeResult(replica.key, replica.record.incarnation, 0.0, one_line(str(reason)))
            await self._record(result, thresholds)
        else:
            self._view.set_health(replica, after_failure(replica.health, thresholds, at=time.time()))

    async def passive(self, replica: Replica, thresholds: Thresholds, *, ok: bool, reason: str | BaseException) -> None:
        """Count the outcome of a session. A success counts only if this router reported a failure before it."""
        key = replica.key
        if not ok and (trouble := self._own_trouble(replica, reason)) is not None:
            if not trouble.is_general:  # other replicas may be reached
                self._cooldown.begin(key)
            return
        if ok:
            self._trouble_log.connected()
            self._cooldown.end(key)
            if key not in self._has_reported and key not in self._unreached:
                return
            self._has_reported.discard(key)
            self._unreached.discard(key)
            self._failed.pop(key, None)
        else:
            self._cooldown.begin(key)
            self._has_reported.add(key)
            if self.is_shared and self._probers.has_others and self._was_reported_lately(key):
                return
        error = None if ok else one_line(str(reason)) or "connecting failed"
        result = ProbeResult(key, replica.record.incarnation, 0.0, error)
        if not ok:
            self._failed[key] = FailedSession(result, thresholds, self._clock.monotonic())
            self._on_failed_session(key)
        if self.is_shared:
            await self._record(result, thresholds, is_passive=True)
        elif ok:
            await self.success(replica, thresholds, latency_ms=0.0)
        else:
            await self.failure(replica, thresholds, reason=reason)

    async def testify(self, key: str, *, probed_at: float) -> None:
        """Count a failure to connect towards an ejection, because a probe of this router has reached the replica since.

        Args:
            key: The replica's canonical url.
            probed_at: When the probe began, or before that the lookup of the replica's name, on the monotonic clock.
        """
        failed = self._failed.get(key)
        if failed is None or failed.at > probed_at or not self.is_shared:
            return
        del self._failed[key]
        if self._ejection.max_percent > 0:
            ago = self._clock.monotonic() - failed.at
            await self._record(failed.result, failed.thresholds, is_passive=True, failed_ago_seconds=ago)

    async def connected(
        self, replica: Replica, thresholds: Thresholds, *, ok: bool, reason: str | BaseException, client: str
    ) -> None:
        """Count the outcome of a session that was connected. It changes no status, but may eject the replica.

        Failures are counted here between two reports. A success counts only if a failure was reported before it, by
        whatever router.
        """
        if not self.is_shared or self._ejection.max_percent <= 0:
            return
        if ok:
            sessions = self._lasting.end(replica.key)
        elif replica.is_ejected or self._own_trouble(replica, reason) is not None:
            return
        else:
            sessions = self._lasting.add(replica.key, client, now=self._clock.monotonic())
        if sessions is not None:
            error = None if ok else one_line(str(reason)) or "the session broke"
            result = ProbeResult(replica.key, replica.record.incarnation, 0.0, error)
            await self._record(result, thresholds, is_passive=True, sessions=sessions)

    def counts_success(self, key: str) -> bool:
        """Return whether a success of a session would change anything; it may also end this router's own trouble."""
        is_counted = key in self._unreached or key in self._lasting.awaited or key in self._lasting.unreported
        return is_counted or self._trouble_log.is_on

    def notice(self, events: Sequence[Event]) -> None:
        """Learn of failures on other routers. For `Mirror.subscribed`."""
        for event in events:
            if event.kind is EventKind.REPLICA_REPORTED:
                self._unreached.add(event.reported)
                self._lasting.expect_success(event.reported)
            elif event.kind is EventKind.REPLICA_DEREGISTERED and event.record is not None:
                self._unreached.discard(event.record.key)
                self._failed.pop(event.record.key, None)
                self._lasting.end(event.record.key)

    def _was_reported_lately(self, key: str) -> bool:
        """Return whether a failure of the replica was reported within a second. Otherwise note that it is now."""
        now = self._clock.monotonic()
        if now - self._reported_at.get(key, -math.inf) < REPORT_SECONDS:
            return True
        self._reported_at = {one: at for one, at in self._reported_at.items() if now - at < REPORT_SECONDS}
        self._reported_at[key] = now
        return False

    def _own_trouble(self, replica: Replica, reason: str | BaseException) -> OwnTrouble | None:
        trouble = own_trouble(reason, url=replica.url)
        if trouble is not None:
            self._trouble_log.note(trouble)
        return trouble

    async def _record(
        self,
        result: ProbeResult,
        thresholds: Thresholds,
        *,
        is_passive: bool = False,
        sessions: ConnectedSessions | None = None,
        failed_ago_seconds: float | None = None,
    ) -> None:
        try:
            await self._store.record_outcome(
                result,
                thresholds,
                is_passive=is_passive,
                sessions=sessions,
                failed_ago_seconds=failed_ago_seconds,
                ejection=self._ejection,
            )
        except StoreError as error:
            if not self._is_dropping:
                self._is_dropping = True
                logger.warning("router: outcomes are not counted: %s", error)
        else:
            self._is_dropping = False


class _LastingFailures:
    """Failures of connected sessions in a row on this router, by canonical url, and which of them to report when.

    Attributes:
        unreported: The failures that were not reported yet.
        awaited: The replicas whose next success is to be reported.
    """

    def __init__(self) -> None:
        self.unreported: dict[str, ConnectedSessions] = {}
        self._reported_at: dict[str, float] = {}
        self.awaited: set[str] = set()

    def expect_success(self, key: str) -> None:
        """Report the next success on a replica, because some router has reported a failure."""
        self.awaited.add(key)

    def add(self, key: str, client: str, *, now: float) -> ConnectedSessions | None:
        """Count a failure. Return what to report; `None` within a second of the last report."""
        before = self.unreported.get(key)
        if before is not None:
            client = client if client == before.client else SEVERAL_CLIENTS
        sessions = ConnectedSessions(1 if before is None else before.failures + 1, client)
        if now - self._reported_at.get(key, -math.inf) < REPORT_SECONDS:
            self.unreported[key] = sessions
            return None
        self.unreported.pop(key, None)
        self._reported_at = {one: at for one, at in self._reported_at.items() if now - at < REPORT_SECONDS}
        self._reported_at[key] = now
        self.awaited.add(key)
        return sessions

    def end(self, key: str) -> ConnectedSessions | None:
        """Forget the failures after a success. Return what to report; `None` if no failure was reported."""
        self.unreported.pop(key, None)
        if key not in self.awaited:
            return None
        self.awaited.discard(key)
        return ConnectedSessions(0)
