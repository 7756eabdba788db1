"""Time limits for many things at once, on a timing wheel. Pure: the caller tells the time, and turns the wheel.

A limit is added and dropped in constant time, whatever else is limited; many at once are cheaper. It ends up to
`SLOT_SECONDS` late.

Like `time_limit`, the wheel does not count a pause of this process: if it is turned late, each limit is extended by as
long, by at most its own length in total. A limit that such a pause has used up lasts for one more turn, in which what
waits in the socket is read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

SLOT_SECONDS = 0.05
SLOTS = 64
LATE_SECONDS = 0.05
"""How late a turn must be for the process to count as having paused."""


class Limit:
    """One limit. `due` is when it ends, on the caller's clock."""

    __slots__ = ("due", "slot", "spare")

    def __init__(self) -> None:
        self.due = math.inf
        self.spare = 0.0
        self.slot = -1


class Wheel:
    """Keeps limits. Not thread-safe. `next_turn` is when it must be turned next; infinity while it is empty."""

    def __init__(self) -> None:
        self._slots: list[set[Limit]] = [set() for _ in range(SLOTS)]
        self._count = 0
        self._turned = 0  # the number of the slot that was emptied last, counted from the beginning of the clock
        self.next_turn = math.inf

    def __len__(self) -> int:
        """Return how many limits there are."""
        return self._count

    def add(self, limits: Sequence[Limit], seconds: float, *, now: float) -> None:
        """Let limits end so many seconds from now. None of them may be there."""
        if not limits:
            return
        if not self._count:
            self._turned = math.floor(now / SLOT_SECONDS)
            self.next_turn = (self._turned + 1) * SLOT_SECONDS
        due = now + seconds
        slot = self._slot_of(due)
        for limit in limits:
            limit.due, limit.spare, limit.slot = due, seconds, slot
        self._slots[slot].update(limits)
        self._count += len(limits)

    def discard(self, limits: Iterable[Limit]) -> None:
        """Drop limits, as far as they are there."""
        slots, count = self._slots, self._count
        for limit in limits:
            if limit.slot >= 0:
                slots[limit.slot].discard(limit)
                limit.slot = -1
                count -= 1
        self._count = count
        if not count:
            self.next_turn = math.inf

    def clear(self) -> list[Limit]:
        """Drop all limits, and return them."""
        dropped = [limit for slot in self._slots for limit in slot]
        self.discard(dropped)
        return dropped

    def turn(self, now: float) -> list[Limit]:
        """Drop the limits that have ended, and return them in the order in which they ended."""
        late = now - self.next_turn
        if late > LATE_SECONDS and self._count:
            self._extend(late, now)
        reached = math.floor(now / SLOT_SECONDS)
        ended: list[Limit] = []
        for number in range(max(self._turned, reached - SLOTS) + 1, reached + 1):
            slot = number % SLOTS
            limits, self._slots[slot] = self._slots[slot], set()
            self._turned = number
            for limit in limits:
                if limit.due <= now:
                    limit.slot = -1
                    ended.append(limit)
                else:
                    self._place(limit)
        self._count -= len(ended)
        self.next_turn = (reached + 1) * SLOT_SECONDS if self._count else math.inf
        ended.sort(key=_due_of)
        return ended

    def _slot_of(self, due: float) -> int:
        ahead = math.ceil(due / SLOT_SECONDS) - self._turned
        ahead = 1 if ahead < 1 else SLOTS - 1 if ahead >= SLOTS else ahead
        return (self._turned + ahead) % SLOTS

    def _place(self, limit: Limit) -> None:
        limit.slot = slot = self._slot_of(limit.due)
        self._slots[slot].add(limit)

    def _extend(self, late: float, now: float) -> None:
        everything = [limit for slot in self._slots for limit in slot]
        for slot in self._slots:
            slot.clear()
        for limit in everything:
            extension = min(late, limit.spare)
            limit.spare -= extension
            limit.due += extension
            if extension:
                limit.due = max(limit.due, math.nextafter(now, math.inf))
            self._place(limit)


def _due_of(limit: Limit) -> float:
    return limit.due
