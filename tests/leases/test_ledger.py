"""What a router knows of its leases, and what it concludes from the count that a beat returns."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shared_registry.leases.ledger import Ledger
from tests.support.leasing_router import A, B, hold


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


def bounds_while(ledger: Ledger, happens: Callable[[], object]) -> tuple[int, int]:
    mark = ledger.mark()
    happens()
    return ledger.bounds(mark)


def test_an_id_is_known_from_its_request_to_its_end(ledger: Ledger) -> None:
    assert not ledger.knows("a")
    ledger.ask("a")
    assert ledger.knows("a")
    hold(ledger, "a")
    assert ledger.knows("a")
    assert ledger.begin_end("a")
    assert (ledger.knows("a"), ledger.ending) == (True, [])
    ledger.fail_to_end("a")
    assert (ledger.knows("a"), ledger.ending) == (True, ["a"])
    ledger.end("a")
    assert not ledger.knows("a")
    assert ledger.ending == []


def test_a_denied_id_is_unknown_and_one_given_up_ending(ledger: Ledger) -> None:
    ledger.ask("denied")
    ledger.drop("denied")
    ledger.ask("given up")
    ledger.give_up("given up")
    assert not ledger.knows("denied")
    assert ledger.ending == ["given up"]


def test_a_lease_is_released_once(ledger: Ledger) -> None:
    hold(ledger, "a")
    assert ledger.begin_end("a")
    assert not ledger.begin_end("a")
    assert not ledger.begin_end("never held")
    assert ledger.mark().moving == 1


def test_requesting_the_same_id_again_counts_once(ledger: Ledger) -> None:
    def ask_twice() -> None:
        ledger.ask("a")
        ledger.ask("a")

    assert bounds_while(ledger, ask_twice) == (0, 1)


def test_with_no_call_in_progress_the_count_is_exact(ledger: Ledger) -> None:
    for lease_id in "abc":
        hold(ledger, lease_id)
    assert bounds_while(ledger, lambda: None) == (3, 3)


def test_calls_in_progress_may_count_or_not(ledger: Ledger) -> None:
    hold(ledger, "held")
    ledger.ask("acquiring")
    ledger.ask("given up")
    ledger.give_up("given up")
    hold(ledger, "ending")
    ledger.begin_end("ending")
    hold(ledger, "placed by the last view", is_degraded=True)
    assert bounds_while(ledger, lambda: None) == (1, 5)


MOVES = {
    "ask new": (2, 3),
    "hold new": (2, 3),
    "ask new, drop new": (2, 3),
    "ask new, give_up new": (2, 3),
    "begin_end a": (1, 2),
    "begin_end a, end a": (1, 2),
    "hold new, begin_end new, end new": (1, 3),
    "begin_end a, begin_end b": (0, 2),
}


def move(ledger: Ledger, steps: str) -> None:
    for step in steps.split(", "):
        verb, lease_id = step.split()
        if verb == "hold":
            hold(ledger, lease_id)
        else:
            getattr(ledger, verb)(lease_id)


@pytest.mark.parametrize(("steps", "wanted"), MOVES.items(), ids=MOVES)
def test_changes_during_a_heartbeat_may_count_or_not(ledger: Ledger, steps: str, wanted: tuple[int, int]) -> None:
    hold(ledger, "a")
    hold(ledger, "b")
    assert bounds_while(ledger, lambda: move(ledger, steps)) == wanted


def test_the_lower_bound_is_never_negative(ledger: Ledger) -> None:
    hold(ledger, "a", is_degraded=True)
    assert bounds_while(ledger, lambda: ledger.begin_end("a")) == (0, 1)


def test_a_degraded_lease_counts_once_redis_has_it(ledger: Ledger) -> None:
    hold(ledger, "a", is_degraded=True)
    hold(ledger, "b", B, is_degraded=True)
    ledger.confirm(["a", "b", "gone"], not_there=[B])
    assert bounds_while(ledger, lambda: None) == (1, 2)
    ledger.confirm(["b"], not_there=[A])
    assert bounds_while(ledger, lambda: None) == (2, 2)


def test_a_lease_on_a_removed_replica_does_not_count(ledger: Ledger) -> None:
    hold(ledger, "a")
    ledger.confirm(["a"], not_there=[A])
    assert bounds_while(ledger, lambda: None) == (0, 1)
    ledger.begin_end("a")
    ledger.end("a")
    assert bounds_while(ledger, lambda: None) == (0, 0)


def test_clearing_forgets_all_ids(ledger: Ledger) -> None:
    lease = hold(ledger, "a", is_degraded=True)
    ledger.ask("b")
    ledger.ask("c")
    ledger.give_up("c")
    assert ledger.clear() == [lease]
    assert not any(ledger.knows(lease_id) for lease_id in "abc")
    assert bounds_while(ledger, lambda: None) == (0, 0)
