"""When a leader is unfit to probe for all."""

from __future__ import annotations

import pytest

from shared_registry.leader.local_health import LocalHealth
from shared_registry.probing.own_trouble import OwnTrouble

INTERVAL = 5.0
NOW = 1000.0
TROUBLE = OwnTrouble("too many open files", "raise the limit")


def health(*results: str, threshold: int = 3) -> LocalHealth:
    """`+` for a probe that was made, `-` for one that was not, of replicas 0, 1, 2 and so on. Half end with others."""
    found = LocalHealth(failure_threshold=threshold, interval_seconds=INTERVAL)
    for results_in_turn in results:
        for number, result in enumerate(results_in_turn):
            if result == "+" and number % 2:
                found.note_well([str(number)])
            else:
                found.note(str(number), TROUBLE if result == "-" else None, is_healthy=True)
    return found


@pytest.mark.parametrize(
    ("results", "replicas", "is_unfit"),
    [
        ("", 0, False),
        ("", 5, False),
        ("-", 1, True),
        ("+", 1, False),
        ("-", 2, False),
        ("-+", 2, True),
        ("-++", 3, False),
        ("--+", 3, True),
        ("---", 4, False),
        ("--++", 4, True),
        ("-+++", 4, False),
        ("--+++", 5, False),
        ("---+++", 6, True),
        ("--++", 1000, True),
    ],
)
def test_too_many_troubled_replicas_make_a_router_unfit(results: str, replicas: int, is_unfit: bool) -> None:
    """Half of at least four replicas, or all of fewer."""
    assert (health(results).complaint(replicas, now=NOW) is not None) is is_unfit


def test_only_the_latest_result_of_each_replica_counts() -> None:
    assert health("----", "++++").complaint(4, now=NOW) is None
    assert health("++++", "----").complaint(4, now=NOW) is not None


def test_the_complaint_names_the_reason() -> None:
    assert health("--++").complaint(4, now=NOW) == "2 of 4 replicas could not be probed: too many open files"


def test_a_replica_no_longer_probed_does_not_count() -> None:
    found = health("--++")
    for key in "01":
        found.forget(key)
    assert found.complaint(2, now=NOW) is None


def test_a_healthy_replica_may_not_go_unprobed_for_long() -> None:
    rounds = ["-+++"] * 5
    assert health(*rounds).complaint(4, now=NOW) is None
    assert (
        health(*rounds, "-+++").complaint(4, now=NOW) == "0 could not be probed 6 times in a row: too many open files"
    )
    assert health(*rounds, "++++", "-+++").complaint(4, now=NOW) is None
    assert health(*rounds, "-+++", "++++").complaint(4, now=NOW) is None
    assert health("-+++", "-+++", threshold=1).complaint(4, now=NOW) is not None


def test_an_unhealthy_replica_may_go_unprobed() -> None:
    found = health("++++")
    for _ in range(20):
        found.note("0", TROUBLE, is_healthy=False)
    assert found.complaint(4, now=NOW) is None


@pytest.mark.parametrize(
    ("refuted", "replicas", "is_unfit"), [(0, 1, False), (1, 1, True), (1, 4, True), (1, 5, False), (3, 12, True)]
)
def test_a_quarter_that_others_reach_is_enough(refuted: int, replicas: int, is_unfit: bool) -> None:
    found = health("+" * replicas)
    for number in range(refuted):
        found.refuted(str(number), now=NOW)
    assert (found.complaint(replicas, now=NOW) is not None) is is_unfit


def test_a_refutation_counts_for_as_long_as_a_verdict_takes() -> None:
    found = health("+")
    found.refuted("0", now=NOW)
    assert (
        found.complaint(1, now=NOW + 3 * INTERVAL) == "1 of 1 replicas are reached by other routers and not by this one"
    )
    assert found.complaint(1, now=NOW + 3 * INTERVAL + 0.1) is None


def test_what_is_removed_is_no_longer_refuted() -> None:
    found = health("++++")
    found.refuted("0", now=NOW)
    found.forget("0")
    assert found.complaint(3, now=NOW) is None


def test_two_impossible_probes_in_a_row_are_lasting() -> None:
    assert not health("-+").is_lasting("0")
    assert health("-+", "-+").is_lasting("0")
    assert not health("-+", "-+", "++").is_lasting("0")


@pytest.mark.parametrize(
    ("results", "refuted", "share"),
    [("", "", None), ("++++", "", 1.0), ("-+++", "", 0.75), ("+++-", "0", 0.5), ("-+++", "0", 0.75), ("++", "9", 1.0)],
)
def test_its_health_is_the_share_it_can_judge(results: str, refuted: str, share: float | None) -> None:
    found = health(results)
    for key in refuted:
        found.refuted(key, now=NOW)
    assert found.share(now=NOW) == share
    assert found.share(now=NOW + 100 * INTERVAL) == health(results).share(now=NOW)
