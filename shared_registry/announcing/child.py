"""The replica's own process, as a child of the program that announces it."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1
FORWARDED = tuple(
    signal.Signals[name] for name in ("SIGHUP", "SIGUSR1", "SIGUSR2") if name in signal.Signals.__members__
)
"""Signals that are passed on to the child and mean nothing to the program that announces it."""
SIGNALLED = 128


class ReplicaChild:
    """A running command with this process's input and output, in a session of its own.

    Signals to this process's group, such as Ctrl-C in a terminal, do not reach it, so that it ends after its sessions.
    On Linux it gets SIGTERM if this process is killed: nobody would announce it any more.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, command: Sequence[str]) -> ReplicaChild:
        """Start the command. Call it in the main thread.

        Raises:
            OSError: It cannot be started.
        """
        libc = ctypes.CDLL(None) if sys.platform == "linux" else None
        parent = os.getpid()

        def die_with_parent() -> None:
            if libc is not None:
                libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
                if os.getppid() != parent:
                    os.kill(os.getpid(), signal.SIGTERM)

        return cls(await asyncio.create_subprocess_exec(*command, start_new_session=True, preexec_fn=die_with_parent))

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    async def wait(self) -> int:
        """Wait for its end. Return its exit code; 128 and the signal's number if a signal ended it, as shells do."""
        code = await self._process.wait()
        return code if code >= 0 else SIGNALLED - code

    def forward(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def end(self, grace_seconds: float) -> int:
        """Ask it to end, and after the grace kill it with its whole group. Return its exit code."""
        self.forward(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_seconds):
                return await self.wait()
        except TimeoutError:
            self.kill()
            return await self.wait()

    def kill(self) -> None:
        """Kill it and its group at once, unless it has ended."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
