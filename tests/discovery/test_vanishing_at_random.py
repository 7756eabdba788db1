"""Random answers of a source, over random times: what goes is what the rule lets go, and what has vanished goes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shared_registry.discovery.vanishing import Vanishing
from tests.support.effort import effort, takes_long

CONFIRM_SECONDS = 60.0
REPLICAS = [f"r{number}" for number in range(12)]
answers = st.lists(
    st.tuples(
        st.one_of(st.sets(st.sampled_from(REPLICAS)), st.sets(st.sampled_from(REPLICAS), min_size=9)),
        st.integers(1, 4),
        st.sampled_from([1.0, 5.0, 20.0]),
    ),
    max_size=25,
)
"""What a source has, how many answers in a row say so, and the seconds between two of them."""


@takes_long
@given(answers)
@effort(examples=150)
def test_what_goes_was_missing_twice_and_few_go_unconfirmed(
    story: list[tuple[set[str], int, float]],
) -> None:
    vanishing, now = Vanishing(CONFIRM_SECONDS), 0.0
    registered = set(REPLICAS)
    lacking: dict[str, list[float]] = {key: [] for key in REPLICAS}
    unconfirmed: list[float] = []
    for found, times, seconds in story:
        registered |= found  # what the source has is registered before what is missing is judged
        for _ in range(times):
            now += seconds
            for key in REPLICAS:
                lacking[key] = [] if key in found else [*lacking[key], now] if key in registered else []
            before = len(registered)
            gone = vanishing.judge(registered, found, now)
            vanishing.went(gone, now)
            assert all(len(lacking[key]) >= 2 for key in gone)
            certain = {key for key in gone if len(lacking[key]) >= 5 and now - lacking[key][0] >= CONFIRM_SECONDS}
            lately = [at for at in unconfirmed if now - at < CONFIRM_SECONDS]
            unconfirmed += [now] * (len(gone) - len(certain))
            if len(gone) > len(certain):
                assert len(lately) + len(gone) - len(certain) <= max(1, (before + len(lately)) // 4)
            due = {key for key in registered if len(lacking[key]) >= 5 and now - lacking[key][0] >= CONFIRM_SECONDS}
            assert due <= set(gone)
            assert vanishing.held <= registered - set(gone) - found
            registered -= set(gone)
            for key in gone:
                lacking[key] = []


@takes_long
@given(answers)
@effort(examples=100)
def test_what_has_vanished_for_good_goes(story: list[tuple[set[str], int, float]]) -> None:
    vanishing, now = Vanishing(CONFIRM_SECONDS), 0.0
    registered = set(REPLICAS)
    for found, times, seconds in [*story, ({"r0"}, 15, 5.0)]:
        registered |= found
        for _ in range(times):
            now += seconds
            gone = vanishing.judge(registered, found, now)
            vanishing.went(gone, now)
            registered -= set(gone)
    assert registered == {"r0"}
    assert not vanishing.held
