"""Delays between attempts."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from shared_registry.aio.backoff import Backoff


class Extreme(random.Random):
    """Always the same share of the jitter."""

    def __init__(self, share: float) -> None:
        super().__init__(0)
        self.share = share

    def random(self) -> float:
        return self.share


def test_the_delay_doubles_up_to_the_longest() -> None:
    backoff = Backoff(first_seconds=0.1, longest_seconds=1.0, rng=Extreme(1.0))
    assert [round(backoff.next_seconds(), 9) for _ in range(6)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_jitter_takes_away_half_of_a_delay_at_most() -> None:
    backoff = Backoff(first_seconds=0.1, longest_seconds=1.0, rng=Extreme(0.0))
    assert [round(backoff.next_seconds(), 9) for _ in range(6)] == [0.05, 0.1, 0.2, 0.4, 0.5, 0.5]


def test_a_success_starts_the_delays_over() -> None:
    backoff = Backoff(first_seconds=0.1, longest_seconds=1.0, rng=Extreme(1.0))
    for _ in range(5):
        backoff.next_seconds()
    backoff.reset()
    assert [backoff.next_seconds(), backoff.next_seconds()] == [0.1, 0.2]


@settings(deadline=None)
@given(st.floats(0.001, 10), st.floats(0.001, 10), st.lists(st.booleans(), max_size=30), st.integers())
def test_every_delay_lies_between_half_the_first_and_the_longest(
    first: float, longest: float, resets: list[bool], seed: int
) -> None:
    backoff = Backoff(first_seconds=first, longest_seconds=longest, rng=random.Random(seed))
    for reset in resets:
        if reset:
            backoff.reset()
        assert min(first, longest) / 2 <= backoff.next_seconds() <= longest


def test_clients_of_one_outage_spread() -> None:
    delays = {Backoff(rng=random.Random(seed)).next_seconds() for seed in range(100)}
    assert len(delays) == 100
    assert max(delays) - min(delays) > 0.04
