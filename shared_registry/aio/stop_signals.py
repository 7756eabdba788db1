"""Signals as a request to stop cleanly, and those that a service does not die of."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


def _existing(*names: str) -> tuple[signal.Signals, ...]:
    return tuple(signal.Signals[name] for name in names if name in signal.Signals.__members__)


STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
SERVICE_STOP_SIGNALS = (*STOP_SIGNALS, *_existing("SIGQUIT"))
"""SIGQUIT, by default a core dump, stops a service as gracefully: images and supervisors that know nginx send it."""
IGNORED_SIGNALS = _existing("SIGHUP", "SIGUSR1", "SIGUSR2")
"""What means "reload", "open the log files anew" or "the terminal is gone" to services; by default it kills."""
logger = logging.getLogger(__name__)


async def until_stopped(work: Coroutine[Any, Any, T]) -> T | None:
    """Run work to its end and return its result, or cancel it when asked to stop, and return `None` once it has ended.

    A second signal does what it does by default, should cleaning up take too long for somebody's patience.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)

    def stop() -> None:
        _release(loop)
        task.cancel()

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stop)
    try:
        await asyncio.wait((task,))
    finally:
        _release(loop)
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
        """Take a service's signals for requests meanwhile, and let others not end it, not even afterwards.

        A third request does what it does by default.
        """
        loop = asyncio.get_running_loop()

        def ask() -> None:
            self.ask()
            if self.urgent.is_set():
                _release(loop, SERVICE_STOP_SIGNALS)

        for number in SERVICE_STOP_SIGNALS:
            loop.add_signal_handler(number, ask)
        for number in IGNORED_SIGNALS:
            loop.add_signal_handler(number, _log_ignored, number)
        try:
            yield
        finally:
            _release(loop, (*SERVICE_STOP_SIGNALS, *IGNORED_SIGNALS))
            ignore_for_good()


def ignore_for_good() -> None:
    """Have the system drop the signals that a service does not die of, until there is an event loop to log them."""
    for number in IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _log_ignored(number: signal.Signals) -> None:
    logger.info("signal: %s is ignored; settings are read at the start, SIGTERM stops", number.name)


def _release(loop: asyncio.AbstractEventLoop, numbers: tuple[signal.Signals, ...] = STOP_SIGNALS) -> None:
    for number in numbers:
        loop.remove_signal_handler(number)
