"""From its file to where it takes effect, a setting goes through few folders of the package."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import fields
from pathlib import Path

import pytest

import shared_registry
from shared_registry import RouterConfig

PACKAGE = Path(shared_registry.__file__).parent
MOST_ROOMS = 8
COMMON_WORDS = {"cluster", "health_check_path", "host", "namespace", "policy", "port", "probing", "replicas"}
"""Settings whose names are also the names of other things."""
SETTINGS = sorted({item.name for item in fields(RouterConfig)} - COMMON_WORDS)
WORD = re.compile(r"\w+")


@pytest.fixture(scope="module")
def files_with() -> dict[str, set[Path]]:
    found: dict[str, set[Path]] = defaultdict(set)
    for path in PACKAGE.rglob("*.py"):
        for word in set(WORD.findall(path.read_text(encoding="utf-8"))):
            found[word].add(path.relative_to(PACKAGE))
    return found


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_goes_through_few_rooms(files_with: dict[str, set[Path]], setting: str) -> None:
    files = files_with[setting]
    rooms = {path.parts[0] for path in files}
    assert "config" in rooms
    assert len(rooms) <= MOST_ROOMS, sorted(rooms)
