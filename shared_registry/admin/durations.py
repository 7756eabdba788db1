"""Durations as text for people."""

from __future__ import annotations

UNITS = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"))


def duration(seconds: float) -> str:
    """Return a duration as text, in its largest unit; a negative one as 0."""
    for length, unit in UNITS:
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0.0):.1f} s"


def since(seconds: float) -> str:
    """Return how long something has lasted, as text without fractions of a second."""
    return duration(seconds) if seconds >= UNITS[-1][0] else f"{max(seconds, 0.0):.0f} s"
