"""Which of the replicas that a source does not have any more may be removed. Pure, no I/O.

An answer may be wrong: a DNS server knows half of the names, a file is half written. So a replica has vanished only
after two answers in a row without it, and at most a quarter of a source's replicas, or one, go within
`confirm_seconds`. If more are missing, none goes before it has been missing for that time, and in five answers.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterable

ANSWERS = 2
"""How many answers in a row must lack a replica."""
CONFIRMING_ANSWERS = 5
"""How many must, where many replicas are missing at once."""
MOST_SHARE = 0.25
"""The share of a source's replicas that may go at once without confirmation."""


class Vanishing:
    """Counts the answers of one source that lack a replica."""

    def __init__(self, confirm_seconds: float) -> None:
        self._confirm_seconds = confirm_seconds
        self._missing: dict[str, tuple[int, float]] = {}
        self._gone_at: deque[float] = deque()
        self._held: frozenset[str] = frozenset()

    @property
    def held(self) -> frozenset[str]:
        """The replicas that are missing and stay, because too many are missing at once."""
        return self._held

    def judge(self, owned: Collection[str], found: Collection[str], now: float) -> list[str]:
        """Take an answer, and return the replicas that may be removed.

        Args:
            owned: The replicas of the source that the registry has in service.
            found: Those that the answer has.
            now: The time of the answer, on the monotonic clock.
        """
        known = set(owned)
        missing = known - set(found)
        self._missing = {
            key: (self._missing[key][0] + 1, self._missing[key][1]) if key in self._missing else (1, now)
            for key in missing
        }
        while self._gone_at and self._gone_at[0] <= now - self._confirm_seconds:
            self._gone_at.popleft()
        confirmed = {key for key in missing if self._is_confirmed(key, now)}
        doubted = {key for key in missing - confirmed if self._missing[key][0] >= ANSWERS}
        allowed = max(1, math.floor((len(known) + len(self._gone_at)) * MOST_SHARE)) - len(self._gone_at)
        are_too_many = len(missing - confirmed) > allowed
        self._held = frozenset(doubted if are_too_many else ())
        gone = confirmed if are_too_many else confirmed | doubted
        return sorted(gone)

    def went(self, keys: Iterable[str], now: float) -> None:
        """Note that these replicas were removed. Without confirmation they count towards the most that may go."""
        for key in keys:
            if key in self._missing and not self._is_confirmed(key, now):
                self._gone_at.append(now)
            self._missing.pop(key, None)

    def _is_confirmed(self, key: str, now: float) -> bool:
        count, since = self._missing[key]
        return count >= CONFIRMING_ANSWERS and now - since >= self._confirm_seconds
