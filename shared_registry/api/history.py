"""What a router remembers of the last hour for its dashboard, in bounded memory. Pure.

Its times are those of a monotonic clock, so that neither a clock that is set nor another server's clock tears the hour.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

SAMPLE_SECONDS = 10.0
KEPT = 360
"""Samples of one hour."""
FLAP_SECONDS = 1800.0
MOST_CHANGES = 20


class Sample(NamedTuple):
    """The slots of a pool at one moment, and what this router could not serve since the sample before.

    Attributes:
        at: The time.
        taken: The taken slots of replicas that take sessions.
        slots: All slots of these.
        waiting: The sessions that waited, over all routers; `None` if not known.
        refused: The requests that this router has refused for want of a replica or a slot, of all its pools.
    """

    at: float
    taken: int
    slots: int
    waiting: int | None
    refused: int


def aged(samples: Iterable[Sample], now: float) -> list[Sample]:
    """Return samples with their age in place of their time, for readers with another clock."""
    return [sample._replace(at=round(now - sample.at, 3)) for sample in samples]


class History:
    """The samples of one pool, and how often the status of each of its replicas has changed lately."""

    def __init__(self) -> None:
        self.samples: deque[Sample] = deque(maxlen=KEPT)
        self._changes: dict[str, deque[float]] = {}

    def note_change(self, key: str, now: float) -> None:
        """Note that the status of a replica has changed."""
        self._changes.setdefault(key, deque(maxlen=MOST_CHANGES)).append(now)

    def flaps(self, key: str, now: float) -> int:
        """Return how often the status of a replica has changed in the last half hour, as far as it was seen."""
        changes = self._changes.get(key)
        if changes is None:
            return 0
        while changes and now - changes[0] > FLAP_SECONDS:
            changes.popleft()
        if not changes:
            del self._changes[key]
        return len(changes)

    def forget(self, key: str) -> None:
        """Forget a replica that is not registered any more."""
        self._changes.pop(key, None)
