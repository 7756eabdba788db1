"""Runs a blocking call in a thread that neither the event loop's shutdown nor the end of the process waits for.

`asyncio.to_thread` does not fit calls that may hang, such as lookups of names: its threads are few and shared by the
whole process, and Python waits for them when the process ends.
"""

from __future__ import annotations

import _thread
import asyncio
import contextlib
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def start_call(call: Callable[[], T], done: Callable[[T | Exception], None]) -> None:
    """Run `call` in a new thread, and then `done` in the event loop, with the result or the exception.

    If the loop is closed by then, the result is dropped.

    Raises:
        RuntimeError: No thread could be started.
    """
    loop = asyncio.get_running_loop()

    def run() -> None:
        result: T | Exception
        try:
            result = call()
        except Exception as error:  # noqa: BLE001  the caller gets it
            result = error
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(done, result)

    # Like a daemon thread of `threading`, but the event loop does not wait for its first step.
    _thread.start_new_thread(run, ())


async def call_in_daemon_thread(call: Callable[[], T]) -> T:
    """Return the result of a blocking call. A cancelled caller leaves it running.

    Raises:
        RuntimeError: No thread could be started.
        Exception: Whatever the call raised.
    """
    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def done(result: T | Exception) -> None:
        if future.done():
            return
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)

    start_call(call, done)
    return await future
