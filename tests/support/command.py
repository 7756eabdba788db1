"""The command as users run it: a real process, with its exit code, its output, and the processes that it starts."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[2]
SECRET = "geheim"
"""The password in every url of a test: it may be shown nowhere."""
SECONDS = 30.0
"""Within which whatever is waited for has to happen, on a busy machine."""


@dataclass(frozen=True)
class Done:
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def all(self) -> str:
        return self.out + self.err

    @property
    def err_lines(self) -> list[str]:
        return self.err.splitlines()


def is_one_error(done: Done, code: int, *, is_logging: bool = False) -> bool:
    """Whether a command failed as it should: with this code, and one line that says why without a secret.

    Args:
        done: What it left.
        code: The exit code.
        is_logging: Whether it may have logged before.
    """
    assert "Traceback" not in done.all
    assert SECRET not in done.all
    errors = [line for line in done.err_lines if line.startswith("error: ")]
    last = done.err_lines[-1:] if is_logging else done.err_lines
    return (done.code, done.out, len(errors), last) == (code, "", 1, errors)


def environment(**variables: str) -> dict[str, str]:
    """Return this process's environment without the registry's own variables, and with these."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SHARED_REGISTRY_")}
    return {**kept, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "COLUMNS": "100", **variables}


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "shared_registry", *words]


def run(*words: str, **variables: str) -> Done:
    """Run the command to its end; no command takes longer than the demo."""
    done = subprocess.run(
        command(*words), env=environment(**variables), capture_output=True, text=True, timeout=55, check=False
    )
    return Done(done.returncode, done.stdout, done.stderr)


class Running:
    """A command under way. Its output goes to files, so that nobody has to read it for it to go on."""

    def __init__(self, process: subprocess.Popen[bytes], out: Path, err: Path) -> None:
        self.process = process
        self._out = out
        self._err = err

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def ends(self, number: int | None = None, seconds: float = SECONDS) -> Done:
        """Send it a signal, if one is given, and return what it left when it has ended."""
        if number is not None:
            self.process.send_signal(number)
        code = self.process.wait(seconds)
        return Done(code, self.out, self.err)


@contextlib.contextmanager
def running(directory: Path, *words: str, open_files: str = "", **variables: str) -> Iterator[Running]:
    """Run the command beside the test; kill it where it is still there in the end.

    Args:
        directory: For what it prints.
        words: Its arguments.
        open_files: What `ulimit` is told, such as "-n 256", or "-Sn 256" for the soft limit alone.
        variables: Of its environment.
    """
    limited = ["sh", "-c", f'ulimit {open_files}; exec "$@"', "sh"] if open_files else []
    out, err = directory / f"out-{time.monotonic_ns()}", directory / f"err-{time.monotonic_ns()}"
    with out.open("wb") as out_file, err.open("wb") as err_file:
        process = start([*limited, *command(*words)], out_file, err_file, environment(**variables))
    try:
        yield Running(process, out, err)
    finally:
        process.kill()
        process.wait()


def start(argv: list[str], out: IO[bytes] | int, err: IO[bytes], variables: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=variables)


def descendants(pid: int) -> dict[int, str]:
    """Return the living processes below one, with their command lines."""
    table = subprocess.run(
        ["ps", "-A", "-ww", "-o", "pid=,ppid=,stat=,args="], capture_output=True, text=True, check=True
    )
    rows = [line.split(maxsplit=3) for line in table.stdout.splitlines()]
    found: dict[int, str] = {}
    parents = {pid}
    while parents:
        children = {int(row[0]): row[3] for row in rows if int(row[1]) in parents and not row[2].startswith("Z")}
        parents = children.keys() - found.keys()
        found |= children
    return found


def alive(pids: set[int]) -> set[int]:
    """Return those of the processes that live; one that only waits to be reaped does not."""
    table = subprocess.run(["ps", "-A", "-o", "pid=,stat="], capture_output=True, text=True, check=True)
    rows = [line.split() for line in table.stdout.splitlines()]
    return pids & {int(pid) for pid, stat in rows if not stat.startswith("Z")}
