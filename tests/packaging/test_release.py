"""The version stands in one place, and what is released under it has its changes written down."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from shared_registry._version import __version__
from tests.support.command import ROOT

CHANGES = ROOT / "CHANGELOG.md"
WITH_A_VERSION = (
    "CHANGELOG.md",
    "charts/",
    "docs",
    "examples",
    "tests",
    "constraints.txt",
    ".ci/lowest.txt",
    "_version.py",
)


def test_the_version_stands_in_one_place() -> None:
    listed = subprocess.run(["git", "grep", "-lF", __version__], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode > 1:
        pytest.skip("not a checkout")
    assert [name for name in listed.stdout.split() if not any(part in name for part in WITH_A_VERSION)] == []


def test_the_changes_of_the_version_are_written_down() -> None:
    sections = re.findall(r"^## \[?([\w.]+)", CHANGES.read_text(encoding="utf-8"), re.MULTILINE)
    assert sections[:2] == ["Unreleased", __version__]


def test_a_version_without_its_changes_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci" / "release").write_text((ROOT / ".ci" / "release").read_text())
    (tmp_path / "CHANGELOG.md").write_text("# Changes\n\n## [Unreleased]\n")
    (tmp_path / "shared_registry").symlink_to(ROOT / "shared_registry")
    done = subprocess.run(
        ["bash", str(tmp_path / ".ci" / "release"), sys.executable], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == f"CHANGELOG.md has no section for {__version__}\n"
    assert not (tmp_path / "dist").exists()


def test_the_supported_versions_are_those_of_the_package() -> None:
    page = (ROOT / "docs" / "upgrading.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([\w-]+) \| ([^|]+) \|", page, re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    classified = [line.rpartition(" ")[2] for line in project["classifiers"] if re.search(r":: 3\.\d+$", line)]
    assert rows["Python"].split(", ") == classified
    [redis_py] = [item for item in map(Requirement, project["dependencies"]) if item.name == "redis"]
    assert [version for version in ("6.4", "8.0.0") if version in rows["redis-py"]] == ["6.4", "8.0.0"]
    allowed = [version for version in ("6.3.0", "6.4.0", "8.0.0", "8.9.9", "9.0.0") if version in redis_py.specifier]
    assert allowed == ["6.4.0", "8.9.9"]
