"""Replicas in cooldown come last, for as long as they should, and nobody looks at a clock to select."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from shared_registry.model import ReplicaEndpoint, ReplicaHealth, ReplicaStatus
from shared_registry.selection.cooldown import REACH_SECONDS, Cooldown
from shared_registry.selection.view import View
from tests.support.fake_clock import FakeClock
from tests.support.leasing_router import A, B, C

SECONDS = 5.0


@pytest.fixture
def view() -> View:
    view = View()
    view.show_configured([ReplicaEndpoint(A, primary=True), ReplicaEndpoint(B, primary=True), ReplicaEndpoint(C)])
    for replica in view.all():
        view.set_health(replica, ReplicaHealth(ReplicaStatus.HEALTHY))
    return view


@pytest.fixture
async def cooldown(view: View, clock: FakeClock) -> AsyncIterator[Cooldown]:
    cooldown = Cooldown(view, seconds=SECONDS, clock=clock)
    task = asyncio.ensure_future(cooldown.run())
    await clock.settle()
    yield cooldown
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


def preference(view: View) -> list[str]:
    return [replica.key for replica in view.preference]


async def test_a_cooling_replica_comes_last_for_that_time(cooldown: Cooldown, view: View, clock: FakeClock) -> None:
    cooldown.begin(A)
    assert preference(view) == [B, C, A]
    assert view.first is not None
    assert view.first.key == B
    assert view.cooling == {A}
    await clock.advance(SECONDS - 0.01)
    assert view.cooling == {A}
    await clock.advance(0.02)
    assert view.cooling == set()
    assert preference(view)[0] == A


async def test_each_cooldown_ends_in_its_own_time(cooldown: Cooldown, view: View, clock: FakeClock) -> None:
    cooldown.begin(A)
    await clock.advance(2)
    cooldown.begin(B)
    assert view.first is not None
    assert view.first.key == C
    await clock.advance(3.01)
    assert view.cooling == {B}
    await clock.advance(2)
    assert view.cooling == set()


async def test_another_failure_restarts_the_cooldown(cooldown: Cooldown, view: View, clock: FakeClock) -> None:
    cooldown.begin(A)
    await clock.advance(4)
    cooldown.begin(A)
    await clock.advance(4)
    assert view.cooling == {A}
    await clock.advance(1.01)
    assert view.cooling == set()


async def test_a_success_ends_the_cooldown(cooldown: Cooldown, view: View, clock: FakeClock) -> None:
    cooldown.begin(A)
    cooldown.begin(B)
    cooldown.end(A)
    cooldown.end(C)
    assert view.cooling == {B}
    await clock.advance(SECONDS + 0.01)
    assert view.cooling == set()


async def test_if_all_cool_down_none_is_avoided(cooldown: Cooldown, view: View, clock: FakeClock) -> None:
    before = preference(view)
    for key in (A, B, C):
        cooldown.begin(key)
    assert preference(view) == before


async def test_without_cooldowns_the_task_sleeps_long(cooldown: Cooldown, view: View, clock: FakeClock) -> None:
    assert clock.next_wake is not None
    assert clock.next_wake - clock.monotonic() >= 3600
    cooldown.begin(A)
    await clock.settle()
    assert clock.next_wake - clock.monotonic() == pytest.approx(SECONDS)


async def test_a_cooldown_of_no_length_does_nothing(view: View, clock: FakeClock) -> None:
    cooldown = Cooldown(view, seconds=0.0, clock=clock)
    cooldown.begin(A)
    assert view.cooling == set()
    assert view.first is not None
    assert view.first.key == A


async def test_a_replica_that_no_probe_reaches_comes_last(cooldown: Cooldown, view: View, clock: FakeClock) -> None:
    cooldown.reach([A], False)
    await clock.advance(REACH_SECONDS)
    assert preference(view) == [B, C, A]
    await clock.advance(10 * SECONDS)
    assert view.cooling == {A}, "until a probe reaches it"
    cooldown.reach([A], True)
    await clock.advance(REACH_SECONDS)
    assert preference(view)[0] == A


async def test_many_probes_at_once_change_the_view_once(
    cooldown: Cooldown, view: View, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each change orders all replicas anew, which would keep a router busy for seconds where a thousand die."""
    shown: list[set[str]] = []
    monkeypatch.setattr(view, "cool", lambda keys: shown.append(set(keys)))
    for number in range(1000):
        cooldown.reach([f"http://10.1.{number // 250}.{number % 250}:8000"], False)
        cooldown.reach([A], False)
        await asyncio.sleep(0)
    await clock.advance(REACH_SECONDS)
    assert [len(keys) for keys in shown] == [1001]


async def test_a_failed_session_shows_also_what_probes_found(cooldown: Cooldown, view: View, clock: FakeClock) -> None:
    cooldown.reach([B], False)
    cooldown.begin(A)
    assert view.cooling == {A, B}, "at once"
    await clock.advance(SECONDS + 0.01)
    assert view.cooling == {B}
