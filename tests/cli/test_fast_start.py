"""How little the command imports before it answers. Counted in modules: times depend on the machine."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import typer.main
from packaging.version import Version
from typer.core import TyperGroup

from shared_registry.aio.garbage import no_collections
from shared_registry.cli.app import app
from shared_registry.cli.lazy_group import MODULES
from shared_registry.cli.short_cuts import short_cut
from shared_registry.embedded import EmbeddedServer
from tests.tools.command_help import PATH, module_text

ROOT = Path(__file__).parents[2]
SLOW = {"asyncio", "click", "pydantic", "redis", "rich", "typer", "yaml"}


PINNED = (ROOT / "constraints.txt").read_text().split()
_TIMES = re.compile(r'"at": [0-9.]+')
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
        env={**unset_settings(), **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def unset_settings() -> dict[str, str]:
    """Return the environment without settings, which take longer to read; the tests' own server is named in one."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SHARED_REGISTRY_")}


def imported(done: subprocess.CompletedProcess[str]) -> set[str]:
    return set(done.stderr.rpartition("modules:")[2].split())


@pytest.mark.parametrize(
    "words", [["--version"], ["--help"], ["-h"], ["status", "--help"], ["config", "show", "-h"]], ids=str
)
def test_version_and_help_import_none_of_the_commands(words: list[str]) -> None:
    done = run(*words)
    assert done.returncode == 0
    assert imported(done) & SLOW == set()
    assert len({name for name in imported(done) if name.startswith("shared_registry")}) <= 7


@pytest.mark.skipif(f"typer=={version('typer')}" not in PINNED, reason="other versions of typer write other helps")
def test_the_help_is_what_the_commands_say() -> None:
    assert PATH.read_text(encoding="utf-8") == module_text(), "run: python -m tests.tools.command_help"


@pytest.mark.parametrize("columns", ["60", "80", "200"])
@pytest.mark.parametrize("words", [[], ["status"], ["config", "show"]], ids=str)
def test_the_help_is_the_same_without_the_short_cut(words: list[str], columns: str) -> None:
    if Version(version("click")) < Version("8.2"):
        pytest.skip("this click writes choices in another way")
    assert run(*words, "--help", COLUMNS=columns).stdout == run("--json", *words, "--help", COLUMNS=columns).stdout


def test_a_closed_pipe_ends_the_help_without_a_word() -> None:
    command = [sys.executable, "-m", "shared_registry", "--help"]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(command, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, check=False, timeout=60)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


def imports_of_redis() -> set[str]:
    """Return what redis-py itself imports; versions before 8 import more."""
    command = [sys.executable, "-c", "import sys, redis.asyncio; print(*sys.modules)"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split())


def test_a_command_imports_only_its_own_module() -> None:
    found = imported(run("--json", "api-key", "hash", "--help"))
    assert "shared_registry.cli.api_key" in found
    assert found & {f"shared_registry.cli.{module}" for module in MODULES.values()} == {"shared_registry.cli.api_key"}
    assert "redis" not in found


@pytest.mark.parametrize(
    "words", [["status"], ["status", "--json", "--wide"], ["routers"], ["leases"], ["queue", "--json"]], ids=str
)
def test_a_command_that_reads_imports_nothing_unused(server: EmbeddedServer, namespace: str, words: list[str]) -> None:
    done = run(*words, "--redis", server.url, "-n", namespace)
    assert done.returncode == 0
    unused = {"yaml", "typer", "click", "rich", "pydantic", "email", "shared_registry.admin.check"}
    assert imported(done) & (unused - imports_of_redis()) == set()
    assert not [name for name in imported(done) if name.startswith("opentelemetry.")]
    assert "redis" in imported(done)


@pytest.mark.parametrize(
    "words",
    [
        ["status"],
        ["--json", "status"],
        ["status", "--wide", "--unhealthy"],
        ["routers"],
        ["leases", "--json"],
        ["queue"],
        ["--namespace=elsewhere", "status", "-n", "{namespace}"],
    ],
    ids=str,
)
def test_short_cuts_print_what_typer_prints(server: EmbeddedServer, namespace: str, words: list[str]) -> None:
    words = [word.format(namespace=namespace) for word in words]
    variables = {"SHARED_REGISTRY_REDIS_URL": server.url, "SHARED_REGISTRY_NAMESPACE": namespace}
    assert short_cut(words) is not None
    short, usual = run(*words, **variables), run(*words, f"-n{namespace}", **variables)
    assert short_cut([*words, f"-n{namespace}"]) is None
    assert (short.returncode, usual.returncode) == (0, 0)
    assert _TIMES.sub("", short.stdout) == _TIMES.sub("", usual.stdout)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--json"],
        ["statsu"],
        ["status", "status"],
        ["status", "--watch"],
        ["routers", "--wide"],
        ["status", "--redis"],
        ["status", "--redis", "--json"],
        ["status", "--json=yes"],
        ["status", "--", "x"],
        ["--wide", "status"],
        ["queue", "--count", "3"],
    ],
    ids=str,
)
def test_other_words_are_left_to_typer(words: list[str]) -> None:
    assert short_cut(words) is None


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        ({"SHARED_REGISTRY_REDIS_URL": "nonsense"}, "redis_url: has no scheme"),
        ({"SHARED_REGISTRY_NAMESPACE": "a b"}, "namespace: 'a b' is not usable"),
        ({"SHARED_REGISTRY_LEASE_SECONDS": "-1"}, "lease_seconds"),
        ({"SHARED_REGISTRY_REDSI_URL": "redis://127.0.0.1"}, "did you mean SHARED_REGISTRY_REDIS_URL?"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_short_cut_refuses_the_settings_that_typer_refuses(variables: dict[str, str], text: str) -> None:
    done = run("status", **({"SHARED_REGISTRY_REDIS_URL": "redis://127.0.0.1:1"} | variables))
    assert done.returncode in {2, 3}
    assert text in done.stderr


def test_a_short_cut_says_that_redis_is_away() -> None:
    done = run("status", "--redis", "redis://127.0.0.1:1", SHARED_REGISTRY_REDIS_URL="")
    assert done.returncode == 3
    assert done.stderr.startswith("error: Redis is unavailable")
    assert "is redis_url redis://127.0.0.1:1 the right one?" in done.stderr


def test_lean_imports_leave_other_modules_to_others() -> None:
    code = (
        "import importlib\n"
        "from shared_registry.cli.lean_imports import lean_imports\n"
        "with lean_imports(): import redis\n"
        "import importlib.metadata, opentelemetry.trace\n"
        "assert importlib.metadata.version('redis') == redis.__version__\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_shell_completes_commands_without_importing_them() -> None:
    protocol = {"_SHARED_REGISTRY_COMPLETE": "complete_bash", "COMP_WORDS": "shared-registry st", "COMP_CWORD": "1"}
    done = run(**protocol)
    assert done.stdout.split() == ["status", "step-down"]
    assert "redis" not in imported(done)


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
