"""The queue of results that Redis does not have yet."""

from __future__ import annotations

from collections.abc import Sequence

from shared_registry.leader.unreported import BEHIND, RESULTS_AT_ONCE, Finding, Unreported
from shared_registry.model import ProbeResult, Share

FIRST, SECOND = Share(1, "a"), Share(2, "a")


def found(key: str, mandate: Share = FIRST, *, is_awaited: bool = False) -> Finding:
    return Finding(ProbeResult(key, "incarnation", 1.0, None), mandate, 1e9, is_awaited)


def waiting(count: int, mandate: Share = FIRST, *, is_awaited: bool = False) -> Unreported:
    queue = Unreported()
    for number in range(count):
        queue.add(found(str(number), mandate, is_awaited=is_awaited))
    return queue


def keys(taken: Sequence[Finding]) -> list[int]:
    return [int(one.result.key) for one in taken]


def test_what_a_report_leaves_comes_first_in_the_next() -> None:
    queue = waiting(100)
    taken = queue.take()
    assert keys(taken) == list(range(RESULTS_AT_ONCE))
    queue.end(taken, 12)
    taken = queue.take()
    assert keys(taken)[0] == 12
    queue.end(taken, len(taken))
    assert keys(queue.take())[0] == 12 + len(taken)


def test_after_a_report_that_stopped_early_the_next_is_small() -> None:
    """Results that Redis would not look at cost both sides as much as others until then."""
    queue = waiting(1000)
    sizes = []
    for _ in range(8):
        taken = queue.take()
        sizes.append(len(taken))
        queue.end(taken, min(12, len(taken)))
    assert sizes == [RESULTS_AT_ONCE, 12, 24, 12, 24, 12, 24, 12]
    for _ in range(4):
        taken = queue.take()
        queue.end(taken, len(taken))
    assert len(queue.take()) == RESULTS_AT_ONCE


def test_a_report_has_results_of_one_mandate_the_earliest_first() -> None:
    queue = Unreported()
    for number in range(10):
        queue.add(found(str(number), FIRST if number % 2 else SECOND))
    taken = queue.take()
    assert keys(taken) == [0, 2, 4, 6, 8]
    queue.end(taken, 4)
    assert keys(queue.take()) == [8]
    assert keys(queue.take()) == [1, 3, 5, 7]
    assert keys(queue.take()) == [9]
    assert not queue.is_waiting
    assert queue.take() == []


def test_a_replica_is_behind_until_its_last_result_is_done() -> None:
    queue = waiting(BEHIND + RESULTS_AT_ONCE + 2)
    queue.add(found("0"))
    assert queue.is_behind("0")
    assert not queue.is_behind("none")
    taken = queue.take()
    assert queue.is_behind("5"), "its report is under way"
    queue.end(taken, len(taken))
    assert queue.is_behind("0"), "it has another result"
    assert not queue.is_behind("5")
    queue.forget(queue.take())
    assert not queue.is_behind("0"), "few wait"


def test_it_is_full_of_awaited_results_until_they_are_done() -> None:
    queue = waiting(BEHIND + 1, is_awaited=True)
    taken = queue.take()
    full = [queue.is_full]
    queue.end(taken, 1)
    assert [*full, queue.is_full, waiting(1000).is_full] == [True, False, False]


def test_nothing_is_left_of_what_was_cleared() -> None:
    queue = waiting(1000, is_awaited=True)
    queue.clear()
    assert not queue.is_waiting
    assert not queue.is_full
    assert not queue.is_behind("5")


class CountingShare(Share):
    """Counts comparisons."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        CountingShare.compared += 1
        return super().__eq__(other)

    __hash__ = Share.__hash__


def test_thousands_that_wait_are_not_looked_at_for_each_report() -> None:
    count = 5000
    queue = waiting(count, CountingShare(1, "a"))
    CountingShare.compared = reports = 0
    while taken := queue.take():
        queue.end(taken, min(12, len(taken)))
        reports += 1
    assert reports >= count / 12
    assert CountingShare.compared <= 2 * reports
