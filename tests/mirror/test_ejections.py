"""Ejections in a router's own view: they end by its own clock, also while Redis is away, and stay ended."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import cast

from shared_registry.errors import StoreUnavailable
from shared_registry.leases.attempts import attempts_of
from shared_registry.mirror.ejections import Ejections
from shared_registry.mirror.mirror import Mirror, Notice
from shared_registry.model import Event, EventKind, ReplicaRecord
from shared_registry.selection import Selection
from shared_registry.store.reader import Reader
from tests.support.choices import record, shown, url, view_of
from tests.support.fake_clock import FakeClock

OFFSET = 1_700_000_000.0
BASE, GRACE = 30.0, 2.0


class Server:
    """The mirror of a router, as far as ejections know it, and the server's clock."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.view = view_of(Selection("priority", rng=random.Random(1)), panic_percent=60.0)
        self.listeners: list[Notice] = []
        self.is_away = False
        self.asked = 0

    @contextlib.contextmanager
    def subscribed(self, *listeners: Notice):  # type: ignore[no-untyped-def]  # noqa: ANN201  as the mirror's
        self.listeners += listeners
        yield

    async def server_time(self) -> float:
        self.asked += 1
        if self.is_away:
            raise StoreUnavailable("away")
        return OFFSET + self.clock.monotonic()

    def eject(self, number: int, seconds: float, *, revision: int = 2) -> ReplicaRecord:
        ejected = record(
            number, revision=revision, ejected_until=OFFSET + self.clock.monotonic() + seconds, ejections=1
        )
        self.view.apply([ejected])
        for listener in self.listeners:
            listener([Event("2-0", EventKind.REPLICA_EJECTED, 0.0, "1-0", "r", 1, record=ejected)])
        return ejected

    def selectable(self) -> set[str]:
        return {replica.key for replica in self.view.preference}


@contextlib.asynccontextmanager
async def watched(clock: FakeClock) -> AsyncIterator[Server]:
    server = Server(clock)
    shown(server.view, record(0), record(1))
    work = Ejections(
        cast("Reader", server), cast("Mirror", server), base_seconds=BASE, grace_seconds=GRACE, clock=clock
    )
    task = asyncio.ensure_future(work.run())
    await clock.settle()
    try:
        yield server
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_an_ejected_replica_is_selected_again_after_its_time() -> None:
    clock = FakeClock()
    async with watched(clock) as server:
        assert server.asked == 0
        server.eject(0, 10.0)
        await clock.settle()
        assert server.selectable() == {url(1)}
        await clock.advance(10.0 + GRACE - 0.1)
        assert server.selectable() == {url(1)}
        await clock.advance(0.2)
        assert server.selectable() == {url(0), url(1)}
        assert server.asked == 1


async def test_without_redis_an_ejection_lasts_its_first_length() -> None:
    clock = FakeClock()
    async with watched(clock) as server:
        server.is_away = True
        server.eject(0, 10.0)
        await clock.settle()
        await clock.advance(BASE + GRACE - 0.1)
        assert server.selectable() == {url(1)}
        await clock.advance(0.2)
        assert server.selectable() == {url(0), url(1)}


async def test_an_ended_ejection_that_is_read_again_stays_ended() -> None:
    clock = FakeClock()
    async with watched(clock) as server:
        ejected = server.eject(0, 10.0)
        await clock.settle()
        await clock.advance(10.0 + GRACE + 0.1)
        server.view.read([ejected])
        assert server.selectable() == {url(0), url(1)}
        server.view.replace_all({ejected.key: ejected, url(1): record(1)})
        assert server.selectable() == {url(0), url(1)}
        server.eject(0, 10.0, revision=3)
        await clock.settle()
        assert server.selectable() == {url(1)}, "another ejection is another one"


async def test_an_end_that_redis_reports_is_the_end() -> None:
    clock = FakeClock()
    async with watched(clock) as server:
        server.eject(0, 100.0)
        await clock.settle()
        server.view.apply([record(0, revision=3)])
        assert server.selectable() == {url(0), url(1)}
        server.eject(0, 500.0, revision=4)
        await clock.settle()
        await clock.advance(200.0)
        assert server.selectable() == {url(1)}


def test_an_ejected_replica_counts_and_serves_in_panic() -> None:
    view = view_of(Selection("priority", rng=random.Random(1)), panic_percent=60.0)
    shown(view, record(0), record(1))
    assert view.panic is None
    shown(view, replace(record(0), ejected_until=OFFSET), record(1))
    assert str(view.panic) == "1 of 2 active replicas healthy, panic_percent is 60"
    assert [replica.key for replica in view.spares] == [url(0)]


def test_an_ejected_replica_that_was_tried_counts_as_a_spare() -> None:
    view = view_of(Selection("priority", rng=random.Random(1)))
    shown(view, *(replace(record(number), ejected_until=OFFSET) for number in (0, 1)), record(2))
    first, second, ready = view.all()
    assert attempts_of([first, ready], view).may_try_spare
    assert not attempts_of([first, second], view).may_try_spare
