"""The documentation names only tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
GUARANTEES = TESTS.parent / "docs" / "guarantees.md"
NAMED = sorted(set(re.findall(r"`([a-z_/]+\.py)::(test_\w+)`", GUARANTEES.read_text(encoding="utf-8"))))


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_every_test_that_a_guarantee_names_exists(file: str, test: str) -> None:
    assert re.search(rf"^(async )?def {test}\(", (TESTS / file).read_text(encoding="utf-8"), re.MULTILINE)


def test_guarantees_name_tests() -> None:
    assert len(NAMED) > 25
