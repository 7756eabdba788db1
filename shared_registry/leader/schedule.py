"""When each replica is probed next: spread over the interval, never in bursts. Pure arithmetic on a monotonic clock."""

from __future__ import annotations

import hashlib
import heapq
import math
import random
from collections.abc import Iterable

from shared_registry.model import ReplicaRecord, ReplicaStatus

JITTER_SHARE = 0.05


def is_change_pending(status: ReplicaStatus, *, ok: bool) -> bool:
    """Return whether the next result may change a status: unknown, failing, or recovering."""
    if status is ReplicaStatus.UNKNOWN:
        return True
    return ok is (status is ReplicaStatus.UNHEALTHY)


def phase_of(key: str) -> float:
    """Return a replica's place in the interval, in [0, 1): the same on every router."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


def next_slot(now: float, *, phase: float, interval: float) -> float:
    """Return the replica's first slot that is more than half an interval away.

    Slots are one interval apart, at its phase. However late the last probe was, the next one comes once, in its
    slot: what was missed is not made up for.
    """
    offset = phase * interval
    return (math.floor((now + interval / 2 - offset) / interval) + 1) * interval + offset


class Schedule:
    """The next due time of every replica. Not concurrent: one owner."""

    def __init__(self, *, interval: float, fast_interval: float, rng: random.Random) -> None:
        """Start empty.

        Args:
            interval: Seconds between two probes of a settled replica.
            fast_interval: Seconds until the next probe while a change is pending.
            rng: For jitter.
        """
        self._interval = interval
        self._fast_interval = min(fast_interval, interval)
        self._rng = rng
        self._due: dict[str, float] = {}
        self._out: set[str] = set()
        self._heap: list[tuple[float, str]] = []

    def __len__(self) -> int:
        """Return how many replicas are scheduled."""
        return len(self._due)

    def follow(self, records: Iterable[ReplicaRecord], *, now: float, server_now: float | None = None) -> None:
        """Schedule the replicas that are new here, and forget those that are no longer probed.

        A new one is due at once; but where the server's time is given (a term begins), only if its last probe is
        an interval ago or a change is pending, and otherwise in its slot. One that went and came back while its
        probe was under way waits for the end of that.
        """
        probed = {record.key: record for record in records if record.is_probed}
        for key in self._due.keys() - probed.keys():
            del self._due[key]
        for key in probed.keys() - self._due.keys():
            is_settled = server_now is not None and not self._is_overdue(probed[key], server_now)
            if key in self._out:
                self._due[key] = math.inf
            else:
                self._set(key, self._first_slot(key, now) if is_settled else now)

    def settle(self, key: str, status: ReplicaStatus, *, ok: bool, now: float) -> None:
        """Schedule the probe after this result, unless the replica is no longer probed."""
        self._out.discard(key)
        if key not in self._due:
            return
        if is_change_pending(status, ok=ok):
            self._set(key, now + self._fast_interval)
        else:
            jitter = (self._rng.random() - 0.5) * JITTER_SHARE * self._interval
            self._set(key, next_slot(now, phase=phase_of(key), interval=self._interval) + jitter)

    def put_back(self, key: str, *, due: float) -> None:
        """Schedule a replica for which there is no result, unless it is no longer probed."""
        self._out.discard(key)
        if key in self._due:
            self._set(key, due)

    def hasten(self, now: float) -> None:
        """Let the replica that is due next be due now, at the latest: a new leader shows at once that it can probe."""
        if now < self.next_due() < math.inf:
            self._set(self._heap[0][1], now)

    def pop_due(self, now: float) -> str | None:
        """Return a replica that is due, longest first; it stays out until it is settled or put back."""
        while self._heap and self._heap[0][0] <= now:
            due, key = heapq.heappop(self._heap)
            if self._due.get(key) == due:
                self._due[key] = math.inf
                self._out.add(key)
                return key
        return None

    def next_due(self) -> float:
        """Return when the next replica is due; infinity if none is."""
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
        return server_now - last >= self._interval or last > server_now or is_change_pending(health.status, ok=ok)
