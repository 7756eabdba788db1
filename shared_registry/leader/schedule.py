"""Schedules the probes: spread over the interval, never in bursts. Pure arithmetic on a monotonic clock."""

from __future__ import annotations

import functools
import hashlib
import heapq
import math
import random

from shared_registry.model import ReplicaRecord, ReplicaStatus

JITTER_SHARE = 0.05


def is_change_pending(status: ReplicaStatus, *, ok: bool) -> bool:
    """Return whether the next result may change the status: the replica is failing, or recovering.

    A new replica that has responded turns healthy by that.
    """
    return ok is (status is ReplicaStatus.UNHEALTHY)


@functools.lru_cache(maxsize=100_000)
def phase_of(key: str) -> float:
    """Return a replica's phase in the interval, in [0, 1). It is the same on every router."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


def next_slot(now: float, *, phase: float, interval: float) -> float:
    """Return the replica's first slot that is more than half an interval away.

    The slots of a replica are one interval apart, at its phase. However late the last probe was, the next probe is in
    the replica's slot. Missed probes are not made up for.
    """
    offset = phase * interval
    return (math.floor((now + interval / 2 - offset) / interval) + 1) * interval + offset


class Schedule:
    """Keeps the next due time of every replica. Not for concurrent use: it has one owner.

    Attributes:
        popped_due: When the replica was due that `pop_due` has returned last.
    """

    def __init__(self, *, interval: float, fast_interval: float, rng: random.Random) -> None:
        """Set up, without replicas.

        Args:
            interval: Seconds between two probes of a settled replica.
            fast_interval: Seconds until the next probe while a change of status is pending.
            rng: Used for jitter.
        """
        self._interval = interval
        self._fast_interval = min(fast_interval, interval)
        self._rng = rng
        self.popped_due = 0.0
        self._due: dict[str, float] = {}
        self._out: set[str] = set()
        self._heap: list[tuple[float, str]] = []

    def __len__(self) -> int:
        """Return how many replicas are scheduled."""
        return len(self._due)

    def add(self, record: ReplicaRecord, *, now: float, server_now: float | None = None) -> None:
        """Schedule a replica that is to be probed, unless it is scheduled.

        A new replica is due at once. At the beginning of a term, when the server's time is given, it is due at once
        only if its last probe was an interval ago or a change of status is pending; otherwise it is due in its slot. A
        replica that was dropped and comes back while its probe is under way waits for the end of that probe.
        """
        key = record.key
        if key in self._due:
            return
        if key in self._out:
            self._due[key] = math.inf
        else:
            is_settled = server_now is not None and not self._is_overdue(record, server_now)
            self._set(key, self._first_slot(key, now) if is_settled else now)

    def drop(self, key: str) -> None:
        """Forget a replica that is no longer probed."""
        self._due.pop(key, None)

    def settle(self, key: str, status: ReplicaStatus, *, ok: bool, now: float) -> None:
        """Schedule the next probe after this result, unless the replica is no longer probed."""
        self._out.discard(key)
        if key not in self._due:
            return
        if is_change_pending(status, ok=ok):
            self._set(key, now + self._fast_interval)
        else:
            jitter = (self._rng.random() - 0.5) * JITTER_SHARE * self._interval
            self._set(key, next_slot(now, phase=phase_of(key), interval=self._interval) + jitter)

    def put_back(self, key: str, *, due: float) -> None:
        """Schedule a replica whose probe had no result, unless the replica is no longer probed."""
        self._out.discard(key)
        if key in self._due:
            self._set(key, due)

    def hasten_next(self, now: float) -> None:
        """Make the replica that is due next due now, so that a new leader shows at once whether it can probe."""
        if now < self.next_due() < math.inf:
            self._set(self._heap[0][1], now)

    def hasten(self, key: str, *, now: float) -> bool:
        """Make a replica due now, because a session failed there. Return `False` if it is unknown or being probed."""
        due = self._due.get(key, math.inf)
        if now < due < math.inf:
            self._set(key, now)
        return due < math.inf

    def pop_due(self, now: float) -> str | None:
        """Return the replica that has been due for the longest time, or `None`.

        It is not due again until it is settled or put back.
        """
        while self._heap and self._heap[0][0] <= now:
            due, key = heapq.heappop(self._heap)
            if self._due.get(key) == due:
                self._due[key] = math.inf
                self._out.add(key)
                self.popped_due = due
                return key
        return None

    def next_due(self) -> float:
        """Return when the next replica is due; infinity if no replica is scheduled."""
        while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else math.inf

    def _set(self, key: str, due: float) -> None:
        self._due[key] = due
        heapq.heappush(self._heap, (due, key))

    def _first_slot(self, key: str, now: float) -> float:
        return next_slot(now - self._interval / 2, phase=phase_of(key), interval=self._interval)

    def _is_overdue(self, record: ReplicaRecord, server_now: float) -> bool:
        health = record.health
        last = max(health.last_ok_at or 0.0, health.last_failure_at or 0.0)
        ok = (health.last_ok_at or 0.0) >= (health.last_failure_at or 0.0)
        is_pending = health.status is ReplicaStatus.UNKNOWN or is_change_pending(health.status, ok=ok)
        return server_now - last >= self._interval or last > server_now or is_pending
