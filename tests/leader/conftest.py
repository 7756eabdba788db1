"""One router's election, on a lock and a clock of the test's."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.electing_router import Lock, Router
from tests.support.fake_clock import FakeClock


@pytest.fixture
def lock(clock: FakeClock) -> Lock:
    return Lock(clock)


@pytest.fixture
async def router(lock: Lock) -> AsyncIterator[Router]:
    router = Router(lock)
    yield router
    await router.stop()
