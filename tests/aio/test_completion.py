"""What must not be cut short ends first; then the cancellation is raised."""

from __future__ import annotations

import asyncio

import pytest

from shared_registry.aio.completion import completed
from tests.support.until import until


class Call:
    """Something under way, until it is let go."""

    def __init__(self, *, error: Exception | None = None) -> None:
        self.let_go = asyncio.Event()
        self.is_done = False
        self._error = error

    async def run(self) -> str:
        await self.let_go.wait()
        self.is_done = True
        if self._error is not None:
            raise self._error
        return "done"


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_an_uncancelled_call_is_simply_awaited() -> None:
    call = Call()
    call.let_go.set()
    assert await completed(call.run()) == "done"
    failing = Call(error=ValueError("no"))
    failing.let_go.set()
    with pytest.raises(ValueError, match="no"):
        await completed(failing.run())


@pytest.mark.parametrize("error", [None, ValueError("no")])
async def test_a_call_completes_however_often_its_caller_is_cancelled(error: Exception | None) -> None:
    call = Call(error=error)
    task = asyncio.create_task(completed(call.run()))
    for _ in range(3):
        await settle()
        task.cancel()
    await settle()
    assert (task.done(), call.is_done) == (False, False)
    call.let_go.set()
    await settle()
    assert (task.cancelled(), call.is_done) == (True, True)


async def test_a_timeout_around_the_call_stays_a_timeout() -> None:
    call, limit = Call(), asyncio.timeout(0.01)

    async def let_go_late() -> None:
        await until(limit.expired, "the time is up")
        call.let_go.set()

    letting_go = asyncio.create_task(let_go_late())
    with pytest.raises(TimeoutError):
        async with limit:
            await completed(call.run())
    assert call.is_done
    await letting_go


async def test_a_call_that_was_cancelled_itself_counts_as_cancelled() -> None:
    async def cancelled() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await completed(cancelled())


async def test_a_call_not_yet_begun_ends_at_once_when_cancelled() -> None:
    call = Call()
    is_begun = False
    task = asyncio.create_task(completed(call.run(), is_begun=lambda: is_begun))
    await settle()
    task.cancel()
    await settle()
    assert (task.cancelled(), call.is_done) == (True, False)


async def test_a_call_that_has_begun_is_not_cut_short() -> None:
    call = Call()
    is_begun = False
    task = asyncio.create_task(completed(call.run(), is_begun=lambda: is_begun))
    await settle()
    is_begun = True
    task.cancel()
    await settle()
    assert not task.done()
    call.let_go.set()
    await settle()
    assert (task.cancelled(), call.is_done) == (True, True)
