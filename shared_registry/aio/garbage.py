"""Makes the garbage collector run less often in a process that serves, and not at all while modules are imported."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

YOUNG_OBJECTS = 10_000
"""How many objects are made, beyond those that are freed, until the collector runs. Python's own number is 700.

A router makes so many objects for each request that the collector would run every few requests, and find nothing: what
requests leave behind is freed without it.
"""
YOUNG_RUNS = 2
"""After how many such runs it also looks at what the runs before have left. After ten, Python's own number, that can be
100,000 objects, which keep the event loop waiting for 60 ms.
"""


@contextlib.contextmanager
def rare_collections() -> Iterator[None]:
    """Let the collector of this process run less often for the block. It stays off if it is off."""
    before = gc.get_threshold()
    if before[0]:
        gc.set_threshold(max(before[0], YOUNG_OBJECTS), min(before[1], YOUNG_RUNS), before[2])
    try:
        yield
    finally:
        gc.set_threshold(*before)


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
