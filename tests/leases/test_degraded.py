"""Shares of free slots: exact and disjoint without a word between routers, and what is chosen within one's own."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_registry.leases.degraded import DegradedPlacement, LastLoads
from shared_registry.model import Replica, ReplicaEndpoint
from tests.support.leasing_router import A, B, C

ROUTER = "r~1"


def url_of(number: int) -> str:
    return f"http://10.0.0.{number}:8000"


def replica(url: str, *, capacity: int = 0, primary: bool = False, weight: float = 1.0) -> Replica:
    return Replica(ReplicaEndpoint(url, capacity=capacity, primary=primary, weight=weight))


def take_all(
    placement: DegradedPlacement, replicas: Sequence[Replica], *, excluded: Collection[str] = (), at_most: int = 1000
) -> Counter[str]:
    """Take slots until there is none to be had."""
    taken: Counter[str] = Counter()
    while taken.total() < at_most and (chosen := placement.choose(replicas, excluded=excluded)):
        placement.take(f"{next(numbers)}", chosen.key)
        taken[chosen.key] += 1
    return taken


numbers = itertools.count()


def seeing(
    in_flight: dict[str, int],
    replicas: Sequence[Replica],
    routers: Collection[str] = (ROUTER,),
    kept: dict[str, str] | None = None,
) -> DegradedPlacement:
    placement = DegradedPlacement("share", router=ROUTER, kept=kept)
    placement.begin_read()
    placement.update(LastLoads(in_flight, routers), replicas)
    return placement


fleets = st.lists(st.tuples(st.integers(1, 12), st.integers(0, 15), st.booleans()), min_size=1, max_size=8)
"""Capacity, load (which may exceed it) and tier of each replica."""


@given(
    fleet=fleets, routers=st.sets(st.text("abcdef~", min_size=1, max_size=4), min_size=1, max_size=9), data=st.data()
)
def test_the_shares_of_all_routers_are_the_free_slots(
    fleet: list[tuple[int, int, bool]], routers: set[str], data: st.DataObject
) -> None:
    replicas = [
        replica(url_of(number), capacity=capacity, primary=primary)
        for number, (capacity, _, primary) in enumerate(fleet)
    ]
    loads = {url_of(number): load for number, (_, load, _) in enumerate(fleet)}
    free = {url_of(number): max(capacity - load, 0) for number, (capacity, load, _) in enumerate(fleet)}
    taken: Counter[str] = Counter()
    totals = []
    for router in data.draw(st.permutations(sorted(routers))):
        placement = DegradedPlacement("share", router=router)
        placement.begin_read()
        placement.update(
            LastLoads(loads, data.draw(st.permutations(sorted(routers)))), data.draw(st.permutations(replicas))
        )
        own = take_all(placement, data.draw(st.permutations(replicas)))
        totals.append(own.total())
        taken += own
    assert {url: taken[url] for url in free} == free
    assert max(totals) - min(totals) <= 1


def test_what_was_taken_and_given_back_since_counts() -> None:
    replicas = [replica(A, capacity=5)]
    placement = seeing({A: 2}, replicas)
    placement.take("a", A)
    assert take_all(placement, replicas).total() == 2
    assert placement.choose(replicas) is None
    assert placement.give_back("a")
    assert take_all(placement, replicas).total() == 1


def test_new_loads_count_what_was_taken_before_they_were_looked_at() -> None:
    replicas = [replica(A, capacity=5)]
    placement = seeing({A: 0}, replicas)
    take_all(placement, replicas, at_most=3)
    placement.begin_read()
    placement.update(LastLoads({A: 3}, [ROUTER]), replicas)
    assert take_all(placement, replicas).total() == 2


def test_what_is_taken_while_the_loads_are_read_counts_on_top_of_them() -> None:
    replicas = [replica(A, capacity=5)]
    placement = seeing({A: 0}, replicas)
    placement.begin_read()
    placement.take("a", A)
    placement.update(LastLoads({A: 0}, [ROUTER]), replicas)
    assert take_all(placement, replicas).total() == 4


def test_what_redis_lacks_counts_on_top_of_new_loads() -> None:
    replicas = [replica(A, capacity=5)]
    placement = seeing({A: 0}, replicas)
    placement.begin_read()
    placement.update(LastLoads({A: 1}, [ROUTER]), replicas, missing={"a": A, "b": A})
    assert take_all(placement, replicas).total() == 2
    assert placement.give_back("b")
    assert take_all(placement, replicas).total() == 1


def test_a_slot_that_the_loads_count_is_free_only_where_it_was_kept() -> None:
    """Others see that it is free as soon as Redis has heard of it; where Redis has not, nobody else can have it."""
    replicas = [replica(A, capacity=5)]
    kept: dict[str, str] = {}
    placement = seeing({A: 5}, replicas, kept=kept)
    assert not placement.give_back("before")
    assert placement.choose(replicas) is None
    kept["before"] = A
    assert take_all(placement, replicas).total() == 1
    del kept["before"]
    assert placement.choose(replicas) is None


def test_what_is_given_back_while_the_loads_are_read_is_not_free_yet() -> None:
    replicas = [replica(A, capacity=5)]
    placement = seeing({A: 4}, replicas)
    placement.take("a", A)
    placement.begin_read()
    placement.give_back("a")
    placement.update(LastLoads({A: 5}, [ROUTER]), replicas)
    assert placement.choose(replicas) is None


def test_shares_stand_until_other_loads_are_seen() -> None:
    """Whatever the view shows meanwhile: dealt anew, two routers would both find a slot of theirs in the same one."""
    replicas = [replica(A, capacity=1), replica(B, capacity=1)]
    placement = seeing({A: 0, B: 0}, replicas, routers=(ROUTER, "r~2"))
    assert take_all(placement, replicas) == {A: 1}
    assert take_all(placement, replicas[1:]).total() == 0
    assert placement.choose([replica(C, capacity=1), *replicas]) is None
    assert placement.used_up(replicas) == {A, B}
    assert placement.used_up([replica(C), *replicas]) == {A, B}


def test_a_capacity_that_was_lowered_since_counts_at_once() -> None:
    placement = seeing({A: 1}, [replica(A, capacity=5)])
    assert take_all(placement, [replica(A, capacity=3)]).total() == 2


@pytest.mark.parametrize("routers", [(), ("r~2",)])
def test_a_router_that_is_not_among_those_it_saw_has_no_share(routers: tuple[str, ...]) -> None:
    placement = seeing({A: 0, B: 0}, [replica(A, capacity=5), replica(B)], routers)
    assert placement.choose([replica(A, capacity=5)]) is None
    assert placement.choose([replica(A, capacity=5), replica(B)]) is not None, "but for what has no limit"


def test_before_it_saw_anything_it_has_no_share() -> None:
    assert DegradedPlacement("share", router=ROUTER).choose([replica(A, capacity=5)]) is None


def test_off_chooses_nothing_and_unlimited_anything() -> None:
    replicas = [replica(A, capacity=1), replica(B)]
    assert DegradedPlacement("off", router=ROUTER).choose(replicas) is None
    assert take_all(DegradedPlacement("unlimited", router=ROUTER), replicas, at_most=10) == {A: 5, B: 5}


def test_the_least_loaded_for_its_weight_of_the_first_tier_is_chosen() -> None:
    replicas = [replica(A), replica(B, primary=True, weight=4.0), replica(C, primary=True)]
    placement = seeing({A: 0, B: 2, C: 0}, replicas)
    assert take_all(placement, replicas, at_most=8) == {B: 6, C: 2}
    assert take_all(placement, replicas, excluded={B, C}, at_most=3) == {A: 3}
    assert placement.choose(replicas, excluded={A, B, C}) is None


def test_the_second_tier_takes_over_where_the_share_of_the_first_is_used_up() -> None:
    replicas = [replica(B, primary=True, capacity=3), replica(A, capacity=2)]
    assert take_all(seeing({A: 0, B: 1}, replicas), replicas) == {B: 2, A: 2}


def test_avoided_replicas_come_after_all_others() -> None:
    replicas = [replica(A, primary=True, capacity=9), replica(B, primary=True, capacity=1), replica(C, capacity=6)]
    placement = seeing({A: 0, B: 0, C: 5}, replicas)
    chosen = []
    for _ in range(4):
        one = placement.choose(replicas, avoided={A})
        assert one is not None
        placement.take(f"{next(numbers)}", one.key)
        chosen.append(one.key)
    assert chosen == [B, C, A, A]
    assert placement.choose(replicas, avoided={A}, excluded={A}) is None
