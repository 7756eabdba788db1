"""A bound child runs, stops as told, and is gone whenever its parent is."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from shared_registry.embedded.bound_process import BoundProcess
from tests.support.until import wait_for

Start = Callable[..., BoundProcess]


@pytest.fixture
def output(tmp_path: Path) -> Iterator[IO[bytes]]:
    with (tmp_path / "output").open("w+b") as file:
        yield file


@pytest.fixture
def start(tmp_path: Path, output: IO[bytes]) -> Iterator[Start]:
    started: list[BoundProcess] = []

    def start(*argv: str) -> BoundProcess:
        started.append(BoundProcess(argv, cwd=tmp_path, output=output))
        return started[-1]

    yield start
    for process in started:
        process.kill()


def is_gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has reaped yet has."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    if Path("/proc/self/stat").exists():
        with contextlib.suppress(FileNotFoundError):
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        return True
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return not state or state.startswith("Z")


def test_the_program_runs_with_the_announced_pid_and_empty_stdin(start: Start, tmp_path: Path) -> None:
    process = start("sh", "-c", 'cat; echo "$$ $(pwd -P) $1"', "sh", "two words")
    wait_for(lambda: process.poll() is not None)
    assert process.poll() == 0
    assert (tmp_path / "output").read_text() == f"{process.pid} {tmp_path.resolve()} two words\n"


def test_the_exit_status_is_reported(start: Start) -> None:
    process = start("sh", "-c", "exit 7")
    wait_for(lambda: process.poll() is not None)
    assert process.poll() == 7


def test_a_program_that_does_not_exist_exits_with_127(start: Start, tmp_path: Path) -> None:
    process = start("/no/such/program")
    wait_for(lambda: process.poll() is not None)
    assert process.poll() == 127
    assert "/no/such/program" in (tmp_path / "output").read_text()


def test_stop_sends_a_polite_signal_first(start: Start, tmp_path: Path) -> None:
    process = start("sh", "-c", "trap 'echo asked; exit 3' TERM; echo up; while :; do sleep 0.01; done")
    wait_for((tmp_path / "output").read_text)
    process.stop(grace_seconds=10)
    process.stop(grace_seconds=10)
    assert process.poll() == 3
    assert "asked" in (tmp_path / "output").read_text()


def test_stop_kills_a_program_that_ignores_the_signal(start: Start, tmp_path: Path) -> None:
    process = start("sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.01; done")
    wait_for((tmp_path / "output").read_text)
    process.stop(grace_seconds=0.05)
    assert process.poll() == -signal.SIGKILL


def test_stop_ends_a_paused_program(start: Start) -> None:
    process = start("sleep", "60")
    os.kill(process.pid, signal.SIGSTOP)
    process.stop(grace_seconds=10)
    assert process.poll() == -signal.SIGTERM


def test_kill_crashes_the_program_and_may_be_repeated(start: Start) -> None:
    process = start("sleep", "60")
    process.kill()
    process.kill()
    assert process.poll() == -signal.SIGKILL


def test_the_program_has_a_session_of_its_own(start: Start) -> None:
    process = start("sleep", "60")
    assert os.getsid(process.pid) == process.pid


def test_two_programs_do_not_keep_each_other_alive(start: Start) -> None:
    first, second = start("sleep", "60"), start("sleep", "60")
    first.kill()
    assert second.poll() is None


def run_parent(body: str, tmp_path: Path) -> subprocess.Popen[str]:
    """Run Python code that prints a pid in a process of its own."""
    prelude = """
        import os, signal, sys, threading, time
        from pathlib import Path
        from shared_registry.embedded import bound_process
        from shared_registry.embedded.bound_process import BoundProcess

        def start(*argv):
            with open("output", "wb") as output:
                return BoundProcess(argv, cwd=Path.cwd(), output=output)
    """
    code = textwrap.dedent(prelude) + textwrap.dedent(body)
    root = str(Path(__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
    )


WAYS_TO_LIVE = {
    "plainly": """
        print(start("sleep", "60").pid, flush=True)
        time.sleep(60)
    """,
    "started in a thread that is over": """
        thread = threading.Thread(target=lambda: globals().update(process=start("sleep", "60")))
        thread.start()
        thread.join()
        print(process.pid, flush=True)
        time.sleep(60)
    """,
    "with a paused child": """
        process = start("sleep", "60")
        os.kill(process.pid, signal.SIGSTOP)
        print(process.pid, flush=True)
        time.sleep(60)
    """,
    "with a forked copy of itself that lives on": """
        process = start("sleep", "60")
        if os.fork() == 0:
            os.close(1)
            time.sleep(5)
            os._exit(0)
        print(process.pid, flush=True)
        time.sleep(60)
    """,
    "with other programs that it started and that live on": """
        import subprocess
        process = start("sleep", "60")
        subprocess.Popen(["sleep", "5"], stdout=subprocess.DEVNULL)
        subprocess.Popen(["sleep", "5"], stdout=subprocess.DEVNULL, close_fds=False)
        print(process.pid, flush=True)
        time.sleep(60)
    """,
}


@pytest.mark.parametrize("way", WAYS_TO_LIVE)
def test_a_sigkilled_parent_takes_the_child_along(way: str, tmp_path: Path) -> None:
    with run_parent(WAYS_TO_LIVE[way], tmp_path) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert not is_gone(child)
        parent.kill()
        wait_for(lambda: is_gone(child))


def test_a_parent_that_just_ends_takes_the_child_along(tmp_path: Path) -> None:
    with run_parent('print(start("sleep", "60").pid, flush=True); os._exit(0)', tmp_path) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
    wait_for(lambda: is_gone(child))


def test_a_parent_killed_before_its_watchdog_runs_has_started_nothing(tmp_path: Path) -> None:
    body = """
        shell = bound_process._shell

        def die_at_the_second_start(script, *words, **options):
            if words[0] == "watchdog":
                print(words[1], flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
            return shell(script, *words, **options)

        bound_process._shell = die_at_the_second_start
        start("touch", "started")
    """
    with run_parent(body, tmp_path) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
    wait_for(lambda: is_gone(child))
    assert not (tmp_path / "started").exists()


def test_a_forked_copy_ends_nothing(tmp_path: Path) -> None:
    body = """
        process = start("sleep", "60")
        if os.fork() == 0:
            process.kill()
            process.stop(1)
            os._exit(0)
        os.wait()
        print("lives" if process.poll() is None else "dead")
        process.kill()
    """
    with run_parent(body, tmp_path) as parent:
        assert parent.communicate()[0] == "lives\n"


def test_no_process_and_no_pipe_is_left_behind(tmp_path: Path) -> None:
    body = """
        before = len(os.listdir("/dev/fd"))
        for end in (BoundProcess.kill, lambda process: process.stop(1)):
            end(start("sleep", "60"))
        over = start("true")
        while over.poll() is None:
            time.sleep(0.01)
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            print(len(os.listdir("/dev/fd")) - before)
    """
    with run_parent(body, tmp_path) as parent:
        assert parent.communicate()[0] == "0\n"
