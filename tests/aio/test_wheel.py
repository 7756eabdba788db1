"""Many time limits at once: none ends early, none much late, and a pause of the process counts for none."""

from __future__ import annotations

import math
import random

import pytest

from shared_registry.aio.wheel import LATE_SECONDS, SLOT_SECONDS, SLOTS, Limit, Wheel

START = 1234.567


def turn_until(wheel: Wheel, now: float) -> dict[Limit, float]:
    """Turn the wheel in time, and return when each limit has ended."""
    ended: dict[Limit, float] = {}
    while wheel.next_turn <= now:
        at = wheel.next_turn
        ended |= dict.fromkeys(wheel.turn(at), at)
    return ended


@pytest.mark.parametrize("seconds", [0.0, 0.01, SLOT_SECONDS, 2.0, SLOT_SECONDS * SLOTS, 30.0])
def test_a_limit_ends_within_a_slot(seconds: float) -> None:
    wheel, limit = Wheel(), Limit()
    wheel.add([limit], seconds, now=START)
    ended = turn_until(wheel, START + seconds + 1)
    assert START + seconds <= ended[limit] <= START + seconds + SLOT_SECONDS + 1e-9
    assert (len(wheel), wheel.next_turn) == (0, math.inf)


def test_what_is_dropped_does_not_end() -> None:
    wheel, kept, dropped = Wheel(), Limit(), Limit()
    wheel.add([kept, dropped], 1.0, now=START)
    wheel.discard([dropped])
    wheel.discard([dropped])
    assert len(wheel) == 1
    assert turn_until(wheel, START + 5).keys() == {kept}
    wheel.discard([kept])
    assert len(wheel) == 0


def test_random_limits_end_in_order_and_in_time() -> None:
    rng = random.Random(7)
    wheel, now, due, ended = Wheel(), START, dict[Limit, float](), dict[Limit, float]()
    for _ in range(2000):
        limit, seconds = Limit(), rng.choice((0.05, 0.5, 2.0, 9.0))
        wheel.add([limit], seconds, now=now)
        due[limit] = now + seconds
        if rng.random() < 0.3:
            wheel.discard([limit])
            del due[limit]
        now += rng.random() * 0.04
        ended |= turn_until(wheel, now)
    ended |= turn_until(wheel, now + 20)
    assert ended.keys() == due.keys()
    assert all(due[limit] <= at <= due[limit] + SLOT_SECONDS + 1e-9 for limit, at in ended.items())


def test_a_pause_extends_each_limit_by_as_long() -> None:
    wheel, limit = Wheel(), Limit()
    wheel.add([limit], 2.0, now=START)
    late = wheel.next_turn + 1.5
    assert wheel.turn(late) == []
    assert turn_until(wheel, START + 3.4) == {}
    assert turn_until(wheel, START + 3.7).keys() == {limit}


def test_a_pause_beyond_the_limit_leaves_one_more_turn() -> None:
    """What waits in the socket is read before that."""
    wheel, limit = Wheel(), Limit()
    wheel.add([limit], 1.0, now=START)
    now = START + 10
    assert wheel.turn(now) == []
    assert wheel.next_turn <= now + SLOT_SECONDS
    assert wheel.turn(wheel.next_turn) == [limit]


def test_a_process_that_is_always_late_still_ends_limits() -> None:
    wheel, limit, now = Wheel(), Limit(), START
    wheel.add([limit], 1.0, now=now)
    ended: list[Limit] = []
    while not ended:
        now = wheel.next_turn + 10 * LATE_SECONDS
        ended = wheel.turn(now)
        assert now < START + 3
    assert ended == [limit]
