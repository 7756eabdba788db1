"""The leader looks once a minute whether it may upgrade the namespace."""

from __future__ import annotations

import asyncio
import random

from shared_registry.errors import StoreUnavailable
from shared_registry.leader.election import RunningTerm
from shared_registry.leader.upgrading import QUIET_SECONDS, Upgrader
from shared_registry.store.replies import Upgrade, UpgradeOutcome
from tests.support.fake_clock import FakeClock


class Upgrading:
    """A store that is asked to upgrade."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self.is_away = False

    async def upgrade(self, *, by: str, quiet_seconds: float) -> Upgrade:
        assert by == "me~1"
        self.asked.append(quiet_seconds)
        if self.is_away:
            raise StoreUnavailable("away")
        return Upgrade(UpgradeOutcome.CURRENT, "2", "2")


async def test_the_leader_looks_once_a_minute() -> None:
    """A loss of data may bring the older schema back."""
    clock, store = FakeClock(), Upgrading()
    upgrader = Upgrader(store, router="me~1", clock=clock, rng=random.Random(1))
    work = asyncio.create_task(upgrader.run(RunningTerm(7, "token", 1e6, clock)))
    try:
        for minutes in range(3):
            await clock.advance(60.1 if minutes else 0)
            assert store.asked == [QUIET_SECONDS] * (minutes + 1)
        store.is_away = True
        await clock.advance(70)
        store.is_away = False
        assert len(store.asked) > 4, "it asks again soon"
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
