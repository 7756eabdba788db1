"""What every happening has, and what a listener is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """Something that happened, as this router has learned of it. It never changes.

    Attributes:
        at: When it happened, in seconds since the Unix epoch. For a change of the shared state that is the time of the
            Redis server, or the time at which this router found it out by reading everything; otherwise it is the time
            of this machine.
    """

    at: float


class Listener(Protocol):
    """A plain function or method that receives happenings in the registry's event loop. It must not block."""

    def __call__(self, happening: Happening, /) -> object:
        """Receive one happening. What it returns is ignored."""
