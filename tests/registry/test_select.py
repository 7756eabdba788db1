"""`select()`: what it costs, what it leaves out, and the handles that it returns."""

from __future__ import annotations

import gc
import inspect
import re
import sys
import tracemalloc
import weakref
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import repeat
from typing import Any, NoReturn

import pytest

from shared_registry import (
    AdminState,
    ConfigError,
    Replica,
    ReplicaEndpoint,
    ReplicaHealth,
    ReplicaStatus,
    RouterConfig,
    UnknownReplica,
)
from shared_registry.model import ReplicaRecord
from shared_registry.registry.facade import SharedReplicaRegistry
from shared_registry.selection.view import View

HEALTHY, UNHEALTHY, UNKNOWN = ReplicaStatus.HEALTHY, ReplicaStatus.UNHEALTHY, ReplicaStatus.UNKNOWN
ACTIVE, DRAINING = AdminState.ACTIVE, AdminState.DRAINING
DISABLED, REMOVED = AdminState.DISABLED, AdminState.REMOVED
CALLS = 10_000


def url(number: int) -> str:
    return f"http://10.0.{number // 250}.{number % 250}:8000"


def record(
    number: int,
    *,
    primary: bool = False,
    status: ReplicaStatus = HEALTHY,
    admin: AdminState = ACTIVE,
    revision: int = 1,
    **spec: Any,
) -> ReplicaRecord:
    endpoint = ReplicaEndpoint(url(number), primary=primary, order=spec.pop("order", number))
    return ReplicaRecord(
        url(number), endpoint, ReplicaHealth(status), admin=admin, revision=f"{revision}-0", incarnation="i", **spec
    )


def named(record: ReplicaRecord, name: str) -> ReplicaRecord:
    return replace(record, endpoint=replace(record.endpoint, name=name))


def view_of(*records: ReplicaRecord) -> View:
    view = View()
    view.replace_all({each.key: each for each in records})
    return view


def registry_of(*records: ReplicaRecord) -> SharedReplicaRegistry:
    """Return a registry whose view shows these."""
    registry = SharedReplicaRegistry(RouterConfig())
    registry._view.replace_all({each.key: each for each in records})
    return registry


def numbers(replicas: Iterable[Replica]) -> list[int]:
    return [int(replica.url.split(".")[3].partition(":")[0]) for replica in replicas]


def chosen(replica: Replica | None) -> int | None:
    return numbers([replica])[0] if replica else None


# What it costs


def peak_bytes(work: Callable[[], object], times: int) -> int:
    """Return how much memory the work had in use at most, over many repetitions."""
    work()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in repeat(None, times):
            work()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("status", [HEALTHY, UNHEALTHY])
@pytest.mark.parametrize("replicas", [0, 1, 1000])
def test_select_allocates_nothing(replicas: int, status: ReplicaStatus) -> None:
    registry = registry_of(*(record(number, status=status) for number in range(replicas)))
    assert peak_bytes(lambda: None, 10) == peak_bytes(registry.select, CALLS)
    assert peak_bytes(lambda: registry.select(exclude=()), CALLS) == peak_bytes(lambda: None, 10)


def test_select_leaves_no_memory_block_behind() -> None:
    select = registry_of(*(record(number) for number in range(1000))).select
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in repeat(None, CALLS):
        select()
    assert sys.getallocatedblocks() - before < CALLS / 100  # others may allocate a little meanwhile


def test_select_is_synchronous_and_needs_no_event_loop() -> None:
    assert not inspect.iscoroutinefunction(SharedReplicaRegistry.select)
    assert chosen(registry_of(record(7)).select()) == 7


class Untouchable:
    """A record that nobody may look at."""

    def __getattribute__(self, name: str) -> NoReturn:
        raise AssertionError(f"select() read {name}")


def make_untouchable(registry: SharedReplicaRegistry) -> None:
    for replica in registry.all():
        replica.record = Untouchable()  # type: ignore[assignment]


@pytest.mark.parametrize("status", [HEALTHY, UNHEALTHY])
def test_select_reads_no_replica_once_the_preference_is_prepared(status: ReplicaStatus) -> None:
    registry = registry_of(*(record(number, status=status) for number in range(10)))
    expected = registry.all()[0] if status is HEALTHY else None
    make_untouchable(registry)
    assert registry.select() is expected
    assert registry.select(key="client 7") is expected


def test_select_calls_no_function_of_its_own() -> None:
    registry = registry_of(record(0))
    called: list[str] = []

    def note(frame: Any, event: str, argument: object) -> None:
        if event == "call":
            called.append(frame.f_code.co_name)

    sys.setprofile(note)
    try:
        registry.select()
    finally:
        sys.setprofile(None)
    assert called == ["select"]


# What it leaves out


@pytest.mark.parametrize(
    ("excluded", "expected"),
    [
        ([], 1),
        ([1], 3),
        ([3], 1),
        ([1, 3], 0),
        ([0, 1, 3], 2),
        ([0, 1, 2, 3], None),
    ],
)
@pytest.mark.parametrize("as_replicas", [True, False])
@pytest.mark.parametrize("collection", [list, tuple, set, frozenset, dict.fromkeys])
def test_excluded_replicas_are_passed_over(
    excluded: list[int],
    expected: int | None,
    as_replicas: bool,
    collection: Callable[[Iterable[Any]], Any],
) -> None:
    registry = registry_of(*(record(number, primary=number in (1, 3)) for number in range(4)))
    given = [registry.get(url(number)) or url(number) if as_replicas else url(number) for number in excluded]
    assert chosen(registry.select(exclude=collection(given))) == expected
    assert chosen(registry.select()) == 1


@pytest.mark.parametrize("spelling", ["HTTP://10.0.0.0:8000", "http://10.0.0.0:8000/"])
def test_a_url_excludes_in_any_spelling(spelling: str) -> None:
    assert chosen(registry_of(record(0), record(1)).select(exclude=[spelling])) == 1


@pytest.mark.parametrize("nonsense", ["http://", "http://10.0.0.0:8000/path", "http://[::"])
def test_an_invalid_excluded_url_is_refused(nonsense: str) -> None:
    registry = registry_of(record(0))
    with pytest.raises(ConfigError):
        registry.select(exclude=[nonsense])
    with pytest.raises(ConfigError):
        registry.get(nonsense)


@pytest.mark.parametrize(
    ("unknown", "said"),
    [
        ("", "no replica has the name ''; see"),
        ("gpu-11", "no replica has the name 'gpu-11'; did you mean 'gpu-1'?"),
        ("http://10.0.0.0:8001", "no replica has the url http://10.0.0.0:8001; did you mean 'http://10.0.0.0:8000'?"),
    ],
)
def test_an_unknown_excluded_replica_is_an_error(unknown: str, said: str) -> None:
    registry = registry_of(named(record(0), "gpu-1"))
    with pytest.raises(UnknownReplica, match=re.escape(said)):
        registry.select(exclude=[unknown])


def test_a_replica_is_found_by_handle_url_or_name() -> None:
    registry = registry_of(named(record(0), "gpu-1"), named(record(1), "gpu-2"), named(record(2), "gpu-2"))
    first = registry.all()[0]
    assert registry.get(first) is registry.get(first.url) is registry.get("gpu-1") is first
    assert chosen(registry.select(exclude=["gpu-1"])) == 1
    with pytest.raises(UnknownReplica, match="several replicas have the name 'gpu-2'; give the url of one"):
        registry.get("gpu-2")
    assert registry.get(url(9)) is None


def test_a_removed_replica_may_be_excluded_by_its_url() -> None:
    registry = registry_of(record(0), record(1))
    registry._view.apply([record(0, admin=AdminState.REMOVED, revision=2)])
    assert chosen(registry.select(exclude=[url(0)])) == 1


def test_a_handle_on_a_removed_replica_excludes_the_url() -> None:
    registry = registry_of(record(0), record(1))
    held = registry.all()[0]
    registry._view.apply([record(0, admin=REMOVED, revision=2)])
    registry._view.apply([record(0, revision=3)])
    assert chosen(registry.select(exclude=[held])) == 1


@pytest.mark.parametrize(
    ("status", "admin", "is_selected"),
    [
        (HEALTHY, ACTIVE, True),
        (HEALTHY, DRAINING, False),
        (HEALTHY, DISABLED, False),
        (HEALTHY, REMOVED, False),
        (UNHEALTHY, ACTIVE, False),
        (UNHEALTHY, DRAINING, False),
        (UNKNOWN, ACTIVE, False),
        (UNKNOWN, DISABLED, False),
    ],
)
def test_only_healthy_and_active_replicas_are_selected(
    status: ReplicaStatus, admin: AdminState, is_selected: bool
) -> None:
    registry = registry_of(record(0, status=UNKNOWN), record(1))
    registry._view.apply([record(0, status=status, admin=admin, revision=2)])
    assert chosen(registry.select()) == (0 if is_selected else 1)
    assert chosen(registry.select(exclude=[url(1)])) == (0 if is_selected else None)


def test_selection_follows_draining_and_enabling_at_once() -> None:
    registry = registry_of(record(0, primary=True), record(1))
    registry._view.apply([record(0, primary=True, admin=DRAINING, revision=2)])
    assert chosen(registry.select()) == 1
    registry._view.apply([record(0, primary=True, admin=ACTIVE, revision=3)])
    assert chosen(registry.select()) == 0


def test_a_changed_tier_or_order_counts_at_once() -> None:
    registry = registry_of(record(0), record(1), record(2))
    registry._view.apply([record(2, primary=True, revision=2)])
    assert chosen(registry.select()) == 2
    registry._view.apply([record(2, revision=3)])
    assert chosen(registry.select()) == 0
    registry._view.apply([record(1, order=-1, revision=4)])
    assert chosen(registry.select()) == 1


def test_a_withheld_view_selects_nothing_but_shows_replicas() -> None:
    registry = registry_of(record(0), record(1))
    registry._view.withhold(True)
    assert registry.select() is None
    assert registry.select(exclude=[url(0)]) is None
    assert numbers(registry.all()) == [0, 1]
    registry._view.apply([record(2, primary=True, revision=5)])
    assert registry.select() is None
    registry._view.withhold(False)
    assert chosen(registry.select()) == 2


def test_an_empty_registry_selects_nothing() -> None:
    assert registry_of().select() is None
    assert registry_of().select(policy="round_robin") is None


# The handles


def test_one_url_always_has_one_handle() -> None:
    registry = registry_of(record(0), record(1))
    held = registry.select()
    registry._view.apply([record(0, status=UNHEALTHY, revision=2)])
    registry._view.apply([record(0, status=HEALTHY, revision=3)])
    registry._view.read([record(0, revision=3, in_flight=4)])
    registry._view.replace_all({each.key: each for each in (record(0, revision=9), record(2))})
    assert registry.select() is held
    assert held is registry.all()[0] is registry.get(url(0))


@pytest.mark.parametrize("removed_by", ["event", "full read"])
def test_a_held_handle_survives_the_removal_of_its_replica(removed_by: str) -> None:
    """It comes back with its url."""
    registry = registry_of(record(0), record(1))
    view = registry._view
    held = registry.all()[0]
    if removed_by == "event":
        view.apply([record(0, admin=REMOVED, revision=2)])
    else:
        view.replace_all({url(1): record(1, revision=2)})
    assert held.admin is REMOVED
    assert registry.get(url(0)) is None
    assert (numbers(registry.all()), chosen(registry.select())) == ([1], 1)

    view.apply([record(0, primary=True, status=UNKNOWN, revision=3)])
    assert registry.get(url(0)) is held
    assert (held.admin, held.primary, held.is_healthy) == (ACTIVE, True, False)
    view.apply([record(0, primary=True, revision=4)])
    assert registry.select() is held


def test_a_handle_without_a_reference_is_not_kept() -> None:
    registry = registry_of(record(0), record(1))
    handle = weakref.ref(registry.all()[0])
    registry._view.apply([record(0, admin=REMOVED, revision=2)])
    gc.collect()
    assert handle() is None


def test_a_handle_shows_one_whole_record_after_the_other() -> None:
    registry = registry_of(record(0))
    held = registry.all()[0]
    health = held.health
    registry._view.apply([record(0, status=UNHEALTHY, revision=2)])
    assert (health.status, held.health.status) == (HEALTHY, UNHEALTHY)


# What the view takes in


def test_replicas_are_ordered_by_order_then_url() -> None:
    view = view_of(record(3, order=1), record(1, order=2), record(2, order=1), record(0, order=5))
    assert numbers(view.all()) == [2, 3, 1, 0]
    view.apply([record(4, order=0, revision=2), record(1, order=9, revision=2)])
    assert numbers(view.all()) == [4, 2, 3, 0, 1]
    assert numbers(view.preference) == [4, 2, 3, 0, 1]


def test_the_preference_has_the_primaries_first_each_tier_in_order() -> None:
    view = view_of(*(record(number, primary=number % 2 == 1) for number in range(6)))
    assert numbers(view.preference) == [1, 3, 5, 0, 2, 4]
    assert chosen(view.first) == 1


def test_configured_endpoints_are_ordered_as_registering_would() -> None:
    view = View()
    orders = [None, 7, 0, None]
    view.show_configured([ReplicaEndpoint(url(number), order=order) for number, order in enumerate(orders)])
    assert numbers(view.all()) == [0, 2, 1, 3]
    assert {replica.health.status for replica in view.all()} == {UNKNOWN}
    assert view.first is None


@pytest.mark.parametrize("revision", [1, 5])
def test_an_outdated_event_changes_nothing(revision: int) -> None:
    view = view_of(record(0, revision=5))
    view.apply([record(0, status=UNHEALTHY, revision=revision)])
    view.apply([record(0, admin=REMOVED, revision=revision)])
    assert chosen(view.first) == 0


def test_an_event_keeps_the_load_that_was_read() -> None:
    view = view_of(record(0, in_flight=3))
    view.apply([record(0, revision=2)])
    assert view.all()[0].in_flight == 3


def test_a_full_read_replaces_records_unless_it_is_older() -> None:
    view = view_of(record(0, revision=5))
    view.read([record(0, revision=5, in_flight=2, status=UNKNOWN)])
    assert (view.all()[0].in_flight, view.first) == (2, None)
    view.read([record(0, revision=4, in_flight=9)])
    assert view.all()[0].in_flight == 2
    view.read([record(1, revision=9)])
    assert numbers(view.all()) == [0]


def test_an_event_older_than_a_removal_restores_no_replica() -> None:
    view = view_of(record(0), record(1))
    view.apply([record(0, admin=REMOVED, revision=5)])  # as the reply to a command shows it, ahead of the event stream
    view.apply([record(0, revision=3)])
    assert (numbers(view.all()), chosen(view.first)) == ([1], 1)
    view.apply([record(0, revision=6)])
    assert (numbers(view.all()), chosen(view.first)) == ([0, 1], 0)


def test_the_removal_of_an_unknown_replica_changes_nothing() -> None:
    view = view_of(record(0))
    view.apply([record(1, admin=REMOVED, revision=2)])
    assert numbers(view.all()) == [0]
