"""Names of replicas that the shell completes, through the protocols of bash, zsh and fish."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.in_process import Command
from tests.support.typer_imports import does_typer_import_rich
from tests.support.until import wait_for

ROOT = Path(__file__).parents[2]
A, B, C, D = (f"http://10.0.0.{number}:8000" for number in (1, 2, 3, 4))
PROGRAM = f"""#!{sys.executable}
import sys
sys.path.insert(0, {str(ROOT)!r})
from shared_registry.__main__ import main
main()
"""
Complete = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "shared-registry"
    path.write_text(PROGRAM)
    path.chmod(0o755)
    return path


@pytest.fixture
def complete(program: Path, variables: dict[str, str]) -> Complete:
    """Ask for completions as the functions of the shells do."""

    def ask(*words: str, shell: str = "bash", **more: str) -> subprocess.CompletedProcess[str]:
        line = " ".join(["shared-registry", *words])
        protocol = {
            "_SHARED_REGISTRY_COMPLETE": f"complete_{shell}",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words)),
            "_TYPER_COMPLETE_ARGS": line,
            "_TYPER_COMPLETE_FISH_ACTION": "get-args",
            "_TYPER_COMPLETE_WORD_TO_COMPLETE": words[-1],
        }
        environment = os.environ | variables | protocol | more
        command = [str(program)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)

    return ask


@pytest.fixture
def replicas(command: Command) -> None:
    for url, name in ((A, "gpu-1"), (B, "gpu-2"), (C, "cpu-1")):
        assert command("add", url, "--name", name).code == 0
    assert command("add", D).code == 0


@pytest.mark.usefixtures("replicas")
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize("verb", ["drain", "disable", "enable", "remove"])
def test_each_shell_completes_names_of_replicas(complete: Complete, verb: str, shell: str) -> None:
    def words() -> set[str]:
        done = complete(verb, "gp", shell=shell)
        assert (done.returncode, done.stderr) == (0, "")
        return set(done.stdout.replace('"', " ").split())

    wait_for(lambda: {"gpu-1", "gpu-2"} <= words(), "an answer in time, which a busy machine may miss")
    assert "cpu-1" not in words()


@pytest.mark.usefixtures("replicas")
def test_a_replica_without_a_name_completes_by_url(complete: Complete) -> None:
    wait_for(lambda: complete("drain", "h").stdout.split() == [D], "its url")


@pytest.mark.usefixtures("replicas")
def test_a_replica_is_not_offered_a_second_time(complete: Complete) -> None:
    wait_for(lambda: complete("drain", "gpu-1", "g").stdout.split() == ["gpu-2"], "the other one")


@pytest.mark.usefixtures("replicas")
def test_options_on_the_line_select_the_namespace(complete: Complete, variables: dict[str, str]) -> None:
    namespace, redis = variables["SHARED_REGISTRY_NAMESPACE"], variables["SHARED_REGISTRY_REDIS_URL"]
    elsewhere = {"SHARED_REGISTRY_NAMESPACE": "elsewhere", "SHARED_REGISTRY_REDIS_URL": "redis://127.0.0.1:1"}
    assert complete("drain", "c", **elsewhere).stdout.split() == []
    words = ("--redis", redis, "drain", "--namespace", namespace, "c")
    wait_for(lambda: complete(*words, **elsewhere).stdout.split() == ["cpu-1"], "an answer in time")


@pytest.mark.parametrize(
    "settings",
    [
        {"SHARED_REGISTRY_REDIS_URL": "redis://127.0.0.1:1"},
        {"SHARED_REGISTRY_REDIS_URL": "nonsense"},
        {"SHARED_REGISTRY_PORT": "none"},
    ],
    ids=["redis is away", "the url is wrong", "a setting is wrong"],
)
def test_whatever_is_wrong_the_shell_shows_nothing(complete: Complete, settings: dict[str, str]) -> None:
    done = complete("drain", "g", **settings)
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_a_redis_that_is_silent_is_given_up(complete: Complete) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}"
        begun = time.monotonic()
        done = complete("drain", "g", SHARED_REGISTRY_REDIS_URL=url, SHARED_REGISTRY_REDIS_TIMEOUT_SECONDS="50")
        assert time.monotonic() - begun < 30
    assert (done.stdout.strip(), done.stderr) == ("", "")


@pytest.mark.usefixtures("replicas")
def test_the_function_for_bash_completes_names(program: Path, variables: dict[str, str]) -> None:
    script = """
        eval "$(_SHARED_REGISTRY_COMPLETE=source_bash shared-registry)"
        function=$(complete -p shared-registry | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        COMP_WORDS=(shared-registry drain gpu); COMP_CWORD=2
        $function shared-registry
        echo "${COMPREPLY[@]}"
    """
    environment = os.environ | variables | {"PATH": f"{program.parent}:{os.environ['PATH']}"}
    command = ["bash", "--norc", "-c", script]

    def completed() -> str:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
        assert done.stderr == ""
        return done.stdout

    wait_for(lambda: completed() == "gpu-1 gpu-2\n", "an answer in time")


def test_names_complete_without_rich(complete: Complete, tmp_path: Path) -> None:
    if does_typer_import_rich():
        pytest.skip("this version of typer imports rich itself")
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "rich.py").write_text("raise RuntimeError('rich was imported')\n")
    done = complete("drain", "g", PYTHONPATH=str(hidden))
    assert (done.returncode, done.stderr) == (0, "")
