"""SIGINT and SIGTERM as a request to stop cleanly."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

T = TypeVar("T")
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


async def until_stopped(work: Coroutine[Any, Any, T]) -> T | None:
    """Run work to its end and return its result, or cancel it when asked to stop, and return `None` once it has ended.

    A second signal does what it does by default, should cleaning up take too long for somebody's patience.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)

    def stop() -> None:
        _ignore(loop)
        task.cancel()

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stop)
    try:
        await asyncio.wait((task,))
    finally:
        _ignore(loop)
    return None if task.cancelled() else task.result()


class StopRequest:
    """Whether somebody wants this process to stop.

    Attributes:
        asked: Set by the first request.
        urgent: Set by the second: whoever asks again does not want to wait.
    """

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.urgent = asyncio.Event()

    def ask(self) -> None:
        """Ask once more."""
        if self.asked.is_set():
            self.urgent.set()
        self.asked.set()

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """Take signals for requests meanwhile. A third one does what it does by default."""
        loop = asyncio.get_running_loop()

        def ask() -> None:
            self.ask()
            if self.urgent.is_set():
                _ignore(loop)

        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, ask)
        try:
            yield
        finally:
            _ignore(loop)


def _ignore(loop: asyncio.AbstractEventLoop) -> None:
    for number in STOP_SIGNALS:
        loop.remove_signal_handler(number)
