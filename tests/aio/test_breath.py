"""Long computations that give way, alone and together."""

from __future__ import annotations

import asyncio

import pytest

from shared_registry.aio import breath as module
from shared_registry.aio.breath import FORGOTTEN_SECONDS, PIECE_SECONDS, Breath

ITEM_SECONDS = PIECE_SECONDS / 20
ITEMS = 200


class Work:
    """Stands in for the module `time`: its clock goes on while something is computed, and only then.

    A real clock would count the collector of garbage, and whatever else the machine does meanwhile.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    def perf_counter(self) -> float:
        return self.seconds

    async def compute(self, item_seconds: float) -> None:
        breath = Breath()
        for _ in range(ITEMS):
            self.seconds += item_seconds
            await breath.pause()

    async def longest_turn(self, computations: int, *, item_seconds: float = ITEM_SECONDS) -> float:
        """Return the longest turn of the loop while so many computations run side by side."""
        longest = 0.0
        tasks = [asyncio.create_task(self.compute(item_seconds)) for _ in range(computations)]
        while not all(task.done() for task in tasks):
            begun = self.seconds
            await asyncio.sleep(0)
            longest = max(longest, self.seconds - begun)
        return longest


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    work = Work()
    monkeypatch.setattr(module, "time", work)
    monkeypatch.setattr(module, "_turn", module._Turn())
    return work


async def test_one_computation_gives_way(work: Work) -> None:
    assert await work.longest_turn(1) < 3 * PIECE_SECONDS


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 3.0])
async def test_large_items_make_a_turn_no_longer(work: Work, share: float) -> None:
    """An item is not begun that would exceed the piece if it takes as long as the one before."""
    item = share * PIECE_SECONDS
    assert await work.longest_turn(1, item_seconds=item) <= max(PIECE_SECONDS, item) * 1.01


async def test_many_computations_together_hold_up_no_longer(work: Work) -> None:
    assert await work.longest_turn(10) < 3 * PIECE_SECONDS


async def test_a_turn_that_another_loop_left_open_is_forgotten(work: Work) -> None:
    async def leave_open() -> None:
        await Breath().pause()

    loop = asyncio.new_event_loop()
    await asyncio.to_thread(loop.run_until_complete, leave_open())
    loop.close()
    assert await work.longest_turn(2) < 3 * PIECE_SECONDS
    work.seconds += 2 * FORGOTTEN_SECONDS
    assert not Breath().is_over
