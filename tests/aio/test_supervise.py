"""Background work is started again when it fails or ends, and stops when it is told to."""

from __future__ import annotations

import asyncio
import itertools
import random

import pytest

from shared_registry.aio.supervise import keep_running
from tests.support.fake_clock import START, FakeClock


class Work:
    """Runs for so long each time, then ends in the given way."""

    def __init__(self, clock: FakeClock, *, seconds: float = 0.0, error: BaseException | None = None) -> None:
        self.seconds = seconds
        self.error = error
        self.starts: list[float] = []
        self._clock = clock

    async def __call__(self) -> None:
        self.starts.append(self._clock.monotonic() - START)
        await self._clock.sleep(self.seconds)
        if self.error is not None:
            raise self.error


def keep(work: Work, clock: FakeClock) -> asyncio.Task[None]:
    return asyncio.ensure_future(keep_running("mirror", work, clock=clock, rng=random.Random(1)))


async def stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


async def test_work_that_runs_is_left_alone(clock: FakeClock) -> None:
    work = Work(clock, seconds=1e6)
    task = keep(work, clock)
    await clock.advance(1000)
    assert work.starts == [0]
    await stop(task)


async def test_failed_work_restarts_after_growing_delays_up_to_five_seconds(clock: FakeClock) -> None:
    work = Work(clock, error=LookupError("a bug"))
    task = keep(work, clock)
    await clock.advance(120)
    pauses = [later - earlier for earlier, later in itertools.pairwise(work.starts)]
    assert 0.05 <= pauses[0] <= 0.1
    assert 0.1 <= pauses[1] <= 0.2
    assert all(2.5 <= pause <= 5.0 for pause in pauses[7:])
    assert 20 <= len(work.starts) <= 60
    await stop(task)


async def test_work_that_ran_for_a_while_starts_again_soon(clock: FakeClock) -> None:
    work = Work(clock, error=LookupError("a bug"))
    task = keep(work, clock)
    await clock.advance(60)
    work.seconds = 3600.0
    await clock.advance(3600)
    starts = len(work.starts)
    ended_at = work.starts[-1] + 3600
    await clock.advance(ended_at + 0.1 - (clock.monotonic() - START))
    assert len(work.starts) == starts + 1
    assert work.starts[-1] - ended_at <= 0.1
    await stop(task)


async def test_a_failure_is_logged_with_its_traceback(clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    work = Work(clock, seconds=1.0, error=LookupError("a bug"))
    task = keep(work, clock)
    await clock.advance(1)
    (record,) = caplog.records
    assert record.message == "mirror failed; starting it again"
    assert record.levelname == "ERROR"
    assert record.exc_info is not None
    assert record.exc_info[1] is work.error
    await stop(task)


async def test_a_group_of_failures_is_a_failure(clock: FakeClock) -> None:
    work = Work(clock, error=ExceptionGroup("tasks", [LookupError("a bug")]))
    task = keep(work, clock)
    await clock.advance(1)
    assert len(work.starts) > 1
    await stop(task)


async def test_work_that_ends_by_itself_is_logged_and_started_again(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    work = Work(clock, seconds=1.0)
    task = keep(work, clock)
    await clock.advance(1.2)
    assert len(work.starts) == 2
    assert caplog.messages == ["mirror ended by itself; starting it again"]
    await stop(task)


async def test_work_cancelled_from_within_is_started_again(clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    work = Work(clock, seconds=1.0, error=asyncio.CancelledError())
    task = keep(work, clock)
    await clock.advance(1.2)
    assert len(work.starts) == 2
    assert caplog.messages == ["mirror failed; starting it again"]
    await stop(task)
    assert task.cancelled()


@pytest.mark.parametrize("seconds", [1e6, 0.0])
async def test_a_cancel_ends_the_work_or_the_pause_after_it(
    clock: FakeClock, seconds: float, caplog: pytest.LogCaptureFixture
) -> None:
    work = Work(clock, seconds=seconds)
    task = keep(work, clock)
    await clock.settle()
    logged = len(caplog.records)
    task.cancel()
    await clock.settle()
    assert task.cancelled()
    assert len(work.starts) == 1
    assert len(caplog.records) == logged
    assert clock.next_wake is None


async def test_a_cancel_waits_for_the_work_to_clean_up(clock: FakeClock) -> None:
    async def work() -> None:
        try:
            await clock.sleep(1e6)
        finally:
            await clock.sleep(2)

    task = asyncio.ensure_future(keep_running("election", work, clock=clock, rng=random.Random(1)))
    await clock.settle()
    task.cancel()
    await clock.advance(1.9)
    assert not task.done()
    await clock.advance(0.1)
    assert task.cancelled()


@pytest.mark.parametrize("error", [LookupError("a bug"), None])
async def test_work_that_hides_its_cancel_is_not_started_again(
    clock: FakeClock, error: Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        try:
            await clock.sleep(1e6)
        except asyncio.CancelledError:
            if error is not None:
                raise error from None

    task = asyncio.ensure_future(keep_running("election", work, clock=clock, rng=random.Random(1)))
    await clock.settle()
    task.cancel()
    await clock.settle()
    assert task.cancelled()
    assert caplog.messages == (["election failed while it ended"] if error else [])
