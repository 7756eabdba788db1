"""What a repair put in order is on no event: mirrors read everything anew."""

from __future__ import annotations

from dataclasses import replace

from shared_registry.model import EventKind
from tests.support.fake_clock import FakeClock
from tests.support.mirroring_router import following, three_healthy
from tests.support.scripted_reader import url_of


async def test_a_repair_shows_changes_that_no_event_carried() -> None:
    clock, history = FakeClock(), three_healthy()
    async with following(clock, history) as router:
        record = history.records[url_of(2)]
        history.records[url_of(2)] = replace(record, endpoint=replace(record.endpoint, weight=7.0))
        history.emit(EventKind.NAMESPACE_REPAIRED)
        await clock.run_until(lambda: router.handle(2).endpoint.weight == 7.0, within=3)
        assert router.is_equal
