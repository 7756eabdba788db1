"""Compares responses to probes with what the settings expect. Pure."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from shared_registry.config import RouterConfig
from shared_registry.config.probe_rules import ANY_SUCCESS
from shared_registry.probing.connection import BODY_LIMIT, Response
from shared_registry.probing.text import shown

_ABSENT = object()


class Expectations:
    """What a response must be: its status, and its body as JSON, as text, or by a regular expression."""

    def __init__(self, config: RouterConfig) -> None:
        self._statuses = config.health_check_statuses
        self._json = config.health_check_expect
        self._text = config.health_check_expect_text
        self._pattern = re.compile(config.health_check_expect_pattern) if config.health_check_expect_pattern else None
        self._statuses_met = frozenset(
            status
            for first, last in map(_range, config.health_check_statuses.split(","))
            for status in range(first, last + 1)
        )
        self._has_body = bool(self._json) or self._text is not None or self._pattern is not None

    def mismatch(self, response: Response) -> str | None:
        """Return the difference between a response and the expectations, as text; `None` if there is none."""
        if response.status not in self._statuses_met:
            expected = "" if self._statuses == ANY_SUCCESS else f", expected {self._statuses}"
            return f"HTTP {response.status}{expected}"
        if not self._has_body:
            return None
        return self._text_mismatch(response) or (self._json_mismatch(response) if self._json else None)

    def _json_mismatch(self, response: Response) -> str | None:
        if response.is_truncated:
            return f"body: longer than {BODY_LIMIT} bytes, expected a short JSON object"
        return body_mismatch(response.body, self._json)

    def _text_mismatch(self, response: Response) -> str | None:
        body = response.body.decode(errors="replace")
        where = f" in the first {BODY_LIMIT} bytes" if response.is_truncated else ""
        if self._text is not None and self._text not in body:
            return f"body: {shown(body)}, expected the text {shown(self._text)}{where}"
        if self._pattern is not None and not self._pattern.search(body):
            return f"body: {shown(body)}, expected a match of {shown(self._pattern.pattern)}{where}"
        return None


def body_mismatch(body: bytes, expect: Mapping[str, Any]) -> str | None:
    """Return the difference between a JSON body and the expected values, as text; `None` if there is none.

    Numbers are compared by value. A boolean is not a number: `true` differs from 1.

    Args:
        body: The whole body.
        expect: For each name of a field an expected value, or a mapping of conditions. A name with dots is a nested
            field, unless the object has a field with this very name. Other fields are ignored.
    """
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return f"body: not JSON but {shown(body.decode(errors='replace'))}" if body else "body: empty, expected JSON"
    if not isinstance(found, dict):
        return f"body: {shown(found)}, expected a JSON object"
    for name, wanted in expect.items():
        value = _field(found, name)
        conditions = wanted if isinstance(wanted, Mapping) else {"eq": wanted}
        for condition, operand in conditions.items():
            if not _holds(condition, value, operand):
                said = f"no {name}" if value is _ABSENT else f"{name} is {shown(value)}"
                return f"body: {said}, expected {_WORDS[condition]}{_told(operand)}"
    return None


def _field(found: Mapping[str, object], name: str) -> object:
    """Return the value of a field. A part of the name that is a number is an index where the value is a list."""
    if name in found:
        return found[name]
    value: object = found
    for part in name.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and len(part) < 9 and int(part) < len(value):
            value = value[int(part)]
        else:
            return _ABSENT
    return value


def _holds(condition: str, value: object, operand: Any) -> bool:
    if condition == "exists":
        return (value is not _ABSENT) is operand
    return value is not _ABSENT and _CONDITIONS[condition](value, operand)


def _is_equal(value: object, operand: object) -> bool:
    return isinstance(value, bool) is isinstance(operand, bool) and value == operand


def _numbers(compare: Callable[[Any, Any], bool]) -> Callable[[object, Any], bool]:
    """Return a comparison that is false for anything but numbers. Comparisons with NaN are false by themselves."""

    def holds(value: object, operand: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and compare(value, operand)

    return holds


_CONDITIONS: Mapping[str, Callable[[object, Any], bool]] = {
    "eq": _is_equal,
    "ne": lambda value, operand: value == value and not _is_equal(value, operand),  # noqa: PLR0124 - NaN fulfils nothing
    "lt": _numbers(operator.lt),
    "le": _numbers(operator.le),
    "gt": _numbers(operator.gt),
    "ge": _numbers(operator.ge),
    "in": lambda value, operand: any(_is_equal(value, one) for one in operand),
    "matches": lambda value, operand: isinstance(value, str) and re.search(operand, value) is not None,
}
_WORDS = {
    "eq": "",
    "ne": "anything but ",
    "lt": "less than ",
    "le": "at most ",
    "gt": "more than ",
    "ge": "at least ",
    "in": "one of ",
    "matches": "a match of ",
    "exists": "that it exists: ",
}


def _told(operand: object) -> str:
    return ", ".join(map(shown, operand)) if isinstance(operand, list | tuple) else shown(operand)


def _range(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    return int(first), int(last or first)
