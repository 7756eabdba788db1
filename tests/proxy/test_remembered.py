"""A value that is read rarely, however often it is asked for."""

from __future__ import annotations

import asyncio

import pytest

from shared_registry.proxy.remembered import Remembered

HOUR = 3600.0


class Source:
    """Counts how often it is read, and fails if told to."""

    def __init__(self) -> None:
        self.reads = 0
        self.is_away = False

    async def __call__(self) -> int:
        self.reads += 1
        await asyncio.sleep(0)
        if self.is_away:
            raise ConnectionError
        return self.reads


async def test_any_number_of_calls_read_once() -> None:
    source = Source()
    remembered = Remembered(source, seconds=HOUR)
    assert await asyncio.gather(*[remembered.get() for _ in range(100)]) == [1] * 100
    assert source.reads == 1


async def test_an_old_value_is_read_again() -> None:
    remembered = Remembered(Source(), seconds=0.0)
    assert [await remembered.get(), await remembered.get()] == [1, 2]


async def test_calls_that_wait_for_a_reading_take_its_value() -> None:
    remembered = Remembered(Source(), seconds=0.0)
    assert await asyncio.gather(*[remembered.get() for _ in range(100)]) == [1] * 100


async def test_a_failure_is_not_remembered() -> None:
    source = Source()
    remembered = Remembered(source, seconds=HOUR)
    source.is_away = True
    with pytest.raises(ConnectionError):
        await remembered.get()
    source.is_away = False
    assert await remembered.get() == 2


async def test_a_cancelled_call_leaves_the_others_alone() -> None:
    source = Source()
    remembered = Remembered(source, seconds=HOUR)
    first, second = asyncio.create_task(remembered.get()), asyncio.create_task(remembered.get())
    await asyncio.sleep(0)
    first.cancel()
    assert await second == 2
    assert await remembered.get() == 2
