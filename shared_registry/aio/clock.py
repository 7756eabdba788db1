"""Local time: the monotonic clock for deadlines, which tests can replace."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Clock(Protocol):
    """The clock that the package uses. All values are in seconds."""

    def monotonic(self) -> float:
        """Return a reading that never goes back."""

    async def sleep(self, seconds: float) -> None:
        """Return after that time. If it is not positive, return after the other ready tasks have run once."""


class SystemClock:
    """The clock of the operating system and the event loop."""

    monotonic = staticmethod(time.monotonic)

    async def sleep(self, seconds: float) -> None:
        """Sleep on the running event loop."""
        await asyncio.sleep(max(seconds, 0.0))


@contextlib.contextmanager
def call_at(clock: Clock, deadline: float, call: Callable[[], None]) -> Iterator[None]:
    """Call `call` at the deadline on that clock, unless the context is left before.

    Leaving the context does not wait: the cancelled sleep ends in the event loop's next turn.
    """
    alarm = asyncio.ensure_future(clock.sleep(deadline - clock.monotonic()))
    alarm.add_done_callback(lambda finished: None if finished.cancelled() else call())
    try:
        yield
    finally:
        alarm.cancel()


async def wait_until(clock: Clock, deadline: float, event: asyncio.Event) -> None:
    """Return when the event is set, or at the deadline on that clock."""
    if type(clock) is SystemClock:  # the usual one needs no tasks to wait
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if deadline == math.inf else max(deadline - clock.monotonic(), 0.0)):
                await event.wait()
        return

    async def wait() -> None:
        await event.wait()

    with contextlib.suppress(TimeoutError):
        await finish_by(clock, deadline, wait())


async def finish_by(clock: Clock, deadline: float, work: Coroutine[Any, Any, T]) -> T:
    """Await work until the deadline on that clock.

    Raises:
        TimeoutError: The deadline came first; the work was cancelled and has ended.
    """
    task = asyncio.ensure_future(work)
    alarm = asyncio.ensure_future(clock.sleep(deadline - clock.monotonic()))
    try:
        await asyncio.wait((task, alarm), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise TimeoutError
    finally:
        alarm.cancel()
        task.cancel()
        await asyncio.gather(task, alarm, return_exceptions=True)
