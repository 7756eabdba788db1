"""Counts the probes of one router."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from shared_registry.aio.clock import Clock, SystemClock
from shared_registry.probing.outcome import ProbeOutcome
from shared_registry.tallies import FAST_SECONDS, Distribution


class ProbeCounts:
    """The probes that this router has made as the leader, for its share, or because another router asked.

    Attributes:
        seconds: How long they took, by result: ok, failed, or own_trouble if this router could not make them.
        opinions: How often it has told other routers about a replica that another one probes, by result.
        lags: How long after it was due each scheduled probe has begun, in seconds.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self.seconds: defaultdict[str, Distribution] = defaultdict(lambda: Distribution(FAST_SECONDS))
        self.opinions: Counter[str] = Counter()
        self.lags = Distribution(FAST_SECONDS)
        self._clock = clock or SystemClock()
        self._finished_at: float | None = None
        self._worst_lag: float | None = None

    @property
    def age_seconds(self) -> float | None:
        """How long ago the latest probe was finished; `None` before the first."""
        return None if self._finished_at is None else self._clock.monotonic() - self._finished_at

    def take_worst_lag(self) -> float | None:
        """Return the longest lag since the last call; `None` if no scheduled probe has begun since."""
        worst, self._worst_lag = self._worst_lag, None
        return worst

    def begun(self, lags: Sequence[float]) -> None:
        """Count scheduled probes that begin so many seconds after they were due."""
        self.lags.add_all(lags)
        worst = max(lags, default=None)
        if worst is not None and (self._worst_lag is None or worst > self._worst_lag):
            self._worst_lag = worst

    def ended_well(self, seconds: Sequence[float]) -> None:
        """Count successes that took so long each."""
        self._finished_at = self._clock.monotonic()
        self.seconds["ok"].add_all(seconds)

    def add(self, outcome: ProbeOutcome) -> None:
        """Count a finished probe."""
        self._finished_at = self._clock.monotonic()
        self.seconds[_result(outcome)].add(outcome.latency_ms / 1000)

    def told(self, outcome: ProbeOutcome) -> None:
        """Count a probe whose result other routers are told as this one's opinion."""
        self.opinions[_result(outcome)] += 1


def _result(outcome: ProbeOutcome) -> str:
    if outcome.trouble is not None:
        return "own_trouble"
    return "ok" if outcome.error is None else "failed"
