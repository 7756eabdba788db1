"""One name, one meaning: within the package no two modules give one name to different things."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import shared_registry

PACKAGE = Path(shared_registry.__file__).parent
ENTRY_POINTS = {"main"}
Found = dict[str, list[str]]


def found(names_of: Callable[[ast.Module], list[str]]) -> Found:
    places: Found = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        for name in names_of(ast.parse(path.read_text(encoding="utf-8"))):
            places[name].append(str(path.relative_to(PACKAGE)))
    assert len(places) > 100, "nothing was read"
    return {name: files for name, files in places.items() if len(files) > 1}


def classes(module: ast.Module) -> list[str]:
    return [node.name for node in ast.walk(module) if isinstance(node, ast.ClassDef)]


def public_functions(module: ast.Module) -> list[str]:
    functions = [node for node in module.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [node.name for node in functions if not node.name.startswith("_") and node.name not in ENTRY_POINTS]


def test_no_two_classes_have_the_same_name() -> None:
    assert found(classes) == {}


def test_no_two_public_functions_have_the_same_name() -> None:
    assert found(public_functions) == {}
