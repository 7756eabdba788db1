"""What a model can know of the values in Redis: a text, or a number in a range that is exact once it was seen."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(eq=False)
class Number:
    """A whole number that the model knows to lie in a range, such as the server's clock during one command.

    The first value that it is compared with settles it: whatever else is made of it must agree from then on.
    """

    low: int
    high: int

    def settle(self, value: int) -> bool:
        """Return whether it may be that value, and make it so."""
        if not self.low <= value <= self.high:
            return False
        self.low = self.high = value
        return True


@dataclass(frozen=True)
class Sum:
    """A number plus something known."""

    number: Number
    plus: int = 0

    @property
    def low(self) -> int:
        return self.number.low + self.plus

    @property
    def high(self) -> int:
        return self.number.high + self.plus

    def agrees(self, found: object) -> bool:
        """Return whether what was found, a text or a score, may be this number."""
        try:
            value = float(str(found))
        except ValueError:
            return False
        return value.is_integer() and self.number.settle(int(value) - self.plus)

    def __repr__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low}…{self.high}"


class Anything:
    """A text that the model cannot know beforehand, such as a random id; settled by the first one that is found."""

    def __init__(self) -> None:
        self.text: str | None = None

    def agrees(self, found: object) -> bool:
        if self.text is None and isinstance(found, str) and found:
            self.text = found
        return found == self.text

    def __repr__(self) -> str:
        return self.text or "anything"


class AnyTime:
    """A time that nothing but a script reads."""

    def agrees(self, found: object) -> bool:
        return isinstance(found, float) and found.is_integer()

    def __repr__(self) -> str:
        return "a time"


Value: TypeAlias = str | float | Sum | Anything | AnyTime
Fields: TypeAlias = dict[str, Value]
Dump: TypeAlias = dict[str, object]
"""Every key that was found, without the prefix, with its value."""


def session_of(lease_id: str) -> str:
    """Return what stands for the session in a lease's id; empty where none was named."""
    return lease_id.partition(":")[2]


def exact(value: Value) -> int:
    """Return the number that a value is settled to."""
    if isinstance(value, Sum):
        assert value.low == value.high, f"{value} was never seen"
        return value.low
    assert not isinstance(value, (Anything, AnyTime))
    return int(value)


def agree(expected: Value, found: object) -> bool:
    if expected == found:
        return True
    if isinstance(expected, (Sum, Anything, AnyTime)):
        return expected.agrees(found)
    if isinstance(expected, float):
        return isinstance(found, (str, float)) and math.isclose(expected, float(found), rel_tol=1e-12)
    return False


def differences(expected: object, found: object, where: str = "") -> Iterator[str]:  # noqa: C901  one branch a type
    """Yield every place at which what was found is not what the model expects."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in expected.keys() | found.keys():
            path = f"{where} {key}".strip()
            if key not in found:
                yield f"{path}: missing, expected {expected[key]!r}"
            elif key not in expected:
                yield f"{path}: unexpected {found[key]!r}"
            else:
                yield from differences(expected[key], found[key], path)
    elif isinstance(expected, list) and isinstance(found, list):
        if len(expected) != len(found):
            yield f"{where}: expected {len(expected)} entries, found {len(found)}: {found!r}"
        for position, (one, other) in enumerate(zip(expected, found, strict=False)):
            yield from differences(one, other, f"{where}[{position}]")
    elif isinstance(expected, set):
        if expected != found:
            yield f"{where}: expected {expected}, found {found}"
    elif not agree(expected, found):  # type: ignore[arg-type]  # anything else is a value
        yield f"{where}: expected {expected!r}, found {found!r}"
