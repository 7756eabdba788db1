"""How little the command imports before it answers. Counted in modules: times depend on the machine."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from typer.core import TyperGroup

from shared_registry.aio.garbage import no_collections
from shared_registry.cli.app import app
from shared_registry.cli.lazy_group import MODULES
from shared_registry.embedded import EmbeddedServer
from tests.support.typer_imports import does_typer_import_rich
from tests.tools.command_help import PATH, module_text

ROOT = Path(__file__).parents[2]
SLOW = {"asyncio", "click", "pydantic", "redis", "rich", "typer", "yaml"}


LISTING = """
import atexit, sys
atexit.register(lambda: print("modules:", *sys.modules, file=sys.stderr))
from shared_registry.__main__ import main
sys.argv[0] = "shared-registry"
main()
"""


def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command, and list on standard error the modules that are imported at its end."""
    return subprocess.run(
        [sys.executable, "-c", LISTING, *words],
        cwd=ROOT,
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def imported(done: subprocess.CompletedProcess[str]) -> set[str]:
    return set(done.stderr.rpartition("modules:")[2].split())


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["-h"]], ids=str)
def test_version_and_help_import_none_of_the_commands(words: list[str]) -> None:
    done = run(*words)
    assert done.returncode == 0
    assert imported(done) & SLOW == set()
    assert len({name for name in imported(done) if name.startswith("shared_registry")}) <= 7


def test_the_help_is_what_the_commands_say() -> None:
    assert PATH.read_text(encoding="utf-8") == module_text(), "run: python -m tests.tools.command_help"


@pytest.mark.parametrize("columns", ["60", "80", "200"])
def test_the_help_is_the_same_without_the_short_cut(columns: str) -> None:
    assert run("--help", COLUMNS=columns).stdout == run("--json", "--help", COLUMNS=columns).stdout


def test_a_closed_pipe_ends_the_help_without_a_word() -> None:
    command = [sys.executable, "-m", "shared_registry", "--help"]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(command, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, check=False, timeout=60)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_command_imports_only_its_own_module() -> None:
    found = imported(run("api-key", "hash", "--help"))
    assert "shared_registry.cli.api_key" in found
    assert found & {f"shared_registry.cli.{module}" for module in MODULES.values()} == {"shared_registry.cli.api_key"}
    assert "redis" not in found


def test_a_status_for_programs_imports_nothing_unused(server: EmbeddedServer, namespace: str) -> None:
    done = run("status", "--json", "--redis", server.url, "-n", namespace)
    assert done.returncode == 0
    unused = {"yaml", "shared_registry.admin.check", "shared_registry.admin.operator"}
    unused |= set() if does_typer_import_rich() else {"rich"}
    assert imported(done) & unused == set()
    assert "redis" in imported(done)


@pytest.mark.parametrize("is_on", [True, False])
def test_imports_leave_the_garbage_collector_as_it_was(*, is_on: bool) -> None:
    before = gc.isenabled()
    (gc.enable if is_on else gc.disable)()
    try:
        with no_collections():
            assert not gc.isenabled()
        assert gc.isenabled() == is_on
    finally:
        (gc.enable if before else gc.disable)()


def test_every_command_is_where_its_name_leads() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    assert [one.name for one in group.commands.values()] == list(MODULES)


def test_an_unknown_command_is_refused_by_its_name() -> None:
    done = run("statsu")
    assert done.returncode == 2
    assert "No such command 'statsu'" in done.stderr
