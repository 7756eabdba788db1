"""Checks the bodies of responses to probes, and makes error texts that are safe to show and to store."""

from __future__ import annotations

import json
from collections.abc import Mapping

MAX_ERROR_LENGTH = 200
"""The most characters of an error text."""

ExpectedValue = str | int | float | bool

_SHOWN_LENGTH = 60


def body_mismatch(body: bytes, expect: Mapping[str, ExpectedValue]) -> str | None:
    """Return the difference between a JSON body and the expected values, as text; `None` if there is none.

    Numbers are compared by value. A boolean is not a number: `true` differs from 1.

    Args:
        body: The whole body.
        expect: The expected values by their names at the top level of the JSON object. Other values are ignored.
    """
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return f"body: not JSON but {_shown(body.decode(errors='replace'))}" if body else "body: empty, expected JSON"
    if not isinstance(found, dict):
        return f"body: {_shown(found)}, expected a JSON object"
    for name, wanted in expect.items():
        if name not in found:
            return f"body: no {name}, expected {_shown(wanted)}"
        value = found[name]
        if isinstance(value, bool) is not isinstance(wanted, bool) or value != wanted:
            return f"body: {name} is {_shown(value)}, expected {_shown(wanted)}"
    return None


def one_line(text: str) -> str:
    """Return text without line breaks, control characters and runs of spaces, at most `MAX_ERROR_LENGTH` long."""
    printable = "".join(character if character.isprintable() else " " for character in text[: 4 * MAX_ERROR_LENGTH])
    return _cut(" ".join(printable.split()), MAX_ERROR_LENGTH)


def timeout_text(timeout: float) -> str:
    """Return the error text for a timeout, given in seconds."""
    return f"timeout after {round(float(timeout), 3)}s"


def _shown(value: object) -> str:
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    return _cut(repr(value) if isinstance(value, str) else json.dumps(value), _SHOWN_LENGTH)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
