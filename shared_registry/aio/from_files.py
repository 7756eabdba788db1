"""A value that is made of files, such as certificates: made again when the files change, without a restart."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from shared_registry.aio.daemon_thread import call_in_daemon_thread

CHECK_SECONDS = 1.0
"""How often the files are checked for changes."""
RETRY_SECONDS = 10.0
"""How long after a failure files that did not change are read again."""

T = TypeVar("T")
Stamp = tuple[str, int, int, int]
logger = logging.getLogger(__name__)


class FromFiles(Generic[T]):
    """A value, and the task that keeps it up to date.

    If the changed files are not usable, such as a certificate whose key has not arrived yet, the former value stays.

    Attributes:
        value: The value of the latest usable files.
    """

    def __init__(self, files: Sequence[str], make: Callable[[], T], *, what: str) -> None:
        """Make the value. Blocks while the files are read.

        Args:
            files: The paths of the files.
            make: Reads the files and returns the value. It is called in another thread later.
            what: What the files are, in the plural, for log lines.

        Raises:
            Exception: Whatever `make` raises.
        """
        self._files = tuple(files)
        self._make = make
        self._what = what
        self._read = self._stamps()
        self.value = make()
        self._asked = asyncio.Event()
        self._retry_at = 0.0
        self._is_failing = False

    @property
    def has_files(self) -> bool:
        """Whether there are files to follow."""
        return bool(self._files)

    def reload(self) -> None:
        """Read the files at once, even if they seem unchanged. The value changes a moment later, if they are usable."""
        self._asked.set()

    async def follow(self) -> None:
        """Keep the value up to date until cancelled. A file system that hangs holds up this task, and nothing else."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CHECK_SECONDS):
                    await self._asked.wait()
            is_asked = self._asked.is_set()
            self._asked.clear()
            try:
                await self._check(is_asked=is_asked)
            except Exception as error:  # noqa: BLE001  whatever is wrong with the files, the value stays
                self._failed(error)

    async def _check(self, *, is_asked: bool) -> None:
        stamps = await call_in_daemon_thread(self._stamps)
        is_changed = stamps != self._read
        is_retry = self._is_failing and asyncio.get_running_loop().time() >= self._retry_at
        if not is_changed and not is_asked and not is_retry:
            return
        self._read = stamps
        self._is_failing = self._is_failing and not is_changed  # another failure is worth another line
        self.value = await call_in_daemon_thread(self._make)
        self._is_failing = False
        logger.info("router: %s were read again", self._what)

    def _failed(self, error: Exception) -> None:
        self._retry_at = asyncio.get_running_loop().time() + RETRY_SECONDS
        if not self._is_failing:
            logger.warning("router: the former %s stay in use: %s", self._what, error)
        self._is_failing = True

    def _stamps(self) -> tuple[Stamp, ...]:
        return tuple(stamp_of(file) for file in self._files)


def stamp_of(file: str) -> Stamp:
    """Return what changes when a file is written or replaced."""
    try:
        found = os.stat(file)  # noqa: PTH116 - may be called for each new connection
    except OSError:
        return file, 0, 0, 0
    return file, found.st_ino, found.st_mtime_ns, found.st_size
