"""Prints for people and for programs: text without control characters, times, and JSON."""

from __future__ import annotations

import json
import sys

from shared_registry.admin.durations import duration as duration  # noqa: PLC0414  re-exported


def print_line(text: str) -> None:
    """Print one line and flush it, so that a reader of the pipe receives it at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def printable(text: str) -> str:
    """Return a text with its non-printable characters escaped, so that it cannot control the terminal."""
    return text if text.isprintable() else "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def timestamp(at: float) -> str:
    """Return a time, in seconds since the epoch, as text in UTC with milliseconds."""
    import datetime as dt  # noqa: PLC0415  slow to import

    return dt.datetime.fromtimestamp(at, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def print_json(document: object, *, is_line: bool = False) -> None:
    """Print one JSON document on standard output.

    Args:
        document: Anything that `json.dumps` accepts.
        is_line: Print it on one line, for a command that prints several documents.
    """
    sys.stdout.write(json.dumps(document, indent=None if is_line else 2) + "\n")
    sys.stdout.flush()
