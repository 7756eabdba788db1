"""What a router counts of its probes: how long ago the latest was, and how late they begin."""

from __future__ import annotations

from shared_registry.probing.outcome import ProbeOutcome
from shared_registry.probing.probe_counts import ProbeCounts
from tests.support.fake_clock import FakeClock


async def test_the_age_counts_from_the_latest_finished_probe(clock: FakeClock) -> None:
    assert ProbeCounts(clock).age_seconds is None
    counts = ProbeCounts(clock)
    counts.add(ProbeOutcome(5.0))
    await clock.advance(3)
    assert counts.age_seconds == 3
    counts.add(ProbeOutcome(5.0, "refused"))
    assert counts.age_seconds == 0


def test_the_worst_lag_is_taken_once(clock: FakeClock) -> None:
    counts = ProbeCounts(clock)
    for lag in (0.0, 0.5, 0.1):
        counts.begun([lag])
    assert counts.take_worst_lag() == 0.5
    assert counts.take_worst_lag() is None
    counts.begun([0.0])
    assert counts.take_worst_lag() == 0.0
