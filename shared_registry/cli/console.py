"""How the command prints for people: tables that no width cuts, and nobody's control characters."""

from __future__ import annotations

import datetime as dt
import errno
import sys

from rich.console import Console

TABLE_WIDTH = 250
"""Most columns of a table, also where the terminal has fewer: better a line that wraps than a url cut into pieces."""
UNITS = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"))


def new_console(width: int | None = TABLE_WIDTH) -> Console:
    """Return a console on standard output; without a width it takes the terminal's."""
    return _Console(width=width, markup=False, emoji=False, highlight=False)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Fail as any write to a closed pipe does, which typer takes for the end; rich would exit on the spot."""
        raise BrokenPipeError(errno.EPIPE, "nobody reads on")


def print_line(text: str) -> None:
    """Print one line at once, for whoever follows."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def printable(text: str) -> str:
    """Return what others have written, with what a terminal would obey spelled out."""
    return text if text.isprintable() else "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def duration(seconds: float) -> str:
    """Return a duration in its largest unit."""
    for length, unit in UNITS:
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0.0):.1f} s"


def timestamp(at: float) -> str:
    """Return a time in UTC, to the millisecond."""
    return dt.datetime.fromtimestamp(at, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
