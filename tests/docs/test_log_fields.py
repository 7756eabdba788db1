"""What a log line is about is in fields, too, so that programs need not parse messages."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from shared_registry.cli.log_output import LOG_FIELDS
from tests.docs.test_log_messages import METHODS, ROOT

FIELD_OF = {
    "epoch": "epoch",
    "router": "router",
    "router_key": "router",
    "replica": "replica",
    "url": "replica",
    "request_id": "request_id",
    "leader": "router",
}
"""The field that a line must have whose message is made with a variable or an attribute of that name."""
PACKAGE = ROOT / "shared_registry"
ADDRESSES = {"api/server.py", "cli/serving.py"}
"""There, `url` is this router's own address, and the field is not `replica`."""


def calls() -> Iterator[tuple[str, ast.Call, ast.AST]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name.startswith("demo/") or name in ADDRESSES:
            continue
        for function in ast.walk(ast.parse(path.read_text())):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in {
                    f"logger.{one}" for one in (*METHODS, "info")
                }:
                    yield f"{name}:{node.lineno}", node, function


def names_in(call: ast.Call) -> set[str]:
    """Return the last names of the arguments: `epoch` of `term.epoch`."""
    found = set()
    for argument in call.args:
        if isinstance(argument, ast.Attribute):
            found.add(argument.attr)
        elif isinstance(argument, ast.Name):
            found.add(argument.id)
    return found


def fields_of(call: ast.Call, function: ast.AST) -> set[str]:
    """Return the names of the fields in `extra`, also where a variable holds it."""
    found: set[str] = set()
    for keyword in call.keywords:
        if keyword.arg != "extra":
            continue
        sources = [keyword.value]
        if isinstance(keyword.value, ast.Name):
            sources += [
                node.value
                for node in ast.walk(function)
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == keyword.value.id
            ]
        for source in sources:
            for part in ast.walk(source):
                if isinstance(part, ast.Dict):
                    found |= {str(key.value) for key in part.keys if isinstance(key, ast.Constant)}
    return found


CALLS = {place: (call, function) for place, call, function in calls()}


def test_there_are_log_calls() -> None:
    assert len(CALLS) > 60


@pytest.mark.parametrize("place", sorted(CALLS))
def test_what_a_line_is_about_is_in_its_fields(place: str) -> None:
    call, function = CALLS[place]
    needed = {FIELD_OF[name] for name in names_in(call) if name in FIELD_OF}
    given = fields_of(call, function)
    assert needed <= given
    assert given <= set(LOG_FIELDS)
