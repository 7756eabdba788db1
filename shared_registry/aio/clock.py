"""Local time: the monotonic clock that deadlines are kept on, replaceable in tests."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Clock(Protocol):
    """What the package asks of time. All values are seconds."""

    def monotonic(self) -> float:
        """Return a reading that never goes back."""

    async def sleep(self, seconds: float) -> None:
        """Return after that long; at once, but not before others had a turn, where it is not positive."""


class SystemClock:
    """The real one."""

    monotonic = staticmethod(time.monotonic)

    async def sleep(self, seconds: float) -> None:
        """Sleep on the running event loop."""
        await asyncio.sleep(max(seconds, 0.0))


@contextlib.contextmanager
def call_at(clock: Clock, deadline: float, call: Callable[[], None]) -> Iterator[None]:
    """Call something at the deadline on that clock, unless this is left before.

    Leaving waits for nothing: the cancelled sleep ends in the event loop's next turn.
    """
    alarm = asyncio.ensure_future(clock.sleep(deadline - clock.monotonic()))
    alarm.add_done_callback(lambda rung: None if rung.cancelled() else call())
    try:
        yield
    finally:
        alarm.cancel()


async def wait_until(clock: Clock, deadline: float, event: asyncio.Event) -> None:
    """Return when the event is set, or at the deadline on that clock."""

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
