"""Makes error texts that are safe to show and to store."""

from __future__ import annotations

import json

MAX_ERROR_LENGTH = 200
"""The most characters of an error text."""

_SHOWN_LENGTH = 60


def one_line(text: str) -> str:
    """Return text without line breaks, control characters and runs of spaces, at most `MAX_ERROR_LENGTH` long."""
    printable = "".join(character if character.isprintable() else " " for character in text[: 4 * MAX_ERROR_LENGTH])
    return _cut(" ".join(printable.split()), MAX_ERROR_LENGTH)


def timeout_text(timeout: float) -> str:
    """Return the error text for a timeout, given in seconds."""
    return f"timeout after {round(float(timeout), 3)}s"


def shown(value: object) -> str:
    """Return a value of a JSON document as a short text."""
    if isinstance(value, dict | list | tuple):
        return "an object" if isinstance(value, dict) else "a list"
    return _cut(repr(value) if isinstance(value, str) else json.dumps(value), _SHOWN_LENGTH)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
