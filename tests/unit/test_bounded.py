"""The bound on what is done with Redis: deadlines, slots, and cancellations, each alone and meeting another."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from shared_registry.alarm import SharedAlarm
from shared_registry.client import bounded
from shared_registry.errors import StoreUnavailable

SOON, NEVER = 0.02, 60.0


async def held_up(seconds: float, slots: asyncio.Semaphore | None = None, *, alarm: SharedAlarm | None = None) -> None:
    async with bounded(seconds, slots=slots, alarm=alarm):
        await asyncio.sleep(NEVER)


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_deadline_that_passes_makes_redis_unavailable_and_leaves_the_task_uncancelled() -> None:
    with pytest.raises(StoreUnavailable, match=r"within 0\.02 s") as caught:
        await held_up(SOON)
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_block_that_ends_in_time_is_not_cut_off_later() -> None:
    async with bounded(SOON):
        pass
    await asyncio.sleep(2 * SOON)


async def test_a_cancellation_stays_one_and_gives_the_slot_back() -> None:
    slots = asyncio.Semaphore(1)
    task = asyncio.create_task(held_up(NEVER, slots))
    await turns()
    assert slots.locked()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not slots.locked()


async def test_waiting_for_a_slot_counts() -> None:
    slots = asyncio.Semaphore(1)
    async with slots:
        with pytest.raises(StoreUnavailable):
            await held_up(SOON, slots)
    assert not slots.locked()
    async with bounded(NEVER, slots=slots):
        assert slots.locked()


async def test_a_cancellation_while_waiting_for_a_slot_stays_one_and_takes_none() -> None:
    slots = asyncio.Semaphore(1)
    async with slots:
        task = asyncio.create_task(held_up(SOON, slots))
        await turns()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(2 * SOON)
    assert not slots.locked()


async def test_a_failure_gives_the_slot_back_and_takes_its_meaning() -> None:
    slots = asyncio.Semaphore(1)
    with pytest.raises(StoreUnavailable, match="reset"):
        async with bounded(NEVER, slots=slots):
            raise RedisConnectionError("reset")
    assert not slots.locked()


async def test_a_timeout_of_the_block_itself_is_a_failure_of_the_connection() -> None:
    with pytest.raises(StoreUnavailable, match="is unavailable: mine"):
        async with bounded(NEVER):
            raise TimeoutError("mine")


async def test_a_deadline_and_a_cancellation_at_once_are_a_cancellation() -> None:
    async def cancelled_late() -> None:
        async with bounded(SOON):
            try:
                await asyncio.sleep(NEVER)
            except asyncio.CancelledError:
                task.cancel()
                raise

    task = asyncio.create_task(cancelled_late())
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelling() == 1


async def test_a_cancellation_that_the_block_dropped_is_made_up_for() -> None:
    async def dropping() -> None:
        async with bounded(NEVER):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(NEVER)

    task = asyncio.create_task(dropping())
    await turns()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_deadline_that_the_block_dropped_does_not_discard_the_result() -> None:
    async with bounded(SOON):
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(NEVER)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_an_outer_timeout_that_comes_first_stays_the_callers() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(SOON):
            await held_up(NEVER)


async def test_an_inner_deadline_that_comes_first_leaves_the_outer_one_alone() -> None:
    async with asyncio.timeout(NEVER) as outer:
        with pytest.raises(StoreUnavailable):
            await held_up(SOON)
    assert not outer.expired()


async def test_blocks_that_share_an_alarm_are_each_bounded() -> None:
    alarm = SharedAlarm(SOON)
    async with bounded(SOON, alarm=alarm):
        pass
    blocks = [asyncio.create_task(held_up(SOON, alarm=alarm)) for _ in range(3)]
    await turns()
    blocks[1].cancel()
    assert [type(each) for each in await asyncio.gather(*blocks, return_exceptions=True)] == [
        StoreUnavailable,
        asyncio.CancelledError,
        StoreUnavailable,
    ]
    await asyncio.sleep(2 * SOON)
    await turns()
