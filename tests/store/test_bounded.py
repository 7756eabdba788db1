"""The bound on what is done with Redis: deadlines, lanes, and cancellations, each alone and meeting another."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from shared_registry.errors import StoreUnavailable
from shared_registry.store.channel import bounded
from shared_registry.store.lane import Busy, Lane

SOON, NEVER = 0.02, 60.0


async def held_up(seconds: float, lane: Lane | None = None, *, patience_seconds: float | None = None) -> None:
    async with bounded(seconds, lane=lane, patience_seconds=patience_seconds):
        await asyncio.sleep(NEVER)


async def answered(lane: Lane) -> None:
    async with bounded(SOON, lane=lane):
        pass


async def is_free(lane: Lane) -> bool:
    """Whether the only place of a lane can be had at once, and is given back."""
    try:
        async with bounded(NEVER, lane=lane, patience_seconds=0):
            return True
    except Busy:
        return False


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_passed_deadline_raises_unavailable_and_leaves_no_cancellation() -> None:
    with pytest.raises(StoreUnavailable, match=r"within 0\.02 s") as caught:
        await held_up(SOON)
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_block_that_ends_in_time_is_not_cancelled_later() -> None:
    async with bounded(SOON):
        pass
    await asyncio.sleep(2 * SOON)


async def test_a_cancellation_stays_one_and_frees_its_turn() -> None:
    lane = Lane(1, seconds=NEVER)
    task = asyncio.create_task(held_up(NEVER, lane))
    await turns()
    assert not await is_free(lane)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await is_free(lane)


async def test_waiting_for_a_turn_does_not_count() -> None:
    seconds = 75 * SOON  # so long that the first call ends in time although the machine is busy
    lane = Lane(1, seconds=seconds)
    async with bounded(seconds, lane=lane):
        waiting = asyncio.create_task(held_up(seconds, lane))
        await asyncio.sleep(seconds / 2)
    begun = asyncio.get_running_loop().time()
    with pytest.raises(StoreUnavailable):
        await waiting
    assert asyncio.get_running_loop().time() - begun > 0.9 * seconds
    assert await is_free(lane)


async def test_a_turn_that_does_not_come_is_no_outage() -> None:
    lane = Lane(1, seconds=NEVER)
    async with bounded(NEVER, lane=lane):
        with pytest.raises(Busy):
            await held_up(NEVER, lane, patience_seconds=SOON)
    assert await is_free(lane)


async def test_a_cancellation_during_the_wait_takes_no_turn() -> None:
    lane = Lane(1, seconds=NEVER)
    async with bounded(NEVER, lane=lane):
        task = asyncio.create_task(held_up(NEVER, lane))
        await turns()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await is_free(lane)


async def test_a_failure_frees_its_turn_and_is_translated() -> None:
    lane = Lane(1, seconds=NEVER)
    with pytest.raises(StoreUnavailable, match="reset"):
        async with bounded(NEVER, lane=lane):
            raise RedisConnectionError("reset")
    assert await is_free(lane)


async def test_without_answers_no_call_waits_longer_than_one_timeout() -> None:
    seconds = 20 * SOON
    lane = Lane(2, seconds=seconds)
    begun = asyncio.get_running_loop().time()
    results = await asyncio.gather(*(held_up(seconds, lane) for _ in range(50)), return_exceptions=True)
    assert {type(result) for result in results} == {StoreUnavailable}
    assert asyncio.get_running_loop().time() - begun < 12 * seconds, "25 times as long, one after the other"
    assert await is_free(lane)


async def test_one_unanswered_call_turns_no_waiting_call_away() -> None:
    lane = Lane(2, seconds=5 * SOON)
    silent = asyncio.create_task(held_up(5 * SOON, lane))
    await turns()
    others = []
    for _ in range(10):
        others.append(asyncio.create_task(held_up(5 * SOON, lane)))
        await asyncio.sleep(SOON / 2)
        others.pop().cancel()
        await answered(lane)
    with pytest.raises(StoreUnavailable):
        await silent
    assert await is_free(lane)


@pytest.mark.parametrize("error", [None, ResponseError("WRONGTYPE")])
async def test_a_late_call_turns_none_away_if_others_succeed(error: Exception | None) -> None:
    lane = Lane(2, seconds=5 * SOON)
    silent = asyncio.create_task(held_up(5 * SOON, lane))
    await turns()

    async def answering() -> None:
        async with bounded(5 * SOON, lane=lane):
            await asyncio.sleep(SOON)
            if error is not None:
                raise error

    answering_one = asyncio.create_task(answering())
    await turns()
    behind = asyncio.create_task(held_up(5 * SOON, lane))
    last = asyncio.create_task(held_up(5 * SOON, lane))
    with pytest.raises(StoreUnavailable):
        await silent
    assert not last.done()
    for task in (answering_one, behind, last):
        task.cancel()
    await asyncio.wait([answering_one, behind, last])
    answering_one.exception()


async def test_only_failing_reconnections_turn_waiting_calls_away() -> None:
    """Connections that break at once do not."""
    lane = Lane(2, seconds=NEVER)
    tried, breaks = 0, asyncio.Event()

    async def broken() -> None:
        nonlocal tried
        async with bounded(NEVER, lane=lane):
            tried += 1
            await breaks.wait()
            await asyncio.sleep(0)
            raise RedisConnectionError("reset")

    holding = [asyncio.create_task(broken()) for _ in range(2)]
    await turns()
    waiting = [asyncio.create_task(answered(lane)) for _ in range(5)]
    await turns()
    breaks.set()
    assert [type(one) for one in await asyncio.gather(*holding, return_exceptions=True)] == [StoreUnavailable] * 2
    await asyncio.gather(*waiting)
    tried = 0
    down = await asyncio.gather(*(broken() for _ in range(100)), return_exceptions=True)
    assert {type(one) for one in down} == {StoreUnavailable}
    assert tried <= 6


async def test_a_timeout_of_the_block_is_a_connection_failure() -> None:
    with pytest.raises(StoreUnavailable, match="is unavailable: mine"):
        async with bounded(NEVER):
            raise TimeoutError("mine")


async def test_a_deadline_with_a_cancellation_is_a_cancellation() -> None:
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


async def test_a_cancellation_that_the_block_swallowed_is_raised_again() -> None:
    async def dropping() -> None:
        async with bounded(NEVER):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(NEVER)

    task = asyncio.create_task(dropping())
    await turns()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_swallowed_deadline_does_not_discard_the_result() -> None:
    async with bounded(SOON):
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(NEVER)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_an_outer_timeout_that_comes_first_stays_one() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(SOON):
            await held_up(NEVER)


async def test_an_inner_deadline_leaves_the_outer_one_alone() -> None:
    async with asyncio.timeout(NEVER) as outer:
        with pytest.raises(StoreUnavailable):
            await held_up(SOON)
    assert not outer.expired()


async def test_each_block_of_a_lane_has_its_own_deadline() -> None:
    lane = Lane(3, seconds=SOON)
    await answered(lane)
    blocks = [asyncio.create_task(held_up(SOON, lane)) for _ in range(3)]
    await turns()
    blocks[1].cancel()
    assert [type(each) for each in await asyncio.gather(*blocks, return_exceptions=True)] == [
        StoreUnavailable,
        asyncio.CancelledError,
        StoreUnavailable,
    ]
    await asyncio.sleep(2 * SOON)
    await turns()
