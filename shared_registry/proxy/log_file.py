"""Writes lines to a file or to standard output, without ever blocking the event loop.

Lines wait in memory for a moment, and are written together by a thread. If the file takes no more, because its disk is
full or nobody reads the pipe, lines are dropped, and the router's own log says how many.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import select
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

from shared_registry.aio.daemon_thread import call_in_daemon_thread
from shared_registry.errors import ConfigError

PERIOD_SECONDS = 0.2
"""How long a line waits at most while the file takes lines. A process that is killed loses them."""
LAST_SECONDS = 2.0
"""How long the lines that wait at the end may take."""
MOST_WAITING = 8 * 1024 * 1024
"""The most bytes that wait."""
PIECE_BYTES = 4096
"""The most bytes that are written at once. Several processes may write to a pipe; so much is never mixed."""
STANDARD_OUTPUT = 1
logger = logging.getLogger(__name__)


class LogFile:
    """A file to which lines are appended. If it is renamed, as log rotation does, a new one is opened."""

    def __init__(self, path: str | None) -> None:
        """Open the file.

        Args:
            path: The file's path; `None` for standard output.

        Raises:
            ConfigError: The file cannot be opened.
        """
        self._path = path
        self._descriptor = STANDARD_OUTPUT
        if path is not None:
            try:
                self._descriptor = _open(path)
            except OSError as error:
                remedy = "give a file in a directory that this user may write to"
                raise ConfigError(f"access_log_file: cannot write to {path} ({error.strerror}); {remedy}") from None
        self._lines: list[bytes] = []
        self._size = 0
        self._lost = 0
        self._in_flight = 0
        self._is_failing = False
        self._is_torn = False
        self._ending = asyncio.Event()

    @contextlib.asynccontextmanager
    async def writing(self) -> AsyncIterator[Callable[[bytes], None]]:
        """Write lines while the context is open: yield a function that takes one, with its end, and never blocks.

        At the end the lines that wait are written, for up to `LAST_SECONDS`; the number of those that are lost is
        logged.
        """
        task = asyncio.create_task(self._run())
        try:
            yield self._put
        finally:
            self._ending.set()
            try:
                await asyncio.wait((task,), timeout=LAST_SECONDS)
            finally:
                is_stuck = not task.done()
                task.cancel()  # if a thread is stuck in a write, nobody waits for it
                await asyncio.gather(task, return_exceptions=True)
                self._finish(is_stuck=is_stuck)

    def _put(self, line: bytes) -> None:
        if self._size > MOST_WAITING:
            if not self._lost:
                logger.warning("access log: %s takes lines too slowly; lines are lost", self._name)
            self._lost += 1
            return
        self._lines.append(line)
        self._size += len(line)

    async def _run(self) -> None:
        while True:
            is_last = self._ending.is_set()
            await self._write_waiting()
            if is_last:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PERIOD_SECONDS):
                    await self._ending.wait()

    async def _write_waiting(self) -> None:
        if not self._lines:
            return
        lines, self._lines = self._lines, []
        self._in_flight, lost = len(lines), self._lost
        try:
            await call_in_daemon_thread(functools.partial(self._write, lines))
        except (OSError, RuntimeError) as error:
            self._lost += len(lines)
            if not self._is_failing:
                self._is_failing = True
                logger.warning("access log: cannot write to %s (%s); lines are lost until it works", self._name, error)
        else:
            if lost:
                self._lost -= lost
                logger.warning("access log: %d lines were lost; writing to %s again", lost, self._name)
            self._is_failing = False
        self._in_flight = 0
        self._size = sum(map(len, self._lines))

    def _finish(self, *, is_stuck: bool) -> None:
        if self._path is not None and not is_stuck:
            os.close(self._descriptor)
        if lost := self._lost + self._in_flight + len(self._lines):
            logger.warning("access log: up to %d lines could not be written to %s", lost, self._name)

    @property
    def _name(self) -> str:
        return self._path or "standard output"

    def _write(self, lines: Sequence[bytes]) -> None:
        """Write lines. Runs in a thread."""
        self._follow_rename()
        for piece in _pieces((b"\n", *lines) if self._is_torn else lines):
            rest = piece
            while rest:
                try:
                    rest = rest[os.write(self._descriptor, rest) :]
                except BlockingIOError:  # somebody else made the same pipe or terminal non-blocking
                    select.select((), (self._descriptor,), (), 1)
                except OSError:
                    self._is_torn = self._is_torn or len(rest) < len(piece)
                    raise
            self._is_torn = False

    def _follow_rename(self) -> None:
        """Open the file anew if there is another one, or none, at its path."""
        if self._path is None:
            return
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(Path(self._path).stat(), os.fstat(self._descriptor)):
                return
        former, self._descriptor = self._descriptor, _open(self._path)
        os.close(former)


def _open(path: str) -> int:
    """Open a file for appending. A named pipe without a reader is an error, in place of a wait."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
    descriptor = os.open(path, flags, 0o640)
    os.set_blocking(descriptor, True)
    return descriptor


def _pieces(lines: Sequence[bytes]) -> Iterator[bytes]:
    """Join whole lines into pieces of at most `PIECE_BYTES`, unless a line is longer by itself."""
    piece: list[bytes] = []
    size = 0
    for line in lines:
        if piece and size + len(line) > PIECE_BYTES:
            yield b"".join(piece)
            piece, size = [], 0
        piece.append(line)
        size += len(line)
    if piece:
        yield b"".join(piece)
