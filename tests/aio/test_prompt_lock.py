"""A turn goes from one holder to the next, and none is lost with a waiter that gives up."""

from __future__ import annotations

import asyncio

from shared_registry.aio.prompt_lock import PromptLock


async def test_the_turn_goes_on_in_the_order_of_requests() -> None:
    turn, order = PromptLock(), list[int]()

    async def hold(number: int) -> None:
        await turn.take()
        order.append(number)
        await asyncio.sleep(0)
        turn.give_back()

    assert turn.try_take()
    assert not turn.try_take()
    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(hold(number))
        await asyncio.sleep(0)
        turn.give_back()
        assert not turn.try_take(), "it is the next one's already"
    assert order == [0, 1, 2, 3, 4]
    assert not turn.is_taken


async def test_a_waiter_that_gives_up_keeps_no_turn() -> None:
    """Neither before its turn nor in the moment in which it comes."""
    for is_given_before in (False, True):
        turn = PromptLock()
        assert turn.try_take()
        waiter = asyncio.create_task(turn.take())
        await asyncio.sleep(0)
        if is_given_before:
            turn.give_back()
        waiter.cancel()
        await asyncio.wait([waiter])
        if not is_given_before:
            turn.give_back()
        assert turn.try_take()
