"""Counts the probes of one router."""

from __future__ import annotations

from collections import defaultdict

from shared_registry.probing.outcome import ProbeOutcome
from shared_registry.tallies import FAST_SECONDS, Distribution


class ProbeCounts:
    """The probes that this router has made as the leader, for its share, or because another router asked.

    Attributes:
        seconds: How long they took, by result: ok, failed, or own_trouble if this router could not make them.
        lags: How long after it was due each scheduled probe has begun, in seconds.
    """

    def __init__(self) -> None:
        self.seconds: defaultdict[str, Distribution] = defaultdict(lambda: Distribution(FAST_SECONDS))
        self.lags = Distribution(FAST_SECONDS)

    def add(self, outcome: ProbeOutcome) -> None:
        """Count a probe."""
        result = "ok" if outcome.error is None else "failed"
        self.seconds[result if outcome.trouble is None else "own_trouble"].add(outcome.latency_ms / 1000)
