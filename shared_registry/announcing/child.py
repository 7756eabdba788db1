"""The replica's own process, as a child of the program that announces it."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Collection, Sequence

PR_SET_PDEATHSIG = 1
FORWARDED = tuple(
    signal.Signals[name] for name in ("SIGHUP", "SIGUSR1", "SIGUSR2") if name in signal.Signals.__members__
)
"""Signals that are passed on to the child and mean nothing to the program that announces it."""
SIGNALLED = 128
POLL_SECONDS = 0.05
ORPHANS_SECONDS = 5.0
FIRST_PROCESS = 1


class ReplicaChild:
    """A running command with this process's input and output, in a session of its own.

    Signals to this process's group, such as Ctrl-C in a terminal, do not reach it, so that it ends after its sessions.
    On Linux it gets SIGTERM if this process is killed: nobody would announce it any more.

    The command may be a script that has started the server. So its process group ends with it: what is left of that
    when the command has ended gets SIGTERM too.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._is_group_gone = False

    @classmethod
    async def start(cls, command: Sequence[str], *, mask: Collection[int]) -> ReplicaChild:
        """Start the command. Call it in the main thread.

        Args:
            command: The program and its arguments.
            mask: The signals that are blocked for the command.

        Raises:
            OSError: It cannot be started.
        """
        libc = ctypes.CDLL(None) if sys.platform == "linux" else None
        parent = os.getpid()

        def prepare() -> None:
            """Die with the parent."""
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            if libc is not None:
                libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
                if os.getppid() != parent:
                    os.kill(os.getpid(), signal.SIGTERM)

        return cls(await asyncio.create_subprocess_exec(*command, start_new_session=True, preexec_fn=prepare))

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    async def wait(self) -> int:
        """Wait for its end. Return its exit code; 128 and the signal's number if a signal ended it, as shells do."""
        inheriting = asyncio.create_task(self._take_in_orphans()) if os.getpid() == FIRST_PROCESS else None
        try:
            code = await self._process.wait()
        finally:
            if inheriting is not None:
                inheriting.cancel()
        return code if code >= 0 else SIGNALLED - code

    def forward(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def end(self, grace_seconds: float) -> int:
        """Ask it to end, and then the rest of its group; after the grace kill all of them. Return its exit code."""
        self.forward(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_seconds):
                await self.wait()
                self._signal_group(signal.SIGTERM)
                while self._has_group():  # noqa: ASYNC110  nothing tells the end of a process that is no child
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            self.kill()
        return await self.wait()

    def kill(self) -> None:
        """Kill it and its group at once, unless they have ended."""
        self._signal_group(signal.SIGKILL)

    async def _take_in_orphans(self) -> None:
        """Without end, receive the exit codes of processes whose parents have ended.

        The first process of a container inherits them. Otherwise what is left of each would count as a process.
        """
        while True:
            with contextlib.suppress(ChildProcessError):
                while self._takes_in_one():
                    pass
            await asyncio.sleep(ORPHANS_SECONDS)

    def _takes_in_one(self) -> bool:
        """Receive one exit code, if it is not the command's own."""
        options = os.WEXITED | os.WNOHANG
        ended = os.waitid(os.P_ALL, 0, options | os.WNOWAIT)
        return ended is not None and ended.si_pid != self.pid and bool(os.waitid(os.P_PID, ended.si_pid, options))

    def _has_group(self) -> bool:
        """Return whether a process of the group is left; call it when the command itself has ended."""
        with contextlib.suppress(ChildProcessError):  # as the first process of a container, this one inherits them
            while os.waitpid(-self._process.pid, os.WNOHANG)[0]:
                pass
        self._signal_group(0)
        return not self._is_group_gone

    def _signal_group(self, number: int) -> None:
        """Send a signal to the group, or with 0 only look whether it is there. Once it is gone, its id is another's."""
        if not self._is_group_gone:
            try:
                os.killpg(self._process.pid, number)
            except ProcessLookupError:
                self._is_group_gone = True
