"""A router takes over what it reads in pieces, and other tasks run in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from shared_registry.aio import breath
from shared_registry.mirror import mirror as mirror_module
from shared_registry.mirror.mirror import BURST_CHANGES, BURST_SECONDS
from shared_registry.model import Removal, ReplicaHealth, ReplicaRecord, ReplicaStatus
from shared_registry.selection import Selection, policy_names
from shared_registry.selection.view import AT_ONCE, View
from tests.support.choices import record, shown, url
from tests.support.fake_clock import FakeClock
from tests.support.mirroring_router import MirroringRouter
from tests.support.scripted_reader import History

UNHEALTHY = ReplicaStatus.UNHEALTHY


async def turns_during(work: asyncio.Future[None], look: Callable[[], object]) -> list[object]:
    """Return what another task sees in each of its turns until the work ends."""
    seen = []
    while not work.done():
        await asyncio.sleep(0)
        seen.append(look())
    await work
    return seen


@pytest.mark.parametrize("policy", policy_names())
async def test_a_full_read_lets_others_run_and_ends_whole(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breath, "PIECE_SECONDS", 0.0)
    view = shown(View(Selection(policy)), *(record(number) for number in range(50)))
    kept = view.get(url(20))
    records = {each.key: each for each in (record(number, revision=2) for number in range(20, 20 + 5 * AT_ONCE))}
    selected = await turns_during(
        asyncio.ensure_future(view.load(records, {url(0): Removal("2-0")})),
        lambda: view.selection.select(None, "k", ()),
    )
    assert len(selected) >= 5
    assert None not in selected
    assert [replica.key for replica in view.all()] == list(records)
    assert {replica.key for replica in view.preference} == set(records)
    assert view.get(url(20)) is kept
    assert view.removed == {url(0): Removal("2-0")}


async def test_a_write_during_a_full_read_is_not_undone_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mirror applies it again at the end. Until then no piece shows the replica as before the write."""
    monkeypatch.setattr(breath, "PIECE_SECONDS", 0.0)
    view = shown(View(Selection()), record(0))
    records = {each.key: each for each in (record(number, revision=2) for number in range(300, 0, -1))}
    work = asyncio.ensure_future(view.load(records, {}))
    await asyncio.sleep(0)
    written: ReplicaRecord = record(1, status=UNHEALTHY, revision=9)
    view.apply([written])

    def status() -> ReplicaHealth | None:
        replica = view.get(url(1))
        return None if work.done() or replica is None else replica.health

    seen = await turns_during(work, status)
    assert {health.status for health in seen if isinstance(health, ReplicaHealth)} == {UNHEALTHY}
    assert view.get(url(1)).record is records[url(1)]  # type: ignore[union-attr]


def test_pieces_of_events_are_short() -> None:
    assert mirror_module.CHANGES_AT_ONCE * 5 <= AT_ONCE


def test_a_ramp_of_many_is_settled_in_steps() -> None:
    count = 30 * AT_ONCE
    view = shown(View(Selection("round_robin"), panic_percent=50), *(record(number) for number in range(count)))
    half = {url(number): 0.5 for number in range(count // 2)}
    view.ramp(half, half.keys())
    steps = 1
    while not view.settle():
        steps += 1
    assert steps >= 10
    weights = dict(zip((one.key for one in view.all()), view.selection._levels[1].weights(), strict=True))
    assert {weight for key, weight in weights.items() if key in half} == {0.5}
    assert {weight for key, weight in weights.items() if key not in half} == {1.0}
    everyone = {url(number): 0.3 for number in range(count)}
    view.ramp(everyone, everyone.keys())
    while not view.settle():
        pass
    assert set(view.selection._levels[1].weights()) == {1.0}, "if all ramp up, the result is as without ramps"


async def test_in_a_burst_one_read_brings_what_many_reports_wrote(
    router: MirroringRouter, history: History, clock: FakeClock
) -> None:
    for _ in range(BURST_CHANGES):
        history.change(1)
    await clock.advance(BURST_SECONDS / 4)
    assert router.is_equal, "the first ones come at once"
    reads = router.reader.count("wait_events")
    for _ in range(5):
        history.change(2)
        await clock.advance(BURST_SECONDS / 8)
    assert router.reader.count("wait_events") == reads, "others are let come"
    await clock.advance(BURST_SECONDS)
    assert router.is_equal
    assert router.reader.count("wait_events") == reads + 2, "one for those, and one for the next"


async def test_many_changes_in_one_event_are_a_burst_too(
    router: MirroringRouter, history: History, clock: FakeClock
) -> None:
    for number in range(4, 4 + BURST_CHANGES):
        history.register(number)
    await clock.advance(1.0)
    assert router.is_equal
    history.turn(range(4, 4 + BURST_CHANGES), ReplicaStatus.HEALTHY)
    await clock.advance(BURST_SECONDS / 4)
    assert router.is_equal
    reads = router.reader.count("wait_events")
    history.change(2)
    await clock.advance(BURST_SECONDS / 2)
    assert router.reader.count("wait_events") == reads, "others are let come"
    await clock.advance(BURST_SECONDS)
    assert router.is_equal


async def test_single_changes_are_read_at_once(router: MirroringRouter, history: History, clock: FakeClock) -> None:
    for number in range(BURST_CHANGES):
        history.change(1 + number % 3)
        await clock.advance(BURST_SECONDS / 100)
        assert router.is_equal
