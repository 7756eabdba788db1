"""Which successes of settled replicas Redis is told of.

Such a success changes nothing but the time of the last answer and its latency. In a small fleet each is reported. In
a large one all of them together are about `REPORTS_A_SECOND`, and each replica has its turn within a minute. Whatever
may matter is reported at once: each other result, and each result of a replica about which anything was said lately.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from shared_registry.leader.schedule import phase_of
from shared_registry.model import NO_DOUBT, ReplicaRecord, ReplicaStatus

REPORTS_A_SECOND = 100
LONGEST_SILENCE_SECONDS = 60.0
"""How long ago the last answer that Redis knows of may be, beside an interval. `record_outcome.lua` has both too."""
SHORTEST_SECONDS = 1e-6
"""No silence: two probes of a replica are never so close to each other."""
WATCHED_SECONDS = 60.0
"""For how long each result of a replica is reported after a failure, a doubt, or a session that failed there."""


class Sampling:
    """Decides it for the replicas of one authority. Pure."""

    def __init__(self, *, interval_seconds: float) -> None:
        """Set up.

        Args:
            interval_seconds: Seconds between two probes of a settled replica.
        """
        self._interval_seconds = interval_seconds
        self._silence_seconds = SHORTEST_SECONDS
        self._count = 0
        self._told: dict[str, tuple[float, float]] = {}  # when, and the replica's phase
        self._silent_until: dict[str, float] = {}  # as far as that was computed
        self._watched_until: dict[str, float] = {}

    def watch(self, key: str, *, now: float) -> None:
        """Report each result of a replica for some time."""
        self._watched_until[key] = now + WATCHED_SECONDS

    def forget(self, key: str) -> None:
        """Forget a replica."""
        self._told.pop(key, None)
        self._silent_until.pop(key, None)
        self._watched_until.pop(key, None)

    def has_to_tell(self, record: ReplicaRecord, *, ok: bool, now: float) -> bool:
        """Return whether to report a result, which is taken to be reported then.

        Args:
            record: The replica, as this router knows it at the end of the probe.
            ok: Whether the probe succeeded.
            now: The monotonic clock.
        """
        key = record.key
        if not ok or not is_settled(record):
            if record.health.status is ReplicaStatus.HEALTHY:
                self.watch(key, now=now)
            self._told.pop(key, None)
            self._silent_until.pop(key, None)
            return True
        return bool(self.successes_to_tell([key], now=now))

    def successes_to_tell(self, keys: Sequence[str], *, now: float) -> list[str]:
        """Return which successes of settled replicas to report. These are taken to be reported then.

        Args:
            keys: The replicas, which are settled; see `is_settled`.
            now: The monotonic clock.
        """
        silent_until = self._silent_until.get
        due = [key for key in keys if now >= silent_until(key, now) and not self._is_told(key, now)]
        if self._watched_until:
            due += [key for key in keys if self._is_watched(key, now) and key not in due]
        for key in due:
            told = self._told.get(key)
            phase = phase_of(key) if told is None else told[1]
            self._told[key] = now, phase
            self._silent_until[key] = self._end_of_part(now, phase)
        if len(self._told) != self._count:
            self._count = len(self._told)
            former, self._silence_seconds = self._silence_seconds, self._silence()
            if self._silence_seconds != former:
                self._silent_until.clear()
        return due

    def _is_told(self, key: str, now: float) -> bool:
        """Return whether a success of this part of the time was reported, and remember until when that is so."""
        told = self._told.get(key)
        if told is None:
            return False
        self._silent_until[key] = until = self._end_of_part(*told)
        return now < until

    def _end_of_part(self, at: float, phase: float) -> float:
        """Return when the part of the time ends in which this moment is.

        Time is divided into equal parts, one report in each. Every replica's parts begin at another time.
        """
        silence = self._silence_seconds
        return (math.floor(at / silence + phase) + 1 - phase) * silence

    def _silence(self) -> float:
        """Return how long the parts are: doubled intervals, so that few changes of the fleet change them."""
        most = min(self._count / REPORTS_A_SECOND, LONGEST_SILENCE_SECONDS)
        doublings = math.floor(math.log2(max(most / self._interval_seconds, 1.0)))
        return self._interval_seconds * 2**doublings if doublings else SHORTEST_SECONDS

    def _is_watched(self, key: str, now: float) -> bool:
        until = self._watched_until.get(key)
        if until is not None and until <= now:
            del self._watched_until[key]
            return False
        return until is not None


def is_settled(record: ReplicaRecord) -> bool:
    """Return whether a success says nothing new of a replica."""
    health = record.health
    is_well = health.status is ReplicaStatus.HEALTHY and not health.consecutive_failures
    return is_well and record.doubt is NO_DOUBT and record.ejected_until is None
