"""Own writes are pending until the event stream carries them, and are a gap when it passes them by."""

from __future__ import annotations

import pytest

from shared_registry.mirror.own_writes import OwnWrites
from shared_registry.model import Event, EventKind
from shared_registry.store.reader import Gap


def event(number: int) -> Event:
    return Event(f"{number}-0", EventKind.REPLICA_ADMIN, at=0.0, previous=f"{number - 1}-0", router="r~1", epoch=1)


@pytest.fixture
def writes() -> OwnWrites:
    """Two writes, 3 and 5."""
    writes = OwnWrites()
    writes.add([event(3), event(5)], revision="2-0")
    return writes


def test_a_write_that_the_stream_has_carried_is_not_pending(writes: OwnWrites) -> None:
    writes.add([event(1), event(2), event(6)], revision="2-0")
    assert writes.pending() == (event(3), event(5), event(6))


def test_the_stream_ends_the_wait_for_what_it_carries(writes: OwnWrites) -> None:
    writes.pass_by([event(3), event(4)])
    assert writes.pending() == (event(5),)


def test_a_write_that_the_stream_passes_by_is_a_gap(writes: OwnWrites) -> None:
    with pytest.raises(Gap):
        writes.pass_by([event(4)])
    assert writes.pending() == (event(5),)


def test_ids_are_compared_as_numbers(writes: OwnWrites) -> None:
    assert writes.later_than("3-0") == [event(5)]
    assert writes.later_than("10-0") == []
    assert writes.later_than("2-99") == [event(3), event(5)]


def test_a_pending_write_that_must_have_come_is_a_gap(writes: OwnWrites) -> None:
    with pytest.raises(Gap):
        writes.expect_carried([event(3)])
    assert writes.pending() == (event(5),)


def test_a_write_that_has_come_is_no_gap(writes: OwnWrites) -> None:
    writes.pass_by([event(3), event(4)])
    writes.expect_carried([event(3)])
    assert writes.pending() == (event(5),)


def test_only_the_kept_writes_stay_pending(writes: OwnWrites) -> None:
    writes.keep([event(5)])
    assert writes.pending() == (event(5),)
