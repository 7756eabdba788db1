"""Which replicas a policy gets to choose among, and that it is prepared before a session comes."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import pytest

from shared_registry import AdminState, RouterConfig, UnknownReplica, UsageError
from shared_registry.model import Replica, ReplicaRecord
from shared_registry.registry.facade import SharedReplicaRegistry
from shared_registry.selection import Selection, policy_names
from shared_registry.selection.hash_ring import HashRing
from shared_registry.selection.least_loaded import LeastLoaded
from shared_registry.selection.levels import Levels, Ordered
from shared_registry.selection.panic import Spares
from shared_registry.selection.ring_points import RingPoints
from shared_registry.selection.round_robin import RoundRobin
from shared_registry.selection.view import View
from tests.support.choices import (
    ANSWERED_AT,
    HEALTHY,
    UNHEALTHY,
    UNKNOWN,
    number_of,
    record,
    shown,
    tally,
    url,
    view_of,
)

KEYS = [f"client-{number}" for number in range(400)]
SPREADING: list[str] = ["round_robin", "least_loaded", "hash"]


def registry_of(*records: ReplicaRecord, **settings: object) -> SharedReplicaRegistry:
    registry = SharedReplicaRegistry(RouterConfig(**settings), seed=7)  # type: ignore[arg-type]
    shown(registry._view, *records)
    return registry


def by(registry: SharedReplicaRegistry, policy: str | None, **call: object) -> Callable[[str | None], Replica | None]:
    return lambda key: registry.select(key=key, policy=policy, **call)  # type: ignore[arg-type]


def test_the_config_knows_every_policy() -> None:
    for policy in policy_names():
        assert RouterConfig(policy=policy).policy == policy


@pytest.mark.parametrize("is_per_call", [False, True])
@pytest.mark.parametrize("policy", SPREADING)
def test_each_policy_spreads_over_the_first_usable_tier(policy: str, is_per_call: bool) -> None:
    """The first one with a healthy active replica."""
    tiers = [record(number, primary=number < 3) for number in range(6)]
    registry = registry_of(*tiers, **({} if is_per_call else {"policy": policy}))
    choose = by(registry, policy if is_per_call else None)
    assert tally(choose, KEYS).keys() == {0, 1, 2}
    registry._view.apply([record(0, primary=True, status=UNHEALTHY, revision=2)])
    registry._view.apply([record(1, primary=True, admin=AdminState.DRAINING, revision=3)])
    assert tally(choose, KEYS).keys() == {2}
    registry._view.apply([record(2, primary=True, status=UNKNOWN, revision=4)])
    assert tally(choose, KEYS).keys() == {3, 4, 5}
    registry._view.apply([record(1, primary=True, revision=5)])
    assert tally(choose, KEYS).keys() == {1}
    registry._view.withhold(True)
    assert choose("a") is None
    registry._view.withhold(False)
    assert tally(choose, KEYS).keys() == {1}


@pytest.mark.parametrize("policy", SPREADING)
def test_excluded_replicas_are_skipped_down_to_the_last_tier(policy: str) -> None:
    registry = registry_of(*(record(number, primary=number < 2) for number in range(4)), policy=policy)
    assert tally(by(registry, None, exclude=[url(0)]), KEYS).keys() == {1}
    assert tally(by(registry, None, exclude=[url(0), registry.all()[1]]), KEYS).keys() == {2, 3}
    assert tally(by(registry, policy, exclude=[url(0), url(1), url(3)]), KEYS).keys() == {2}
    assert registry.select(key="a", exclude=[url(number) for number in range(4)]) is None


@pytest.mark.parametrize("policy", SPREADING)
def test_replicas_in_cooldown_come_last(policy: str) -> None:
    registry = registry_of(*(record(number, primary=number < 2) for number in range(4)), policy=policy)

    def choose(key: str | None) -> Replica | None:
        registry._view.selection.begin_read()
        registry._view.selection.update({})  # all is over by the next session
        return registry.select(key=key)

    registry._view.cool([url(0)])
    assert tally(choose, KEYS).keys() == {1}
    registry._view.cool([url(0), url(1)])
    assert tally(choose, KEYS).keys() == {2, 3}
    registry._view.cool([url(number) for number in range(4)])
    assert tally(choose, KEYS).keys() == {0, 1}
    assert tally(by(registry, None, exclude=[url(0), url(1)]), KEYS).keys() == {2, 3}
    registry._view.cool([])
    assert tally(choose, KEYS).keys() == {0, 1}


@pytest.mark.parametrize("policy", SPREADING)
def test_changed_weights_count_at_once(policy: str) -> None:
    registry = registry_of(record(0), record(1, weight=3.0), policy=policy)
    counts = tally(by(registry, None), [f"k{number}" for number in range(4000)])
    assert 1.9 < counts[1] / counts[0] < 4.5
    registry._view.apply([record(0, weight=9.0, revision=2)])
    if policy == "least_loaded":
        registry._view.selection.begin_read()
        registry._view.selection.update({})
    counts = tally(by(registry, None), [f"k{number}" for number in range(4000)])
    assert 1.9 < counts[0] / counts[1] < 4.5


def test_a_key_returns_to_its_replica_with_the_first_tier() -> None:
    registry = registry_of(*(record(number, primary=number < 5) for number in range(9)), policy="hash")
    before = [registry.select(key=key) for key in KEYS]
    for number in range(5):
        registry._view.apply([record(number, primary=True, status=UNHEALTHY, revision=2)])
    assert all(number_of(registry.select(key=key)) >= 5 for key in KEYS)
    for number in range(5):
        registry._view.apply([record(number, primary=True, revision=3)])
    assert [registry.select(key=key) for key in KEYS] == before


@pytest.mark.parametrize("policy", policy_names())
def test_the_same_seed_gives_the_same_choices(policy: str) -> None:
    def choices() -> list[int]:
        registry = registry_of(*(record(number, weight=1.0 + number) for number in range(5)), policy=policy)
        return [number_of(registry.select(key=key)) for key in (*KEYS, None, None)]

    assert choices() == choices()


def test_picks_are_kept_when_something_else_changes() -> None:
    registry = registry_of(*(record(number) for number in range(4)), policy="least_loaded")
    tally(by(registry, None), [None] * 100)
    registry._view.apply([record(9, primary=False, status=UNKNOWN, revision=2)])
    registry._view.read([record(0, in_flight=7)])
    assert sum(registry._view.selection.loads.known[one].count for one in registry.all()[:4]) == 100


def test_a_replica_that_returns_after_its_removal_starts_again() -> None:
    registry = registry_of(*(record(number) for number in range(2)), policy="least_loaded")
    tally(by(registry, None), [None] * 10)
    held = registry.all()
    registry._view.apply([record(0, admin=AdminState.REMOVED, revision=2)])
    registry._view.apply([record(0, revision=3)])
    assert [registry._view.selection.loads.known[one].count for one in held] == [0, 5]
    assert tally(by(registry, None), [None] * 5) == {0: 5}


def test_a_load_forgotten_behind_an_unused_tier_returns() -> None:
    """A picker whose members look the same afterwards must not continue to count outdated loads."""
    selection = Selection("least_loaded", rng=random.Random(1))
    view = view_of(selection, record(0, primary=True), record(1), record(2))
    view.apply([record(0, primary=True, status=UNHEALTHY, revision=2)])  # the second tier is prepared
    view.apply([record(0, primary=True, revision=3)])
    view.apply([record(1, admin=AdminState.REMOVED, revision=4)])
    view.apply([record(1, revision=5)])
    view.apply([record(0, primary=True, status=UNHEALTHY, revision=6)])
    selection.begin_read()
    selection.update({url(1): 50})
    assert tally(selection.choose or pytest.fail("no policy"), [None] * 20) == {2: 20}


def test_an_unknown_policy_is_refused_by_name() -> None:
    names = policy_names()
    assert {"hash", "least_loaded", "priority", "round_robin"} <= set(names)
    with pytest.raises(UsageError, match=rf"policy: 'rr' is not among {', '.join(names)}$"):
        registry_of(record(0)).select(policy="rr")


@pytest.mark.parametrize("policy", policy_names())
def test_selecting_prepares_nothing(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = registry_of(*(record(number, weight=1.0 + number) for number in range(20)), policy=policy)
    for kind in (RoundRobin, LeastLoaded, HashRing):
        monkeypatch.setattr(kind, "update", lambda *_: pytest.fail("prepared too late"))
    for key in KEYS:
        registry.select(key=key)
        registry.select()


@pytest.mark.parametrize("policy", SPREADING)
def test_selecting_reads_no_record(policy: str) -> None:
    registry = registry_of(*(record(number, weight=1.0 + number) for number in range(20)), policy=policy)
    for replica in registry.all():
        replica.record = None  # type: ignore[assignment]
    assert registry.select(key="a") in registry.all()


def test_another_policy_stays_prepared_after_its_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = registry_of(*(record(number) for number in range(5)))
    assert tally(by(registry, "round_robin"), [None] * 10).keys() == {0, 1, 2, 3, 4}
    registry._view.apply([record(2, status=UNHEALTHY, revision=2)])
    monkeypatch.setattr(RoundRobin, "update", lambda *_: pytest.fail("prepared too late"))
    assert tally(by(registry, "round_robin"), [None] * 8) == {0: 2, 1: 2, 3: 2, 4: 2}
    assert number_of(registry.select()) == 0


def test_policies_are_pure() -> None:
    for kind in (RoundRobin, LeastLoaded, HashRing, Selection):
        source = inspect.getsource(inspect.getmodule(kind))  # type: ignore[arg-type]
        assert "async " not in source
        assert "import time" not in source


# Panic


def states(*healthy: bool) -> list[ReplicaRecord]:
    return [record(number, status=HEALTHY if one else UNHEALTHY) for number, one in enumerate(healthy)]


@pytest.mark.parametrize(
    ("healthy", "percent", "is_panicking"),
    [
        (1, 0, False),
        (0, 0, False),
        (2, 50, False),
        (1, 50, True),
        (0, 50, True),
        (4, 100, False),
        (3, 100, True),
        (1, 25, False),
        (1, 25.1, True),
    ],
)
def test_panic_begins_below_the_threshold(healthy: int, percent: float, is_panicking: bool) -> None:
    registry = registry_of(*states(*(number < healthy for number in range(4))), panic_percent=percent)
    assert (registry.panic is not None) is is_panicking
    found = {number_of(replica) for _ in range(40) if (replica := registry.select())}
    assert found == (set(range(4)) if is_panicking else {0} if healthy else set())
    if is_panicking:
        assert str(registry.panic) == f"{healthy} of 4 active replicas healthy, panic_percent is {percent:g}"


@pytest.mark.parametrize("policy", policy_names())
def test_in_panic_policies_spread_over_all_judged_active_replicas(policy: str) -> None:
    registry = registry_of(
        record(0, primary=True, status=UNHEALTHY),
        record(1, primary=True, status=UNHEALTHY),
        record(2, status=UNHEALTHY),
        record(3),
        record(4, status=UNKNOWN),
        record(5, status=UNHEALTHY, admin=AdminState.DRAINING),
        record(6, admin=AdminState.DISABLED),
        policy=policy,
        panic_percent=50.0,
    )
    assert tally(by(registry, None), KEYS).keys() == {0, 1, 2, 3}
    assert tally(by(registry, None, exclude=[url(3)]), KEYS).keys() == {0, 1, 2}
    registry._view.cool([url(0)])
    assert tally(by(registry, None), KEYS).keys() == {1, 2, 3}
    registry._view.apply([record(0, primary=True, revision=2)])
    registry._view.cool([])
    assert registry.panic is None
    assert tally(by(registry, None), KEYS).keys() == {0}


def test_a_fleet_that_was_never_probed_is_not_in_panic() -> None:
    registry = registry_of(*(record(number, status=UNKNOWN) for number in range(9)), record(9), panic_percent=50.0)
    assert registry.panic is None
    assert number_of(registry.select()) == 9


def test_replicas_silent_for_an_hour_do_not_count() -> None:
    dead = [record(number, status=UNHEALTHY, answered_at=ANSWERED_AT - 3700) for number in range(5)]
    never = [record(5, status=UNHEALTHY, answered_at=None)]
    registry = registry_of(*dead, *never, record(6), record(7, status=UNHEALTHY), panic_percent=50.0)
    assert registry.panic is None
    registry._view.apply([record(6, status=UNHEALTHY, revision=2)])
    assert {number_of(replica) for replica in registry._view.spares} == {6, 7}


def test_panic_goes_on_without_those_whose_hour_has_passed() -> None:
    now = ANSWERED_AT
    records = [record(0), record(1, status=UNHEALTHY), record(2, status=UNHEALTHY, answered_at=ANSWERED_AT - 1800)]
    view = shown(View(Selection(), panic_percent=60.0, now=lambda: now), *records)
    for later, spares in ((0, {1, 2}), (1799, {1, 2}), (1801, {1}), (3601, set())):
        now = ANSWERED_AT + later
        view.look_at_clock()
        assert {number_of(replica) for replica in view.spares} == spares
    assert view.panic is None


def test_a_fleet_of_which_most_are_healthy_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Spares, "answered_between", lambda *_: pytest.fail("counted"))
    view = View(Selection(), panic_percent=50.0, spreads_in_panic=False)
    shown(view, *states(True, True, False))
    assert view.panic is None


def test_a_withheld_view_selects_nothing_in_panic_either() -> None:
    registry = registry_of(*states(False, False), panic_percent=50.0)
    registry._view.withhold(True)
    assert registry.select() is None
    assert registry.panic is None


def test_panic_does_not_change_the_tiers_of_leases() -> None:
    registry = registry_of(*states(False, True, False, False), panic_percent=50.0)
    assert [number_of(replica) for replica in registry._view.preference] == [1]


def changes_of(rng: random.Random, number: int) -> list[ReplicaRecord]:
    """Return some records after the change of that number."""
    return [
        record(
            rng.randrange(12),
            weight=rng.choice([1.0, 1.0, 2.0, 0.5]),
            primary=rng.random() < 0.3,
            status=rng.choice([HEALTHY, HEALTHY, UNHEALTHY]),
            admin=rng.choice([AdminState.ACTIVE] * 4 + [AdminState.DRAINING, AdminState.REMOVED]),
            order=rng.choice([None, None, None, rng.randrange(12)]),
            revision=number + 2,
        )
        for _ in range(rng.choice([1, 1, 1, 2, 5]))
    ]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("panic_percent", [0.0, 40.0])
def test_small_changes_leave_what_a_full_read_shows(seed: int, panic_percent: float) -> None:
    """Including cooldowns and ramps. The hash ring then gives each key to the same replica as any other router."""
    rng = random.Random(seed)
    view = view_of(Selection("hash", rng=random.Random(1)), panic_percent=panic_percent)
    for name in SPREADING:
        view.selection.select(name, None, ())
    for number in range(60):
        view.apply(changes_of(rng, number))
        if rng.random() < 0.2:
            view.cool(rng.sample([url(one) for one in range(12)], rng.randrange(4)))
        if rng.random() < 0.1:
            view.ramp({url(one): 0.5 for one in rng.sample(range(12), rng.randrange(3))}, ())
        if rng.random() < 0.1:
            view.withhold(not view._is_withheld)
        fresh = View(Selection("hash", rng=random.Random(1)), panic_percent=panic_percent)
        fresh.cool(view.cooling)
        fresh.ramp(view._shares, ())
        fresh.withhold(view._is_withheld)
        shown(fresh, *(one.record for one in view.all()))
        assert keys(view.all()) == keys(fresh.all())
        assert keys(view.preference) == keys(fresh.preference)
        assert keys([view.first]) == keys([fresh.first])
        for level, other in zip(view.selection._levels, fresh.selection._levels, strict=True):
            assert keys(level.replicas) == keys(other.replicas)
            assert level.weights() == other.weights()
            assert {weight: keys(each) for weight, each in level.classes.items()} == {
                weight: keys(each) for weight, each in other.classes.items()
            }
            assert level.full_weights == other.full_weights
        for policy in SPREADING:
            some = [view.selection.select(policy, key, ()) for key in KEYS[:20]]
            if policy == "hash":
                assert keys(some) == keys([fresh.selection.select(policy, key, ()) for key in KEYS[:20]])
            assert set(some) <= set(view.selection._levels[view.selection._first_level()].replicas) | {None}


def keys(replicas: Iterable[Replica | None]) -> list[str | None]:
    return [None if replica is None else replica.key for replica in replicas]


def test_a_change_moves_only_the_replica_that_it_touches(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = registry_of(*(record(number) for number in range(100)), policy="hash")
    for policy in SPREADING:
        registry.select(policy=policy)
    monkeypatch.setattr(Levels, "fill", lambda *_: pytest.fail("all were put in order anew"))
    monkeypatch.setattr(Ordered, "replace", lambda *_: pytest.fail("all were sorted"))
    monkeypatch.setattr(RingPoints, "join", never_more_than_one)
    registry._view.apply([record(3, status=UNHEALTHY, revision=2)])
    registry._view.apply([record(200, revision=3)])
    registry._view.apply([record(4, admin=AdminState.REMOVED, revision=4)])
    assert len(registry._view.preference) == 99


def never_more_than_one(_: RingPoints, sizes: Mapping[Replica, int]) -> None:
    assert len(sizes) < 2


def test_one_text_or_no_replica_is_no_list_of_replicas() -> None:
    registry = registry_of(record(0), record(1))
    for wrong in ("r0", b"r0", [None], [1], [b"r0"]):
        with pytest.raises(UsageError):
            registry.select(exclude=wrong)  # type: ignore[arg-type]
    for nothing in (None, b"r0", 1):
        with pytest.raises(UsageError):
            registry.get(nothing)  # type: ignore[arg-type]


def test_a_replica_is_excluded_by_a_name_that_it_had() -> None:
    named = [
        replace(one, endpoint=replace(one.endpoint, name=name))
        for one, name in zip((record(0), record(1)), "ab", strict=True)
    ]
    registry = registry_of(*named)
    shown(registry._view, named[1])
    chosen = registry.select(exclude=["a"])
    assert chosen is not None
    assert chosen.name == "b"
    shown(registry._view, replace(named[1], endpoint=replace(named[1].endpoint, name="c")))
    assert registry.select(exclude=["b"]) is None
    with pytest.raises(UnknownReplica):
        registry.get("b")
