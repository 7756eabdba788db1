"""Schedules the probes: spread over the interval, never in bursts. Pure arithmetic on a monotonic clock."""

from __future__ import annotations

import hashlib
import heapq
import math
import random
from bisect import bisect_right
from collections.abc import Iterable, Sequence

from shared_registry.model import ReplicaRecord, ReplicaStatus

JITTER_SHARE = 0.05
PARTS = 100
"""Into how many parts of an interval due times are divided. One heap of a large fleet would not fit in a fast cache."""


def is_change_pending(status: ReplicaStatus, *, ok: bool) -> bool:
    """Return whether the next result may change the status: the replica is failing, or recovering.

    A new replica that has responded turns healthy by that.
    """
    return ok is (status is ReplicaStatus.UNHEALTHY)


def phase_of(key: str) -> float:
    """Return a replica's phase in the interval, in [0, 1). It is the same on every router."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


def next_slots(now: float, *, phases: Iterable[float], interval: float) -> list[float]:
    """Return each replica's first slot that is more than half an interval away.

    The slots of a replica are one interval apart, at its phase. However late the last probe was, the next probe is in
    the replica's slot. Missed probes are not made up for.
    """
    reached = now / interval + 0.5
    return [(math.floor(reached - phase) + 1 + phase) * interval for phase in phases]


class _ProbeTurn:
    """When a replica is due: infinity while it is being probed, and not a number once it is forgotten."""

    __slots__ = ("due", "key", "phase")

    def __init__(self, key: str) -> None:
        self.key = key
        self.phase = phase_of(key)
        self.due = math.inf

    def __lt__(self, other: _ProbeTurn) -> bool:
        """Order replicas that are due at the same time."""
        return self.key < other.key


class Schedule:
    """Keeps the next due time of every replica. Not for concurrent use: it has one owner."""

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
        self._turns: dict[str, _ProbeTurn] = {}
        self._out: set[str] = set()  # those that are dropped while they are being probed
        self._part_seconds = interval / PARTS
        self._heap: list[tuple[float, _ProbeTurn]] = []  # the first part
        self._reached = -1
        self._parts: list[int] = []
        self._later: dict[int, list[tuple[float, _ProbeTurn]]] = {}

    def __len__(self) -> int:
        """Return how many replicas are scheduled."""
        return len(self._turns)

    def add(self, record: ReplicaRecord, *, now: float, server_now: float | None = None) -> None:
        """Schedule a replica that is to be probed, unless it is scheduled.

        A new replica is due at once. At the beginning of a term, when the server's time is given, it is due at once
        only if its last probe was an interval ago or a change of status is pending; otherwise it is due in its slot. A
        replica that was dropped and comes back while its probe is under way waits for the end of that probe.
        """
        key = record.key
        if key in self._turns:
            return
        turn = self._turns[key] = _ProbeTurn(key)
        if key in self._out:
            self._out.discard(key)
        else:
            is_settled = server_now is not None and not self._is_overdue(record, server_now)
            self._set([turn], [self._first_slot(turn, now) if is_settled else now])

    def drop(self, key: str) -> None:
        """Forget a replica that is no longer probed."""
        turn = self._turns.pop(key, None)
        if turn is not None:
            if turn.due == math.inf:
                self._out.add(key)
            turn.due = math.nan

    def settle(self, key: str, status: ReplicaStatus, *, ok: bool, now: float) -> None:
        """Schedule the next probe after this result, unless the replica is no longer probed."""
        if is_change_pending(status, ok=ok):
            self.put_back(key, due=now + self._fast_interval)
        else:
            self.settle_well([key], now=now)

    def settle_well(self, keys: Sequence[str], *, now: float) -> None:
        """Schedule the next probes of replicas with no change pending; see `settle`."""
        turns = [turn for key in keys if (turn := self._turns.get(key)) is not None]
        if len(turns) < len(keys):
            self._out.difference_update(keys)
        random, jitter = self._rng.random, JITTER_SHARE * self._interval
        slots = next_slots(now, phases=[turn.phase for turn in turns], interval=self._interval)
        self._set(turns, [slot + (random() - 0.5) * jitter for slot in slots])

    def put_back(self, key: str, *, due: float) -> None:
        """Schedule a replica for that time, unless the replica is no longer probed."""
        turn = self._turns.get(key)
        if turn is None:
            self._out.discard(key)
        else:
            self._set([turn], [due])

    def hasten_next(self, now: float) -> None:
        """Make the replica that is due next due now, so that a new leader shows at once whether it can probe."""
        if now < self.next_due() < math.inf:
            self._set([self._heap[0][1]], [now])

    def hasten(self, key: str, *, now: float) -> bool:
        """Make a replica due now, because a session failed there. Return `False` if it is unknown or being probed."""
        turn = self._turns.get(key)
        if turn is None:
            return False
        if now < turn.due < math.inf:
            self._set([turn], [now])
        return turn.due < math.inf

    def pop_due(self, now: float, *, most: int) -> list[tuple[str, float]]:
        """Return the replicas that have been due for the longest time, and when they were due.

        None of them is due again until it is settled or put back.

        Args:
            now: The monotonic clock.
            most: How many to return at most.
        """
        popped: list[tuple[str, float]] = []
        while len(popped) < most and self.next_due() <= now:
            self._heap.sort()  # which is a heap, too, and cheaper than to pop one after the other
            reached = min(bisect_right(self._heap, now, key=_due_of), most - len(popped))
            due_now, self._heap = self._heap[:reached], self._heap[reached:]
            for due, turn in due_now:
                if turn.due == due:
                    turn.due = math.inf
                    popped.append((turn.key, due))
        return popped

    def next_due(self) -> float:
        """Return when the next replica is due; infinity if no replica is scheduled."""
        while True:
            heap = self._heap
            while heap:
                due, turn = heap[0]
                if turn.due == due:
                    return due
                heapq.heappop(heap)
            if not self._parts:
                return math.inf
            self._reached = heapq.heappop(self._parts)
            self._heap = self._later.pop(self._reached)
            heapq.heapify(self._heap)

    def _set(self, turns: Sequence[_ProbeTurn], dues: Iterable[float]) -> None:
        reached, part_seconds, later = self._reached, self._part_seconds, self._later
        for turn, due in zip(turns, dues, strict=True):
            turn.due = due
            part = int(due / part_seconds)
            if part <= reached:
                heapq.heappush(self._heap, (due, turn))
            elif part in later:
                later[part].append((due, turn))
            else:
                later[part] = [(due, turn)]
                heapq.heappush(self._parts, part)

    def _first_slot(self, turn: _ProbeTurn, now: float) -> float:
        return next_slots(now - self._interval / 2, phases=[turn.phase], interval=self._interval)[0]

    def _is_overdue(self, record: ReplicaRecord, server_now: float) -> bool:
        health = record.health
        last = max(health.last_ok_at or 0.0, health.last_failure_at or 0.0)
        ok = (health.last_ok_at or 0.0) >= (health.last_failure_at or 0.0)
        is_pending = health.status is ReplicaStatus.UNKNOWN or is_change_pending(health.status, ok=ok)
        return server_now - last >= self._interval or last > server_now or is_pending


def _due_of(entry: tuple[float, _ProbeTurn]) -> float:
    return entry[0]
