"""Counts what happens in one pool's registry, as a listener of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from shared_registry import happenings as h

if TYPE_CHECKING:
    from shared_registry.telemetry.collector import Samples  # which imports prometheus_client

ELECTED = "elected"
TERM_ENDS = (ELECTED, *(end.value for end in h.TermEnd))
RESYNCS = ("start", "missed", "lost_write", "history", "repaired", "damaged")
LEASE_ENDS = tuple(end.value for end in h.LeaseEnd if end is not h.LeaseEnd.RELEASED)


class Happened:
    """What has happened so far. `listen` is the listener. It does without what happens with every session.

    Attributes:
        transitions: How often each replica turned healthy or unhealthy, by its canonical url, where to, and the cause.
    """

    def __init__(self) -> None:
        self.transitions: Counter[tuple[str, str, str]] = Counter()
        self._terms: Counter[str] = Counter()
        self._leases_ended: Counter[str] = Counter()
        self._routers: Counter[str] = Counter()
        self._suspicions: Counter[str] = Counter()
        self._resyncs: Counter[str] = Counter()
        self._histories: Counter[str] = Counter()
        self._put_back = 0
        self._reactions: Mapping[type[h.Happening], Callable[[Any], None]] = {
            h.ReplicaHealthy: self._healthy,
            h.ReplicaUnhealthy: self._unhealthy,
            h.ReplicaSuspected: lambda _: _add(self._suspicions, "suspected"),
            h.ReplicaCleared: lambda _: _add(self._suspicions, "cleared"),
            h.TermBegan: lambda _: _add(self._terms, ELECTED),
            h.TermEnded: lambda one: _add(self._terms, one.end.value),
            h.LeaseEnded: lambda one: _add(self._leases_ended, one.end.value),
            h.LeasesPutBack: self._was_put_back,
            h.RouterExpired: lambda _: _add(self._routers, "expired"),
            h.RouterLeft: lambda _: _add(self._routers, "left"),
            h.ViewLoaded: lambda one: _add(self._resyncs, one.reason),
            h.HistoryLost: lambda _: _add(self._histories, "lost"),
            h.HistoryRestored: lambda _: _add(self._histories, "restored"),
        }

    def listen(self, happening: h.Happening) -> None:
        """Count a happening."""
        reaction = self._reactions.get(type(happening))
        if reaction is not None:
            reaction(happening)

    def put(self, samples: Samples, pool: str) -> None:
        """Add the counts. They begin with 0, so that the first of a kind is an increase."""
        for end in TERM_ENDS:
            samples.put("sr_leader_changes_total", self._terms[end], end, pool)
        for end in LEASE_ENDS:
            samples.put("sr_leases_ended_total", self._leases_ended[end], end, pool)
        for cause in ("expired", "left"):
            samples.put("sr_routers_ended_total", self._routers[cause], cause, pool)
        for outcome in ("suspected", "cleared"):
            samples.put("sr_suspicions_total", self._suspicions[outcome], outcome, pool)
        for reason in {**dict.fromkeys(RESYNCS), **self._resyncs}:
            samples.put("sr_resyncs_total", self._resyncs[reason], reason, pool)
        samples.put("sr_history_losses_total", self._histories["lost"], pool)
        samples.put("sr_restored_total", self._histories["restored"], "view", pool)
        samples.put("sr_restored_total", self._put_back, "leases", pool)

    def _healthy(self, happening: h.ReplicaHealthy) -> None:
        self.transitions[happening.record.key, "healthy", "probe"] += 1

    def _unhealthy(self, happening: h.ReplicaUnhealthy) -> None:
        self.transitions[happening.record.key, "unhealthy", happening.cause.value] += 1

    def _was_put_back(self, happening: h.LeasesPutBack) -> None:
        self._put_back += happening.count


def _add(counts: Counter[str], kind: str) -> None:
    counts[kind] += 1
