"""The version stands in one place, and what is released under it has its changes written down."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from shared_registry._version import __version__
from tests.support.command import ROOT

CHANGES = ROOT / "CHANGELOG.md"
WITH_A_VERSION = ("CHANGELOG.md", "docs", "examples", "tests", "constraints.txt", ".ci/lowest.txt", "_version.py")


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
