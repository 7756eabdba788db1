"""The page about the log lists every message of level WARNING and above, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "log-messages.md"
METHODS = ("warning", "error", "exception", "critical", "log")
FORMAT = re.compile(r"%(?:\.\d+)?[a-z]")


def shown(pattern: str) -> str:
    """Return a message as the page shows it."""
    return FORMAT.sub("…", pattern)


def texts_of(argument: ast.expr, function: ast.AST) -> Iterator[str]:
    """Return the texts that the first argument of a log call may be."""
    if isinstance(argument, ast.Constant):
        yield str(argument.value)
        return
    assert isinstance(argument, ast.Name), ast.unparse(argument)
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == argument.id:
            for part in ast.walk(node.value):
                if isinstance(part, ast.Constant) and isinstance(part.value, str) and len(part.value) > 1:
                    yield part.value


def logged() -> set[str]:
    found = set()
    for path in (ROOT / "shared_registry").rglob("*.py"):
        if "demo" in path.parts:
            continue
        for function in ast.walk(ast.parse(path.read_text())):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in {f"logger.{name}" for name in METHODS}:
                    found |= {*texts_of(node.args[ast.unparse(node.func) == "logger.log"], function)}
    return {shown(text) for text in found}


def listed() -> list[str]:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    return [match[1] for row in rows if (match := re.match(r"\| `([^`]+)` \|", row))]


def test_every_warning_is_explained() -> None:
    assert sorted(listed()) == sorted(logged())


def test_each_row_says_what_to_do() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert rows
    for row in rows:
        assert len([cell for cell in row.strip("|").split(" | ") if cell.strip()]) == 3, row
