"""The garbage collector of a process that serves."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from shared_registry.aio.garbage import YOUNG_OBJECTS, YOUNG_RUNS, rare_collections


@pytest.fixture(autouse=True)
def threshold() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


@pytest.mark.parametrize(("before", "within"), [(700, YOUNG_OBJECTS), (0, 0), (2 * YOUNG_OBJECTS, 2 * YOUNG_OBJECTS)])
def test_collections_are_rare_within_the_block(before: int, within: int) -> None:
    gc.set_threshold(before, 11, 12)
    with rare_collections():
        assert gc.get_threshold() == (within, 11 if before == 0 else YOUNG_RUNS, 12)
    assert gc.get_threshold() == (before, 11, 12)
