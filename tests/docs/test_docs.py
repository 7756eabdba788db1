"""The documentation names only tests that exist, and links only to what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
GUARANTEES = TESTS.parent / "docs" / "guarantees.md"
PAGES = [
    path for folder in ("", "docs/", "docs/*/", "examples/*/") for path in sorted(TESTS.parent.glob(f"{folder}*.md"))
]
LINKS = re.compile(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)")
FILES = re.compile(r"`((?:shared_registry|tests|lua|docs|examples|charts|benchmarks)/[\w/.-]*\.[a-z]+)")
NAMED = sorted(set(re.findall(r"`([a-z_/]+\.py)::(test_\w+)`", GUARANTEES.read_text(encoding="utf-8"))))


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_every_test_that_a_guarantee_names_exists(file: str, test: str) -> None:
    assert re.search(rf"^(async )?def {test}\(", (TESTS / file).read_text(encoding="utf-8"), re.MULTILINE)


def test_the_guarantees_name_many_tests() -> None:
    assert len(NAMED) > 25


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TESTS.parent)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for target, anchor in LINKS.findall(page.read_text(encoding="utf-8")):
        there = page.parent / target if target else page
        assert there.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors_of(there), f"{target} has no {anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TESTS.parent)))
def test_every_named_file_exists(page: Path) -> None:
    named = set(FILES.findall(page.read_text(encoding="utf-8")))
    assert [name for name in sorted(named) if not (TESTS.parent / name).exists()] == []


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as sites make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
