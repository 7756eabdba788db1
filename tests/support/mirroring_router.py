"""A mirror over a scripted history, and what it did."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace

from shared_registry.happenings import Emitter
from shared_registry.mirror.mirror import Mirror
from shared_registry.mirror.rest import Rest
from shared_registry.model import Event, Leader, Replica
from shared_registry.selection.view import View
from shared_registry.store.replies import Heartbeat
from tests.support.fake_clock import FakeClock
from tests.support.scripted_reader import History, ScriptedReader, url_of

REFRESH = 1.0


class MirroringRouter:
    """A mirror under test, what it was told to do on a lost history, and what it told its listeners."""

    def __init__(
        self, clock: FakeClock, history: History, *, max_staleness: float | None = None, heartbeat: float = REFRESH
    ) -> None:
        self.clock = clock
        self.reader = ScriptedReader(clock, history)
        self.lost: list[tuple[str | None, list[str]]] = []
        self.on_lost: Callable[[], Awaitable[None]] | None = None
        self.received: list[list[str]] = []
        self.view = View()
        self.mirror = Mirror(
            self.reader.as_reader(),
            self.view,
            rest=Rest(refresh_seconds=REFRESH, heartbeat_seconds=heartbeat, clock=clock),
            max_staleness_seconds=max_staleness,
            clock=clock,
            rng=random.Random(1),
            on_lost_history=self._lose_history,
            emitter=Emitter(),
        )
        self.task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.mirror.load()
        self.task = asyncio.ensure_future(self.mirror.run())
        await self.clock.settle()

    async def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])
            assert self.task.cancelled(), self.task

    def hear(self) -> None:
        """Take the reply to a heartbeat that Redis has just answered."""
        history = self.reader.history
        self.mirror.hear(Heartbeat(history.history_id or "", history.revision, joined=False, expired=()))

    async def send_heartbeats(self, count: int) -> None:
        """Let time pass, with a heartbeat each REFRESH, and none at the end."""
        for _ in range(count):
            self.hear()
            await self.clock.advance(REFRESH)

    def shown(self) -> list[str]:
        return [replica.key for replica in self.view.all()]

    def handle(self, number: int) -> Replica:
        replica = self.view.get(url_of(number))
        assert replica is not None
        return replica

    def first(self) -> Replica | None:
        """Return what `select()` would."""
        return self.view.first

    def leader(self) -> Leader | None:
        return self.mirror.leader

    def is_stale(self) -> bool:
        return self.mirror.is_stale

    @property
    def is_equal(self) -> bool:
        """Whether the view shows exactly what the history holds, leaving aside what no event carries."""
        mirrored = {replica.key: replace(replica.record, in_flight=0) for replica in self.view.all()}
        held = {key: replace(record, in_flight=0) for key, record in self.reader.history.records.items()}
        return mirrored == held and self.mirror.revision == self.reader.history.revision

    def listen(self, events: Sequence[Event]) -> None:
        self.received.append([event.id for event in events])

    async def _lose_history(self) -> str | None:
        self.lost.append((self.mirror.history_id, self.shown()))
        history_id = self.reader.history.history_id
        if self.on_lost is not None:
            await self.on_lost()
        return history_id or self.reader.history.history_id


def three_healthy() -> History:
    history = History()
    for number in (1, 2, 3):
        history.register(number)
        history.heal(number)
    return history


@contextlib.asynccontextmanager
async def following(
    clock: FakeClock, history: History, *, max_staleness: float | None = None, heartbeat: float = REFRESH
) -> AsyncIterator[MirroringRouter]:
    router = MirroringRouter(clock, history, max_staleness=max_staleness, heartbeat=heartbeat)
    await router.start()
    try:
        yield router
    finally:
        await router.stop()
