"""Names: no two modules of the package give one name to different things, and a test's name is a short sentence."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import shared_registry

PACKAGE = Path(shared_registry.__file__).parent
TESTS = Path(__file__).parents[1]
LONGEST_NAME = 10  # words
ENTRY_POINTS = {"main"}
ALIAS = re.compile(r"[A-Z][A-Za-z]*[a-z][A-Za-z]*")
Found = dict[str, list[str]]


def found(names_of: Callable[[ast.Module], list[str]]) -> Found:
    places: Found = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        for name in names_of(ast.parse(path.read_text(encoding="utf-8"))):
            places[name].append(str(path.relative_to(PACKAGE)))
    assert len(places) > 100, "nothing was read"
    return {name: files for name, files in places.items() if len(files) > 1}


def types(module: ast.Module) -> list[str]:
    """Return the classes, also inner ones, and the aliases of types."""
    assigned = [node.targets[0] for node in module.body if isinstance(node, ast.Assign)]
    assigned += [node.target for node in module.body if isinstance(node, ast.AnnAssign)]
    aliases = [target.id for target in assigned if isinstance(target, ast.Name) and ALIAS.fullmatch(target.id)]
    return [node.name for node in ast.walk(module) if isinstance(node, ast.ClassDef)] + aliases


def public_functions(module: ast.Module) -> list[str]:
    functions = [node for node in module.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [node.name for node in functions if not node.name.startswith("_") and node.name not in ENTRY_POINTS]


def names_of_tests(path: Path) -> list[str]:
    return re.findall(r"^ *(?:async )?def (test_\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE)


def test_no_two_types_have_the_same_name() -> None:
    assert found(types) == {}


def test_no_two_public_functions_have_the_same_name() -> None:
    assert found(public_functions) == {}


def test_every_test_has_a_name_of_ten_words_at_most() -> None:
    names = [name for path in sorted(TESTS.rglob("*.py")) for name in names_of_tests(path)]
    assert len(names) > 1000, "nothing was read"
    assert [name for name in names if len(name.removeprefix("test_").split("_")) > LONGEST_NAME] == []
