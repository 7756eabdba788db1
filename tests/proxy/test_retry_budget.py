"""How many requests may be sent again."""

from __future__ import annotations

from shared_registry.proxy.retry_budget import RetryBudget


def taken(budget: RetryBudget, now: float, wanted: int = 1000) -> int:
    return sum(budget.take(now) for _ in range(wanted))


def test_a_router_without_requests_may_retry_ten_times_a_second() -> None:
    budget = RetryBudget()
    assert taken(budget, 0.0) == 10
    assert taken(budget, 0.5) == 5
    assert taken(budget, 100.0) == 10


def test_a_fifth_of_the_requests_may_be_sent_again() -> None:
    budget = RetryBudget()
    assert taken(budget, 0.0) == 10
    for _ in range(200):
        budget.request()
    assert taken(budget, 0.0) in (39, 40)


def test_no_more_than_a_hundred_retries_are_saved() -> None:
    budget = RetryBudget()
    for _ in range(10_000):
        budget.request()
    assert taken(budget, 1000.0) == 100
