"""Which missing replicas may be removed, answer by answer."""

from __future__ import annotations

from shared_registry.discovery.vanishing import Vanishing

TEN = [f"r{number}" for number in range(10)]


def test_one_answer_without_a_replica_removes_nothing() -> None:
    vanishing = Vanishing(300.0)
    assert vanishing.judge(TEN, TEN[1:], 0.0) == []
    assert vanishing.judge(TEN, TEN, 1.0) == []
    assert vanishing.judge(TEN, TEN[1:], 2.0) == []
    assert vanishing.judge(TEN, TEN[1:], 3.0) == ["r0"]


def test_at_most_a_quarter_goes_within_the_time() -> None:
    vanishing = Vanishing(300.0)
    vanishing.judge(TEN, TEN[2:], 0.0)
    assert vanishing.judge(TEN, TEN[2:], 1.0) == ["r0", "r1"]
    vanishing.went(["r0", "r1"], 1.0)
    left = TEN[2:]
    for second in range(2, 300):
        assert vanishing.judge(left, left[1:], float(second)) == []
    assert vanishing.held == {"r2"}
    assert vanishing.judge(left, left[1:], 301.0) == ["r2"]
    assert not vanishing.held


def test_many_missing_at_once_all_stay_until_confirmed() -> None:
    vanishing = Vanishing(60.0)
    for second in (0.0, 20.0, 40.0, 59.0):
        assert vanishing.judge(TEN, TEN[:4], second) == []
    assert vanishing.held == set(TEN[4:])
    assert vanishing.judge(TEN, TEN[:4], 60.0) == sorted(TEN[4:])


def test_confirmation_takes_time_and_answers() -> None:
    vanishing = Vanishing(60.0)
    for second in (0.0, 100.0, 200.0, 300.0):
        assert vanishing.judge(TEN, [], second) == []
    assert vanishing.judge(TEN, [], 400.0) == TEN


def test_an_answer_with_the_replica_begins_the_confirmation_anew() -> None:
    vanishing = Vanishing(60.0)
    for second in (0.0, 20.0, 40.0, 50.0):
        assert vanishing.judge(TEN, TEN[:4], second) == []
    assert vanishing.judge(TEN, TEN, 61.0) == []
    assert vanishing.judge(TEN, TEN[:4], 62.0) == []
    assert vanishing.judge(TEN, TEN[:4], 63.0) == []


def test_one_of_few_may_go() -> None:
    vanishing = Vanishing(300.0)
    vanishing.judge(["a", "b"], ["a"], 0.0)
    assert vanishing.judge(["a", "b"], ["a"], 1.0) == ["b"]
    vanishing.went(["b"], 1.0)
    vanishing.judge(["a"], [], 2.0)
    assert vanishing.judge(["a"], [], 3.0) == []
    assert vanishing.held == {"a"}


def test_a_long_absence_in_few_answers_counts_as_unconfirmed() -> None:
    vanishing = Vanishing(60.0)
    four = TEN[:4]
    assert vanishing.judge(four, four[2:], 0.0) == []
    assert vanishing.judge(four, four[1:], 100.0) == ["r0"]
    vanishing.went(["r0"], 100.0)
    assert vanishing.judge(four[1:], four[2:], 101.0) == []
    assert vanishing.judge(four[1:], four[2:], 102.0) == []
    assert vanishing.held == {"r1"}
