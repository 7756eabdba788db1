"""A child process that cannot outlive this process, even if this process is killed.

The kernel alone, or a clean-up handler, cannot promise this. PR_SET_PDEATHSIG exists only on Linux, and takes effect
when the *thread* that forked exits. atexit does not run after SIGKILL. Therefore a second child, a small shell, waits
on a pipe whose other end only this process holds. When this process ends for any reason, the kernel closes that end.
The shell then reads the end of the pipe, and kills the first child. This works on Linux and macOS.

    this process ──pipe──► watchdog      kills the child when the pipe ends; exits when it reads a line
                 ──pipe──► gate ≡ child  a shell that becomes the program only after the watchdog has started

The gate closes the gap between the two starts: if the parent dies in between, the gate ends as well.

Not promised: if the watchdog itself is killed, the child is no longer watched. A program that detaches itself
(daemonizes) is not watched.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

_GATE = 'read -r line && exec "$@"'
_WATCHDOG = 'read -r line || kill -9 "$1"'


class BoundProcess:
    """A running child process, which is killed within moments after this process ends.

    The child runs in a session of its own. Ctrl-C in the terminal and signals to this process's group do not reach it,
    so its owner decides when it stops. Any thread may create one, and may exit afterwards. In a fork of this process
    (`os.fork()`), which is not the child's parent, every method treats the child as ended and does nothing.

    Not safe for concurrent use: one thread at a time.
    """

    def __init__(
        self, argv: Sequence[str | Path], *, cwd: Path, output: IO[bytes], env: Mapping[str, str] | None = None
    ) -> None:
        """Start a program.

        Args:
            argv: The program and its arguments. If it cannot be executed, the child exits with 126 or 127.
            cwd: The child's working directory.
            output: An open file for the child's stdout and stderr.
            env: The child's environment; by default a copy of this process's.

        Raises:
            OSError: No process could be started.
        """
        self._child = _shell(_GATE, "gate", *map(str, argv), cwd=cwd, output=output, env=env)
        try:
            self._watchdog = _shell(_WATCHDOG, "watchdog", str(self._child.pid), cwd=Path("/"), output=None)
        except BaseException:
            self._child.kill()
            self._child.wait()
            _close(self._child)
            raise
        _live.add(self)
        _write_line(self._child)

    @property
    def pid(self) -> int:
        """The program's process id."""
        return self._child.pid

    def poll(self) -> int | None:
        """Return the exit status, or `None` while the program runs. A negative status is the signal that ended it."""
        if self._child.poll() is not None:
            self._dismiss_watchdog()
        return self._child.returncode

    def stop(self, grace_seconds: float) -> None:
        """End the program by SIGTERM, and by SIGKILL after `grace_seconds`.

        It returns after the program has ended. Twice is harmless.
        """
        self._child.terminate()
        self._child.send_signal(signal.SIGCONT)  # a stopped process handles SIGTERM only after it continues
        try:
            self._child.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            self.kill()
        self._dismiss_watchdog()

    def kill(self) -> None:
        """End the program by SIGKILL, like a crash, and return after it has ended. Twice is harmless."""
        self._child.kill()
        self._child.wait()
        self._dismiss_watchdog()

    def _dismiss_watchdog(self) -> None:
        # Only after the child is reaped, because it must be watched until then. Not later, because its process id may
        # be reused.
        _write_line(self._watchdog)
        self._watchdog.wait()

    def disown(self) -> None:
        """Close the pipe's end that a fork has copied. Otherwise the copy would keep the child alive."""
        _close(self._watchdog)


_live: weakref.WeakSet[BoundProcess] = weakref.WeakSet()


def _disown_all() -> None:
    for process in _live:
        process.disown()


os.register_at_fork(after_in_child=_disown_all)


def _shell(
    script: str, *arguments: str, cwd: Path, output: IO[bytes] | None, env: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["/bin/sh", "-c", script, *arguments],
        cwd=cwd,
        env=env,
        stdin=subprocess.PIPE,  # Popen makes pipes that no other child inherits
        stdout=output or subprocess.DEVNULL,
        stderr=output or subprocess.DEVNULL,
        bufsize=0,
        start_new_session=True,
    )


def _write_line(shell: subprocess.Popen[bytes]) -> None:
    if shell.stdin is not None and not shell.stdin.closed:
        with contextlib.suppress(OSError):  # the shell has already ended
            shell.stdin.write(b"\n")
        _close(shell)


def _close(shell: subprocess.Popen[bytes]) -> None:
    if shell.stdin is not None:
        shell.stdin.close()
