"""Waiting for a replica's last session: woken by what is heard, and right also about what nobody says."""

from __future__ import annotations

import asyncio

import pytest

from shared_registry.happenings import Emitter, LeaseEnd, LeaseEnded, ReplicaEmptied
from shared_registry.registry.draining import LONGEST_PAUSE_IF_REPORTED_SECONDS, LONGEST_PAUSE_SECONDS, until_drained
from tests.support.fake_clock import FakeClock

KEY = "http://10.0.0.1:8000"


class Load:
    """The number of sessions in Redis, and how often it was read."""

    def __init__(self, sessions: int) -> None:
        self.sessions: int | None = sessions
        self.reads = 0

    async def read(self) -> int | None:
        self.reads += 1
        return self.sessions


@pytest.fixture
def emitter() -> Emitter:
    return Emitter()


def ended(key: str) -> LeaseEnded:
    return LeaseEnded(at=0.0, lease_id="1", key=key, end=LeaseEnd.RELEASED)


def is_active() -> bool:
    return False


async def test_the_end_of_the_last_session_wakes_it(clock: FakeClock, emitter: Emitter) -> None:
    load = Load(1)
    waiting = asyncio.ensure_future(
        until_drained(
            load.read, KEY, emitter.subscribe, is_reported=lambda: True, deadline=clock.monotonic() + 100, clock=clock
        )
    )
    await clock.advance(60.0)
    assert load.reads <= 60 / LONGEST_PAUSE_IF_REPORTED_SECONDS + 9
    load.sessions = 0
    emitter.emit(ReplicaEmptied(at=0.0, key="http://10.0.0.2:8000"))
    await clock.settle()
    assert not waiting.done()
    emitter.emit(ReplicaEmptied(at=0.0, key=KEY))
    await clock.settle()
    assert await waiting


async def test_the_readings_become_rare(clock: FakeClock, emitter: Emitter) -> None:
    load = Load(1)
    waiting = asyncio.ensure_future(
        until_drained(
            load.read, KEY, emitter.subscribe, is_reported=is_active, deadline=clock.monotonic() + 100, clock=clock
        )
    )
    await clock.advance(10.0)
    assert load.reads <= 10 / LONGEST_PAUSE_SECONDS + 6
    load.sessions = 0
    await clock.advance(LONGEST_PAUSE_SECONDS)
    assert await waiting
    assert not emitter.has_listeners


async def test_the_end_of_an_own_lease_wakes_it(clock: FakeClock, emitter: Emitter) -> None:
    load = Load(1)
    waiting = asyncio.ensure_future(
        until_drained(
            load.read, KEY, emitter.subscribe, is_reported=is_active, deadline=clock.monotonic() + 100, clock=clock
        )
    )
    await clock.advance(10.0)
    reads, load.sessions = load.reads, 0
    emitter.emit(ended("http://10.0.0.2:8000"))
    await clock.settle()
    assert load.reads == reads
    emitter.emit(ended(KEY))
    await clock.settle()
    assert await waiting


async def test_a_release_on_its_way_is_awaited_closely(clock: FakeClock, emitter: Emitter) -> None:
    load = Load(1)
    waiting = asyncio.ensure_future(
        until_drained(
            load.read, KEY, emitter.subscribe, is_reported=is_active, deadline=clock.monotonic() + 100, clock=clock
        )
    )
    await clock.advance(10.0)
    emitter.emit(ended(KEY))
    await clock.settle()
    load.sessions = None
    await clock.advance(0.05)
    assert waiting.done()
    assert await waiting


async def test_the_deadline_ends_it(clock: FakeClock, emitter: Emitter) -> None:
    deadline = clock.monotonic() + 0.3
    waiting = asyncio.ensure_future(
        until_drained(Load(1).read, KEY, emitter.subscribe, is_reported=is_active, deadline=deadline, clock=clock)
    )
    await clock.advance(0.3)
    assert waiting.done()
    assert not await waiting
    assert not emitter.has_listeners
