"""What pyproject.toml says of dependencies is true: each is used, and its lower bound is the version that CI tests."""

from __future__ import annotations

import ast
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PACKAGE = "shared_registry"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DEPENDENCIES = {canonicalize_name(item.name): item for item in map(Requirement, PROJECT["dependencies"])}
LOADED_BY_UVICORN = {"httptools"}


def lowest_versions() -> dict[str, Version]:
    lines = (ROOT / ".ci" / "lowest.txt").read_text().splitlines()
    pins = (line.split("==") for line in lines if not line.startswith("#"))
    return {canonicalize_name(name): Version(version) for name, version in pins}


def imported_distributions() -> set[str]:
    """Return the distributions that the package's own files import, but for the standard library."""
    names = set()
    for path in (ROOT / PACKAGE).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    owners = packages_distributions()
    foreign = names - set(sys.stdlib_module_names) - {PACKAGE}
    return {canonicalize_name(owner) for name in foreign for owner in owners.get(name, [name])}


@pytest.mark.parametrize("name", DEPENDENCIES)
def test_a_lower_bound_is_the_version_that_is_tested(name: str) -> None:
    name = canonicalize_name(name)
    [bound] = [part.version for part in DEPENDENCIES[name].specifier if part.operator == ">="]
    assert lowest_versions()[name] == Version(bound)


def test_every_dependency_is_used() -> None:
    declared = {name for name, item in DEPENDENCIES.items() if item.marker is None or item.marker.evaluate()}
    assert declared - imported_distributions() - LOADED_BY_UVICORN == set()


def test_every_import_is_a_declared_dependency() -> None:
    extras = [Requirement(item) for items in PROJECT["optional-dependencies"].values() for item in items]
    optional = {canonicalize_name(item.name) for item in extras}
    core = {"pydantic-core"}  # part of pydantic
    assert imported_distributions() - set(DEPENDENCIES) - optional - core == set()


def test_uvicorn_is_told_to_parse_with_httptools() -> None:
    sources = (path.read_text() for path in (ROOT / PACKAGE).rglob("*.py"))
    assert any("httptools_impl import" in text for text in sources)
