"""Keeps the garbage collector from holding up a process that serves, and from running while modules are imported.

A router with 10,000 replicas has 180,000 objects that the collector looks at. To look at all of them takes more than
0.1 s, in which no session goes on. So it is never done while the process serves, unless much has been added:

- New objects are looked at in small numbers; see `YOUNG_OBJECTS`.
- Objects that outlive that are looked at once more as soon as there are `OLD_OBJECTS` of them, and then never again
  (`gc.freeze`). They are freed as usual when nothing refers to them any more. Only those that refer to each other in a
  circle, and are dropped after that moment, stay.
- If more memory is in use than `MOST_GROWTH` allows, all are looked at once, which frees such circles.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
from collections.abc import Iterator, Mapping

YOUNG_OBJECTS = 1_000
"""How many objects are made, beyond those that are freed, until the collector runs. Python's own number is 700.

A router makes so many objects for each request that the collector would run every few requests, and find nothing: what
requests leave behind is freed without it. With 2,500, records of replicas, each of which refers to some thirty other
objects, would keep the event loop waiting for 15 ms.
"""
YOUNG_RUNS = 1
"""After how many such runs it also looks at what the runs before have left. After ten, Python's own number, that would
be 10,000 objects.
"""
OLD_OBJECTS = 1_000
MOST_GROWTH = 1.5
LEAST_GROWTH = 1_000_000
"""In blocks of memory, some 70 bytes each. To count the objects that were put aside would take up to 30 ms."""
NEVER = 1_000_000_000


@contextlib.contextmanager
def rare_collections() -> Iterator[None]:
    """Let the collector of this process run less often for the block, in the running event loop. It stays off if off.

    What was put aside is looked at again after the block.
    """
    before = gc.get_threshold()
    if not before[0]:
        yield
        return
    gc.set_threshold(max(before[0], YOUNG_OBJECTS), min(before[1], YOUNG_RUNS), NEVER)
    keeper = _OldObjects(asyncio.get_running_loop())
    gc.callbacks.append(keeper.on_collection)
    try:
        yield
    finally:
        gc.callbacks.remove(keeper.on_collection)
        gc.set_threshold(*before)
        gc.unfreeze()


class _Replaced:
    """How many objects have replaced others since the last collection of new objects by `note_replaced`."""

    count = 0


def note_replaced(objects: int) -> None:
    """Count objects that have just replaced older ones, and collect when there are `YOUNG_OBJECTS` of them.

    The collector counts objects that are made beyond those that are freed. So tens of thousands that replace others
    wait until something else starts it, and then hold up the event loop for 40 ms.
    """
    _Replaced.count += objects
    if _Replaced.count >= YOUNG_OBJECTS:
        _Replaced.count = 0
        if gc.isenabled():
            gc.collect(generation=1)


class _OldObjects:
    """Puts objects aside that have outlived the collections of new ones."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._is_due = False
        self._most_blocks = 0.0

    def on_collection(self, phase: str, facts: Mapping[str, int]) -> None:
        """Receive that the collector begins or ends, in any thread. It cannot be called from here."""
        if phase == "stop" and facts["generation"] == 1 and not self._is_due:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._collect)
                self._is_due = True

    def _collect(self) -> None:
        self._is_due = False
        if len(gc.get_objects(generation=2)) < OLD_OBJECTS:
            return
        is_large = _memory_in_use() > self._most_blocks
        if is_large:
            gc.unfreeze()
        gc.collect()
        gc.freeze()
        if is_large:
            blocks = _memory_in_use()
            self._most_blocks = max(MOST_GROWTH * blocks, blocks + LEAST_GROWTH)


def _memory_in_use() -> int:
    """Return how many blocks are in use; under another allocator, of which Python does not know that, the objects."""
    return sys.getallocatedblocks() or gc.get_freeze_count()


@contextlib.contextmanager
def no_collections() -> Iterator[None]:
    """Stop the collector of this process for the block; for imports, whose objects stay.

    It takes a fifth of the time that the command needs for its imports, and finds next to nothing.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
