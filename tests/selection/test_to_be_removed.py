"""The view knows the replicas to be removed with their last session without looking at all."""

from __future__ import annotations

from dataclasses import replace

from shared_registry.model import AdminState, Removal, Replica, ReplicaEndpoint, ReplicaRecord
from shared_registry.selection.view import View

A, B = "http://a:8000", "http://b:8000"


def record(url: str, revision: int, **changes: object) -> ReplicaRecord:
    return replace(Replica(ReplicaEndpoint(url, order=0)).record, revision=f"{revision}-0", **changes)  # type: ignore[arg-type]


def drained(url: str, revision: int, **changes: object) -> ReplicaRecord:
    return record(url, revision, admin=AdminState.DRAINING, removes_when_drained=True, **changes)


def test_events_begin_and_end_a_drain() -> None:
    view = View()
    view.apply([record(A, 1), drained(B, 2)])
    assert list(view.to_be_removed) == [B]
    view.apply([drained(A, 3), record(B, 4)])
    assert list(view.to_be_removed) == [A]


def test_a_removed_replica_is_no_longer_to_be_removed() -> None:
    view = View()
    view.apply([drained(A, 1)])
    view.apply([drained(A, 2, in_flight=1)])
    assert list(view.to_be_removed) == [A]
    view.apply([record(A, 3, admin=AdminState.REMOVED)])
    assert not view.to_be_removed


def test_a_full_read_begins_and_ends_drains() -> None:
    view = View()
    view.apply([drained(A, 1)])
    view.replace_all({B: drained(B, 2)}, {A: Removal("2-0")})
    assert list(view.to_be_removed) == [B]
    view.replace_all({B: record(B, 3)})
    assert not view.to_be_removed
