"""Revisions: the ids of the events in the stream, which order all changes."""

from __future__ import annotations

ORIGIN = "0-0"
"""The revision before the first event of a history."""


def is_later(revision: str, other: str) -> bool:
    """Return whether a revision comes after another. Stream ids compare by their two numbers, not as text."""
    return _order(revision) > _order(other)


def _order(revision: str) -> tuple[int, int]:
    milliseconds, _, sequence = revision.partition("-")
    return int(milliseconds), int(sequence or 0)
