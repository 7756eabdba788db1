"""`join` as the first process of a container, for which the system drops signals and which inherits processes."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import environment
from tests.support.foreign import missing
from tests.support.until import wait_for

FIRST = ("unshare", "-rpf", "--kill-child")


@pytest.fixture(autouse=True)
def _containers() -> None:
    with contextlib.suppress(FileNotFoundError):
        if subprocess.run([*FIRST, "true"], check=False, capture_output=True).returncode == 0:
            return
    missing("needs unshare, and the right to use it")


def children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def ignore_nothing() -> None:
    """Handle signals as in a container. Shells let the programs that they start in the background ignore SIGQUIT."""
    for number in (signal.SIGTERM, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def first_process(*words: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run `join`; yield the process that has its exit code, and its own process id."""
    command = [*FIRST, sys.executable, "-m", "shared_registry", "join", "--url", "http://127.0.0.1:9", *words]
    with subprocess.Popen(
        command,
        env=environment(),
        stderr=subprocess.DEVNULL,
        preexec_fn=ignore_nothing,  # noqa: PLW1509  it takes no lock that a thread could hold
    ) as process:
        try:
            wait_for(lambda: children(process.pid), "the first process")
            yield process, children(process.pid)[0]
        finally:
            process.kill()


def catches(pid: int, number: int) -> bool:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    caught = next(line for line in lines if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) & 1 << (number - 1))


@pytest.mark.timeout(150)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_a_signal_at_the_start_is_not_lost(number: signal.Signals, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "settings")  # so that the start does not end
    with first_process("--config", str(tmp_path / "settings"), "--", "sleep", "1000") as (process, pid):
        wait_for(functools.partial(catches, pid, number), "it handles the signal", seconds=100)
        os.kill(pid, number)
        assert process.wait(30) == 128 + number


def test_processes_that_it_inherits_leave_nothing_behind(tmp_path: Path) -> None:
    may_end = tmp_path / "may end"
    script = f"(while [ ! -e '{may_end}' ]; do sleep 0.05; done &); exec sleep 1000"
    with first_process("--redis", "redis://127.0.0.1:9", "--", "sh", "-c", script) as (_, pid):
        wait_for(lambda: len(children(pid)) == 2, "the first process inherits one")
        may_end.touch()
        wait_for(lambda: len(children(pid)) == 1, "it has ended, and is no entry any more")
