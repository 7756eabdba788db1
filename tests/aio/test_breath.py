"""Long computations that give way, alone and together."""

from __future__ import annotations

import asyncio
import time

from shared_registry.aio.breath import PIECE_SECONDS, Breath

ITEM_SECONDS = PIECE_SECONDS / 20
ITEMS = 200


async def compute(breath: Breath) -> None:
    for _ in range(ITEMS):
        end = time.thread_time() + ITEM_SECONDS
        while time.thread_time() < end:
            pass
        await breath.pause()


async def longest_turn(computations: int) -> float:
    """Return the longest turn of the loop in CPU time while so many computations run side by side."""
    longest = 0.0
    tasks = [asyncio.create_task(compute(Breath())) for _ in range(computations)]
    while not all(task.done() for task in tasks):
        begun = time.thread_time()
        await asyncio.sleep(0)
        longest = max(longest, time.thread_time() - begun)
    return longest


async def test_one_computation_gives_way() -> None:
    assert await longest_turn(1) < 3 * PIECE_SECONDS


async def test_many_computations_together_hold_up_no_longer() -> None:
    assert await longest_turn(10) < 3 * PIECE_SECONDS


async def test_a_turn_that_another_loop_left_open_is_forgotten() -> None:
    async def leave_open() -> None:
        await Breath().pause()

    loop = asyncio.new_event_loop()
    await asyncio.to_thread(loop.run_until_complete, leave_open())
    loop.close()
    assert await longest_turn(2) < 3 * PIECE_SECONDS
