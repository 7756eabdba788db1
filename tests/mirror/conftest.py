"""A mirror over a history that the test writes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.fake_clock import FakeClock
from tests.support.mirroring_router import MirroringRouter, following, three_healthy
from tests.support.scripted_reader import History


@pytest.fixture
async def history() -> History:
    return three_healthy()


@pytest.fixture
async def router(clock: FakeClock, history: History) -> AsyncIterator[MirroringRouter]:
    async with following(clock, history) as router:
        yield router
