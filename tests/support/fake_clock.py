"""A clock that stands still until the test moves it, and the tasks that sleep by it."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable

START = 1000.0
TURNS = 60
"""Turns of the event loop that let everything that can run do so; the longest chain here is about half of that."""


class FakeClock:
    """A `Clock` for tests: whoever sleeps by it wakes in the order of due times, and only when the test says so.

    Work that waits for something else than this clock (a socket, a thread) is not waited for.
    """

    def __init__(self, now: float = START) -> None:
        self._now = now
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def monotonic(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        awake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._order), awake))
        await awake

    @property
    def next_wake(self) -> float | None:
        """When the next sleeper is due; `None` if nobody sleeps."""
        while self._sleepers and self._sleepers[0][2].done():
            heapq.heappop(self._sleepers)
        return self._sleepers[0][0] if self._sleepers else None

    async def settle(self) -> None:
        """Let everything run that can, without moving time."""
        for _ in range(TURNS):
            await asyncio.sleep(0)

    async def advance(self, seconds: float = 0.0) -> None:
        """Let that much time pass, and everything happen that is due meanwhile, each at its time."""
        target = self._now + seconds
        await self.settle()
        while (due := self.next_wake) is not None and due <= target:
            self._now = max(self._now, due)
            self._wake()
            await self.settle()
        self._now = max(self._now, target)

    def jump(self, seconds: float) -> None:
        """Let that much time pass while nobody runs, as when the process was stopped; then `advance` goes on."""
        self._now += seconds

    async def run_until(self, condition: Callable[[], bool], *, within: float = 60.0) -> float:
        """Let time pass from sleeper to sleeper until the condition holds; return how long that took.

        Raises:
            AssertionError: It did not come true within that long.
        """
        started = self._now
        await self.settle()
        while not condition():
            due = self.next_wake
            assert due is not None, "nobody sleeps, and the condition does not hold"
            assert due - started <= within, f"the condition did not come true within {within:g} s"
            await self.advance(max(due - self._now, 0.0))
        return self._now - started

    def _wake(self) -> None:
        """Wake all that are due: after a pause they are ready in one turn of the loop, as real timers are."""
        while (due := self.next_wake) is not None and due <= self._now:
            awake = heapq.heappop(self._sleepers)[2]
            awake.set_result(None)
