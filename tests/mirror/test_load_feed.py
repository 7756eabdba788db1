"""Reading the loads in the background: while a policy goes by them, and not otherwise."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Collection, Mapping
from typing import cast

import pytest

from shared_registry.errors import StoreUnavailable
from shared_registry.mirror.load_updates import IDLE_SECONDS, LoadUpdates
from shared_registry.model import ReplicaEndpoint
from shared_registry.selection import Selection
from shared_registry.selection.view import View
from shared_registry.store.reader import Reader
from tests.support.choices import record, tally, url, view_of
from tests.support.fake_clock import FakeClock


class ScriptedLoads:
    """A reader of loads: what it answers, and how often it was asked."""

    def __init__(self) -> None:
        self.answer: dict[str, int] | StoreUnavailable = {}
        self.asked = 0

    async def loads(
        self, endpoints: Mapping[str, ReplicaEndpoint], *, ramping: Collection[str]
    ) -> tuple[dict[str, int], list[str]]:
        self.asked += 1
        if isinstance(self.answer, StoreUnavailable):
            raise self.answer
        return self.answer, []


@contextlib.asynccontextmanager
async def feeding(
    clock: FakeClock, policy: str, hash_max_load: float | None = None
) -> AsyncIterator[tuple[View, ScriptedLoads]]:
    selection = Selection(policy, rng=random.Random(1), hash_max_load=hash_max_load)
    view = view_of(selection, *(record(number) for number in range(3)))
    reader = ScriptedLoads()
    task = asyncio.ensure_future(LoadUpdates(cast("Reader", reader), view, refresh_seconds=1.0, clock=clock).run())
    await clock.settle()
    try:
        yield view, reader
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize(("policy", "hash_max_load"), [("least_loaded", None), ("hash", 1.25)])
async def test_loads_are_read_at_once_and_every_refresh_for_policies(policy: str, hash_max_load: float | None) -> None:
    """Only for a policy that needs them."""
    clock = FakeClock()
    async with feeding(clock, policy, hash_max_load) as (_, reader):
        assert reader.asked == 1
        await clock.advance(3.5)
        assert reader.asked == 4


@pytest.mark.parametrize("policy", ["priority", "round_robin", "hash"])
async def test_policies_without_need_of_loads_read_none(policy: str) -> None:
    clock = FakeClock()
    async with feeding(clock, policy) as (view, reader):
        view.selection.select(None, "a", ())
        await clock.advance(5)
        assert reader.asked == 0


async def test_a_policy_chosen_per_call_has_loads_read_temporarily() -> None:
    clock = FakeClock()
    async with feeding(clock, "priority") as (view, reader):
        view.selection.select("least_loaded", None, ())
        await clock.advance(IDLE_SECONDS + 30)
        asked = reader.asked
        assert IDLE_SECONDS - 2 < asked < IDLE_SECONDS + 2
        view.selection.select("least_loaded", None, ())
        await clock.advance(5)
        assert reader.asked == asked + 5


async def test_loads_stay_in_use_while_redis_is_away() -> None:
    clock = FakeClock()
    async with feeding(clock, "least_loaded") as (view, reader):
        reader.answer = {url(0): 100, url(1): 100}
        await clock.advance(1)
        choose = view.choose
        assert choose is not None
        assert tally(choose, [None] * 20)[2] > 8
        reader.answer = StoreUnavailable("away")
        await clock.advance(5)
        assert reader.asked == 7
        counts = tally(choose, [None] * 30)
        assert counts[2] > 12
        assert sum(load.count for load in view.selection.loads.known.values()) == 250
