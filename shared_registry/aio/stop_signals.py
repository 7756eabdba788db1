"""Handles signals: some are requests to stop cleanly, and some must not end a service."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Collection, Coroutine, Iterator
from typing import Any, TypeVar, cast

T = TypeVar("T")


def _existing(*names: str) -> tuple[signal.Signals, ...]:
    return tuple(signal.Signals[name] for name in names if name in signal.Signals.__members__)


STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
SERVICE_STOP_SIGNALS = (*STOP_SIGNALS, *_existing("SIGQUIT"))
"""SIGQUIT stops a service as cleanly as SIGTERM. By default it would dump core.

Images and supervisors that are made for nginx send it.
"""
RELOAD_SIGNALS = _existing("SIGHUP")
"""Signals that mean "read the settings again", or "the terminal is closed". By default they kill a process."""
IGNORED_SIGNALS = _existing("SIGUSR1", "SIGUSR2")
"""Signals that mean "reopen the log files" to some programs. By default they kill a process."""
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


class ReloadRequest:
    """Records requests to read the settings again. Made before the settings are first read, so that none is missed.

    Attributes:
        asked: Set by a request. Whoever serves it clears it first.
    """

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    def note_signals(self) -> None:
        """Record signals from now on, also before there is an event loop to handle them."""
        for number in RELOAD_SIGNALS:
            signal.signal(number, lambda *_: self.asked.set())


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
    def on_signals(self, reload: ReloadRequest | None = None) -> Iterator[None]:
        """Treat a service's signals as requests while this context is open.

        The ignored signals are only logged, and have no effect after the context either. A third stop signal has its
        default effect.

        Args:
            reload: Gets the requests to read the settings again. If it is `None`, those signals are ignored, too.
        """
        loop = asyncio.get_running_loop()

        def ask() -> None:
            self.ask()
            if self.urgent.is_set():
                _release(loop, SERVICE_STOP_SIGNALS)

        for number in SERVICE_STOP_SIGNALS:
            loop.add_signal_handler(number, ask)
        for number in RELOAD_SIGNALS if reload else ():
            loop.add_signal_handler(number, cast("ReloadRequest", reload).asked.set)
        ignored = IGNORED_SIGNALS if reload else (*RELOAD_SIGNALS, *IGNORED_SIGNALS)
        for number in ignored:
            loop.add_signal_handler(number, _log_ignored, number)
        try:
            yield
        finally:
            _release(loop, (*SERVICE_STOP_SIGNALS, *RELOAD_SIGNALS, *IGNORED_SIGNALS))
            ignore_for_good()


def ignore_for_good() -> None:
    """Let the operating system drop the signals that must not end a service, while no event loop can handle them."""
    for number in (*RELOAD_SIGNALS, *IGNORED_SIGNALS):
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def signals_held_back(numbers: Collection[int]) -> Iterator[Collection[int]]:
    """Let these signals wait until the end of the block, while nothing handles them yet. For the main thread.

    Yields:
        The signals that were blocked before, which child processes need as their mask.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield before
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _log_ignored(number: signal.Signals) -> None:
    logger.info("signal: %s is ignored; SIGHUP reads the settings again, SIGTERM stops", number.name)


def _release(loop: asyncio.AbstractEventLoop, numbers: tuple[signal.Signals, ...] = STOP_SIGNALS) -> None:
    for number in numbers:
        loop.remove_signal_handler(number)
