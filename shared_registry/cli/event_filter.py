"""Which events `shared-registry events` shows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from shared_registry.model import Event, EventKind

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)([smhd])")


@dataclass(frozen=True, slots=True)
class EventFilter:
    """All of what is given must hold.

    Attributes:
        replicas: Names and urls of replicas; an event about any of them is shown.
        kinds: The kinds that are shown; empty for all.
    """

    replicas: frozenset[str] = frozenset()
    kinds: frozenset[EventKind] = frozenset()

    @property
    def is_everything(self) -> bool:
        """Whether it shows every event."""
        return not self.replicas and not self.kinds

    def shows(self, event: Event) -> bool:
        """Whether the event is shown."""
        if self.kinds and event.kind not in self.kinds:
            return False
        return not self.replicas or not self.replicas.isdisjoint(_replicas_of(event))

    def lines_of(self, event: Event) -> list[Event]:
        """Return what is shown of the event as a line each: one of several replicas is shown replica by replica."""
        return [one for one in event.apart() if self.shows(one)]


def _replicas_of(event: Event) -> set[str]:
    found = {event.unreadable, event.reported, *(question.key for question in event.questions)}
    for change in event.changes:
        found |= {change.key, change.name}
    if event.record is not None:
        found |= {event.record.key, event.record.endpoint.url, event.record.endpoint.name or ""}
    return found - {""}


def parse_kinds(texts: Sequence[str]) -> frozenset[EventKind]:
    """Return the kinds of these words. A word may be what comes before the `_` of several kinds, such as `leader`.

    Raises:
        ValueError: A word is no kind; the message lists all kinds.
    """
    found: set[EventKind] = set()
    for text in texts:
        kinds = {kind for kind in EventKind if kind.value == text or kind.value.startswith(f"{text}_")}
        if not kinds:
            known = ", ".join(kind.value for kind in EventKind if kind is not EventKind.OTHER)
            raise ValueError(f"{text!r} is no kind of event; the kinds are {known}")
        found |= kinds
    return frozenset(found)


def parse_age(text: str) -> float:
    """Return a duration such as 90s, 10m, 2h or 1d, in seconds.

    Raises:
        ValueError: The text is no such duration.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} must be a duration such as 90s, 10m, 2h or 1d")
    return float(match[1]) * _UNITS[match[2]]
