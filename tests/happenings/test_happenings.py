"""The classes of happenings: immutable, exported, and each named in docs/events.md with its fields."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from shared_registry import happenings
from shared_registry.happenings import Happening

PAGE = (Path(__file__).parents[2] / "docs/events.md").read_text(encoding="utf-8")
BASES = {"Happening", "ReplicaHappening", "LeaseHappening", "RouterHappening"}


def names_below(base: type[Happening]) -> set[str]:
    return {base.__name__}.union(*(names_below(kind) for kind in base.__subclasses__()))


KINDS = [
    kind
    for name, kind in sorted(vars(happenings).items())
    if name in happenings.__all__ and isinstance(kind, type) and issubclass(kind, Happening)
]


@pytest.mark.parametrize("kind", KINDS)
def test_happenings_never_change_and_have_no_dictionary(kind: type[Happening]) -> None:
    assert "__slots__" in vars(kind)
    assert not hasattr(object.__new__(kind), "__dict__")
    made = kind(**{field.name: 1.0 for field in fields(kind)})
    with pytest.raises(FrozenInstanceError):
        made.at = 2.0  # type: ignore[misc]


def test_every_kind_is_exported_and_in_the_documentation() -> None:
    names = {kind.__name__ for kind in KINDS}
    assert names == names_below(Happening)
    rows = [line for line in PAGE.splitlines() if line.startswith("| `")]
    documented = {name for row in rows for name in re.findall(r"`([A-Z]\w+)`", row.split("|")[1])}
    assert documented == names - BASES


def test_every_field_is_in_the_documentation() -> None:
    named = set(re.findall(r"`(\w+)`", PAGE))
    assert {field.name for kind in KINDS for field in fields(kind)} <= named
