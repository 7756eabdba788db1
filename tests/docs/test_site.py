"""The site has every page, finds every link, and loads nothing from another host."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.command import ROOT

CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
LOADED = re.compile(r"<(?:script|img|link|iframe|source)\b[^>]*\b(?:src|href)=\"(https?:[^\"]*|//[^\"]*)\"")
BUILT_FROM = ("docs", "examples", "packaging", "lua", "shared_registry")
BUILD_SECONDS = 200
"""A quarter of a minute on a quiet machine."""
pytestmark = pytest.mark.timeout(BUILD_SECONDS + 40)


def pages_in(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    for inner in entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ():
        yield from pages_in(inner)


def test_every_page_is_in_the_navigation() -> None:
    listed = set(pages_in(CONFIG["nav"]))
    docs = ROOT / "docs"
    found = {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}
    assert {name for name in found if not re.match(r"decisions/\d", name)} <= listed


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs")
    there = tmp_path_factory.mktemp("site")
    build(ROOT, there)
    return there


def build(root: Path, there: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(there)]
    settings = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=root, env=settings, capture_output=True, text=True, check=False, timeout=BUILD_SECONDS
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_no_page_loads_anything_from_another_host(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 60
    foreign = {found for page in pages for found in LOADED.findall(page.read_text(encoding="utf-8"))}
    assert foreign == set()


@pytest.mark.slow
def test_the_reference_has_every_public_name(site: Path) -> None:
    import shared_registry

    reference = "".join(page.read_text(encoding="utf-8") for page in (site / "reference").glob("*.html"))
    elsewhere = {"RouterConfig", "__version__"}
    names = set(shared_registry.__all__) - elsewhere
    assert [
        name for name in sorted(names) if not re.search(rf'id="shared_registry\.(?:\w+\.)*{name}"', reference)
    ] == []


@pytest.mark.slow
def test_examples_and_lists_are_read_as_in_the_repository(site: Path) -> None:
    assert "<li>" in (site / "guarantees.html").read_text(encoding="utf-8").partition('id="in-short"')[2][:2000]
    assert (site / "examples" / "fastvideo" / "router.yaml").exists()
    assert (site / "examples" / "fastvideo" / "index.html").exists()
