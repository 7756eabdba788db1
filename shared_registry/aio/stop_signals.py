"""Handles signals: some are requests to stop cleanly, and some must not end a service."""

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
"""SIGQUIT stops a service as cleanly as SIGTERM. By default it would dump core.

Images and supervisors that are made for nginx send it.
"""
IGNORED_SIGNALS = _existing("SIGHUP", "SIGUSR1", "SIGUSR2")
"""Signals that mean "reload", "reopen the log files" or "the terminal is closed". By default they kill a process."""
logger = logging.getLogger(__name__)


async def until_stopped(work: Coroutine[Any, Any, T]) -> T | None:
    """Run work to its end and return its result. On a stop signal, cancel it and return `None` once it has ended.

    A second signal has its default effect, in case the cleanup takes too long.
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
    """Records requests to stop this process.

    Attributes:
        asked: Set by the first request.
        urgent: Set by the second request, which means that the process should not wait any longer.
    """

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.urgent = asyncio.Event()

    def ask(self) -> None:
        """Record one more request."""
        if self.asked.is_set():
            self.urgent.set()
        self.asked.set()

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """Treat a service's stop signals as requests while this context is open.

        The ignored signals are only logged, and have no effect after the context either. A third stop signal has its
        default effect.
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
    """Let the operating system drop the ignored signals while no event loop can log them."""
    for number in IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _log_ignored(number: signal.Signals) -> None:
    logger.info("signal: %s is ignored; settings are read at the start, SIGTERM stops", number.name)


def _release(loop: asyncio.AbstractEventLoop, numbers: tuple[signal.Signals, ...] = STOP_SIGNALS) -> None:
    for number in numbers:
        loop.remove_signal_handler(number)
