"""The garbage collector of a process that serves."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator

import pytest

from shared_registry.aio.garbage import (
    NEVER,
    OLD_OBJECTS,
    YOUNG_OBJECTS,
    YOUNG_RUNS,
    note_replaced,
    rare_collections,
)
from tests.support.until import until


class Node:
    """An object that may refer to itself."""

    other: Node | None = None


@pytest.fixture(autouse=True)
def threshold() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


@pytest.mark.parametrize(("before", "within"), [(700, YOUNG_OBJECTS), (0, 0), (2 * YOUNG_OBJECTS, 2 * YOUNG_OBJECTS)])
async def test_collections_are_rare_within_the_block(before: int, within: int) -> None:
    gc.set_threshold(before, 11, 12)
    with rare_collections():
        assert gc.get_threshold() == (within, *((11, 12) if before == 0 else (YOUNG_RUNS, NEVER)))
    assert gc.get_threshold() == (before, 11, 12)
    assert gc.get_freeze_count() == 0


async def test_what_lasts_is_put_aside_and_freed_as_usual() -> None:
    gc.set_threshold(700, 10, 10)
    with rare_collections():
        lasting = [Node() for _ in range(4 * (OLD_OBJECTS + YOUNG_OBJECTS))]
        await until(lambda: gc.get_freeze_count() >= len(lasting) / 2, "most are put aside")
        last = weakref.ref(lasting[0])
        lasting.clear()
        assert last() is None


@pytest.mark.parametrize("is_on", [True, False])
def test_what_replaces_other_objects_does_not_pile_up(is_on: bool) -> None:
    """The collector itself does not count it, because as much is freed."""
    lasting = [Node() for _ in range(10 * YOUNG_OBJECTS)]
    gc.collect()
    if not is_on:
        gc.disable()
    try:
        for at in range(len(lasting)):
            lasting[at] = Node()
            note_replaced(1)
        assert (len(gc.get_objects(generation=0)) < 2 * YOUNG_OBJECTS) is is_on
    finally:
        gc.enable()


async def test_circles_are_freed_although_much_is_put_aside() -> None:
    gc.set_threshold(700, 10, 10)
    with rare_collections():
        lasting = [Node() for _ in range(4 * (OLD_OBJECTS + YOUNG_OBJECTS))]
        await until(lambda: gc.get_freeze_count() >= len(lasting) / 2, "most are put aside")
        circle = Node()
        circle.other = circle
        gone = weakref.ref(circle)
        del circle

        async def is_freed() -> bool:
            lasting.extend(Node() for _ in range(YOUNG_OBJECTS))
            return gone() is None

        await until(is_freed, "the circle is found")


@pytest.mark.parametrize("knows_blocks", [True, False])
async def test_much_growth_lets_the_collector_look_at_everything(
    knows_blocks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With PYTHONMALLOC=malloc, Python does not know the blocks."""
    if not knows_blocks:
        monkeypatch.setattr("sys.getallocatedblocks", lambda: 0)
    monkeypatch.setattr("shared_registry.aio.garbage.LEAST_GROWTH", 1000)
    monkeypatch.setattr("shared_registry.aio.garbage.MOST_GROWTH", 1.0)
    gc.set_threshold(700, 10, 10)
    with rare_collections():
        circle = Node()
        circle.other = circle
        gone = weakref.ref(circle)
        lasting = [Node() for _ in range(4 * (OLD_OBJECTS + YOUNG_OBJECTS))]
        await until(lambda: gc.get_freeze_count() >= len(lasting) / 2, "most are put aside")
        del circle

        async def is_freed() -> bool:
            lasting.extend(Node() for _ in range(10 * OLD_OBJECTS))
            await asyncio.sleep(0)
            return gone() is None

        await until(is_freed, "the circle that was put aside is found")
