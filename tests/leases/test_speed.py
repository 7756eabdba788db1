"""How fast the line moves, concluded from where one's own waiters stood before and stand now."""

from __future__ import annotations

import pytest

from shared_registry.leases.speed import WINDOW_SECONDS, QueueSpeed

CASES: dict[str, tuple[list[dict[str, int]], float | None]] = {
    "nothing seen": ([], None),
    "seen once": ([{"a": 5}], None),
    "nobody moves": ([{"a": 5}, {"a": 5}], None),
    "one moves": ([{"a": 5}, {"a": 3}], 0.5),
    "one is served": ([{"a": 4}, {"a": 0}], 0.25),
    "each shows it as far as it moved": ([{"a": 1, "b": 4}, {"a": 0, "b": 3}], 1.0),
    "newcomers show nothing": ([{"a": 5}, {"a": 4, "b": 9}], 1.0),
    "pauses count": ([{"a": 5}, {"a": 5}, {"a": 5}, {"a": 4}], 3.0),
    "who comes back before others moves none": ([{"a": 5}, {"a": 7}], None),
    "while nobody waits no time passes": ([{"a": 2}, {"a": 0}, {}, {}, {"b": 2}, {"b": 0}], 0.5),
}


@pytest.mark.parametrize(("seen", "seconds_a_place"), CASES.values(), ids=CASES)
def test_speed(seen: list[dict[str, int]], seconds_per_position: float | None) -> None:
    speed = QueueSpeed()
    for second, positions in enumerate(seen):
        for lease_id, position in positions.items():
            speed.record(1000.0 + second, lease_id, position)
    for positions in (1, 6):
        wanted = None if seconds_per_position is None else pytest.approx(positions * seconds_per_position)
        assert speed.seconds_to_pass(1000.0 + len(seen), positions) == wanted


def test_who_left_shows_nothing_when_the_same_id_comes_again() -> None:
    speed = QueueSpeed()
    speed.record(0.0, "a", 5)
    speed.forget("a")
    speed.forget("never seen")
    speed.record(1.0, "a", 1)
    assert speed.seconds_to_pass(1.0, 1) is None


def test_only_the_last_minute_counts() -> None:
    speed = QueueSpeed()
    for second, position in ((0.0, 100), (1.0, 50), (2.0, 49)):
        speed.record(second, "a", position)
    assert speed.seconds_to_pass(2.0, 51) == pytest.approx(2.0)
    assert speed.seconds_to_pass(1.0 + WINDOW_SECONDS, 51) == pytest.approx(2.0)
    assert speed.seconds_to_pass(1.1 + WINDOW_SECONDS, 1) == pytest.approx(1.0)
    assert speed.seconds_to_pass(2.1 + WINDOW_SECONDS, 1) is None
