"""Sets of time, as spans of seconds. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Span(NamedTuple):
    """From `begin` to `end`; an end that has not come yet is infinity."""

    begin: float
    end: float

    @property
    def length(self) -> float:
        return self.end - self.begin


class Spans:
    """Spans that may overlap. One may be open: it ends when it is closed."""

    def __init__(self, spans: Iterable[Span] = ()) -> None:
        self._spans = list(spans)

    def __iter__(self) -> Iterator[Span]:
        return iter(self._spans)

    def __or__(self, other: Spans) -> Spans:
        return Spans([*self, *other])

    def open(self, at: float) -> None:
        self._spans.append(Span(at, math.inf))

    def close(self, at: float) -> None:
        """End what is open."""
        self._spans = [Span(one.begin, min(one.end, max(at, one.begin))) for one in self._spans]

    @property
    def is_open(self) -> bool:
        return any(one.end == math.inf for one in self._spans)

    def add(self, begin: float, end: float) -> None:
        self._spans.append(Span(begin, end))

    def within(self, limit: Span) -> Spans:
        """Return the parts of the spans that lie in this one."""
        parts = (Span(max(one.begin, limit.begin), min(one.end, limit.end)) for one in self)
        return Spans(part for part in parts if part.length > 0)

    def longer(self, seconds: float) -> Spans:
        """Return each span, ending so much later."""
        return Spans(Span(one.begin, one.end + seconds) for one in self)

    def overlaps(self, begin: float, end: float) -> bool:
        return any(one.begin <= end and one.end >= begin for one in self)

    def covers(self, begin: float, end: float) -> bool:
        return not any(self.gaps(begin, end))

    def count(self, begin: float, end: float) -> int:
        """Return how many of the spans begin or end within this time."""
        return sum(begin <= at <= end for one in self for at in one)

    def seconds(self, begin: float, end: float) -> float:
        """Return how much of this time they fill."""
        return (end - begin) - sum(gap.length for gap in self.gaps(begin, end))

    def gaps(self, begin: float, end: float) -> list[Span]:
        """Return the parts of this time that none of them covers."""
        found, at = [], begin
        for one in sorted(self._spans):
            if one.begin >= end:
                break
            if one.begin > at:
                found.append(Span(at, one.begin))
            at = max(at, one.end)
        if at < end:
            found.append(Span(at, end))
        return found

    def back_from(self, end: float, seconds: float) -> float:
        """Return the time so many seconds before the end, of which none that these spans fill counts."""
        begin = end - seconds
        for _ in range(8):
            begin = end - seconds - self.seconds(begin, end)
        return begin


def union(spans: Iterable[Spans]) -> Spans:
    """Return all spans of several sets together."""
    return Spans(one for some in spans for one in some)
