"""The leader's duty to follow sources ends with the term, whatever a source does then."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any

from shared_registry import RouterConfig
from shared_registry.discovery.answer import SourceAnswer
from shared_registry.discovery.duty import Discovery
from shared_registry.selection.view import View
from tests.support.fake_clock import FakeClock


class EndlessTerm:
    epoch = 1
    token = "token"
    is_current = True


class SourceThatFailsWhenItEnds:
    async def answers(self) -> AsyncIterator[SourceAnswer]:
        try:
            await asyncio.get_running_loop().create_future()
            yield SourceAnswer()
        finally:
            raise LookupError("a bug")


async def test_a_source_failing_at_the_end_is_not_followed_again(clock: FakeClock) -> None:
    config = RouterConfig(discovery=[{"kind": "file", "name": "fleet", "path": "/fleet.yaml"}])  # type: ignore[arg-type]
    sources: list[SourceThatFailsWhenItEnds] = []

    def make(_: object) -> Any:
        sources.append(SourceThatFailsWhenItEnds())
        return sources[-1]

    store: Any = None
    discovery = Discovery(store, View(), config, clock=clock, rng=random.Random(1), make=make)
    work = asyncio.ensure_future(discovery.run(EndlessTerm()))
    await clock.settle()
    work.cancel()
    await clock.settle()
    await clock.advance(60)
    assert work.cancelled()
    assert len(sources) == 1
    with contextlib.suppress(asyncio.CancelledError):
        await work
