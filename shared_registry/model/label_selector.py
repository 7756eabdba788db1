"""Selects replicas by their labels, in the syntax of `kubectl -l`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

_TERM = re.compile(r"\s*(?P<not>!)?\s*(?P<name>[^\s=!,]+)\s*(?:(?P<sign>==|=|!=)\s*(?P<value>[^=!,]*?)\s*)?")


@dataclass(frozen=True, slots=True)
class _Term:
    name: str
    sign: Literal["=", "!=", "has", "lacks"]
    value: str = ""

    def matches(self, labels: Mapping[str, str]) -> bool:
        if self.sign in ("has", "lacks"):
            return (self.name in labels) == (self.sign == "has")
        return (labels.get(self.name) == self.value) == (self.sign == "=")


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """Terms that must all hold. Without terms it selects every replica."""

    terms: tuple[_Term, ...] = ()

    @classmethod
    def parse(cls, text: str) -> LabelSelector:
        """Return the selector of a text such as `zone=a,gpu!=h100`; `name` alone must exist, and `!name` must not.

        As with kubectl, `!=` also selects replicas without the label.

        Raises:
            ValueError: A term is malformed; the message shows it.
        """
        return cls(tuple(_term(part) for part in text.split(",")))

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether a replica with these labels is selected."""
        return all(term.matches(labels) for term in self.terms)


EVERY_REPLICA = LabelSelector()


def _term(text: str) -> _Term:
    match = _TERM.fullmatch(text)
    if match is None or (match["not"] and match["sign"]):
        raise ValueError(f"{text!r} must be NAME=VALUE, NAME!=VALUE, NAME or !NAME, with commas between several")
    if match["sign"]:
        return _Term(match["name"], "!=" if match["sign"] == "!=" else "=", match["value"])
    return _Term(match["name"], "lacks" if match["not"] else "has")
