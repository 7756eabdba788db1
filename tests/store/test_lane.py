"""Turns in a lane: in order, handed on whatever happens to those who wait, and none lost."""

from __future__ import annotations

import asyncio
import itertools
import random

import pytest

from shared_registry.errors import StoreUnavailable
from shared_registry.store.lane import Busy, Lane

NEVER = 60.0


class Calls:
    """Calls that take a place and keep it until they are told to leave."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.entered: list[int] = []
        self.under_way = 0
        self.most = 0
        self._ends: dict[int, asyncio.Event] = {}

    def start(self, number: int, *, patience_seconds: float | None = None) -> asyncio.Task[None]:
        self._ends[number] = asyncio.Event()
        return asyncio.create_task(self._call(number, patience_seconds))

    def end(self, number: int) -> None:
        self._ends[number].set()

    async def _call(self, number: int, patience_seconds: float | None) -> None:
        if not self.lane.enter():
            await self.lane.wait(patience_seconds)
        self.entered.append(number)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await self._ends[number].wait()
        finally:
            self.under_way -= 1
            self.lane.leave()


@pytest.fixture
async def calls() -> Calls:
    return Calls(Lane(2, seconds=NEVER))


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def places(lane: Lane) -> int:
    """Return how many places are free, and give them back."""
    taken = sum(1 for _ in itertools.takewhile(lambda _: lane.enter(), itertools.count()))
    for _ in range(taken):
        lane.leave()
    return taken


async def test_turns_come_in_the_order_of_asking(calls: Calls) -> None:
    tasks = [calls.start(number) for number in range(6)]
    await turns()
    assert calls.entered == [0, 1]
    for number in range(6):
        calls.end(number)
        await turns()
    await asyncio.gather(*tasks)
    assert (calls.entered, calls.most, places(calls.lane)) == ([0, 1, 2, 3, 4, 5], 2, 2)


async def test_a_newcomer_does_not_pass_one_whose_turn_has_come(calls: Calls) -> None:
    tasks = [calls.start(number) for number in range(3)]
    await turns()
    calls.end(0)
    await tasks[0]
    assert not calls.lane.enter()
    await turns()
    assert calls.entered == [0, 1, 2]
    for number in (1, 2):
        calls.end(number)
    await asyncio.gather(*tasks)


async def test_a_turn_that_comes_with_a_cancellation_goes_to_the_next(calls: Calls) -> None:
    tasks = [calls.start(number) for number in range(4)]
    await turns()
    calls.lane.leave()  # a place more, to be given in the same turn of the loop
    tasks[2].cancel()
    await turns()
    assert tasks[2].cancelled()
    assert calls.entered == [0, 1, 3]
    for number in (0, 1, 3):
        calls.end(number)
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_no_place_is_lost_in_a_burst_of_cancellations() -> None:
    rng = random.Random(1)
    calls = Calls(Lane(3, seconds=NEVER))
    tasks = [calls.start(number) for number in range(500)]
    await turns()
    for _ in range(3):
        for number in rng.sample(range(500), 200):
            if rng.random() < 0.5:
                calls.end(number)
            else:
                tasks[number].cancel()
            if rng.random() < 0.3:
                await asyncio.sleep(0)
    for number in range(500):
        calls.end(number)
    await asyncio.wait(tasks)
    assert (calls.most, places(calls.lane), calls.lane.waiting) == (3, 3, 0)


async def test_patience_ends_the_waiting_and_nothing_else(calls: Calls) -> None:
    tasks = [calls.start(0), calls.start(1)]
    await turns()
    impatient, patient = calls.start(2, patience_seconds=0.01), calls.start(3, patience_seconds=NEVER)
    with pytest.raises(Busy):
        await impatient
    with pytest.raises(Busy):
        await calls.start(4, patience_seconds=-1.0)
    calls.end(0)
    await turns()
    assert calls.entered == [0, 1, 3]
    for number in (1, 3):
        calls.end(number)
    await asyncio.gather(*tasks, patient)
    assert places(calls.lane) == 2


async def test_silence_sends_all_who_wait_away_at_once(calls: Calls) -> None:
    under_way = [calls.start(0), calls.start(1)]
    await turns()
    waiting = [calls.start(number) for number in range(2, 100)]
    await turns()
    replies = calls.lane.replies
    calls.lane.answered()
    calls.lane.unanswered(replies, "silent")
    await turns()
    assert not any(task.done() for task in waiting)
    calls.lane.unanswered(calls.lane.replies, "silent")
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert {(type(result), str(result)) for result in results} == {(StoreUnavailable, "silent")}
    for number in range(2):
        calls.end(number)
    await asyncio.gather(*under_way)
    assert places(calls.lane) == 2


async def test_sent_away_and_cancelled_at_once_is_cancelled(calls: Calls) -> None:
    under_way = [calls.start(0), calls.start(1)]
    waiting = calls.start(2)
    await turns()
    calls.lane.unanswered(0, "silent")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    for number in range(2):
        calls.end(number)
    await asyncio.gather(*under_way)
    assert places(calls.lane) == 2
