"""Panic: so few replicas are healthy that sessions may use the others too. The verdicts may be wrong then.

Only active replicas that answered a probe within the last hour are counted and used. So replicas that have been dead
for long change nothing, and neither does a fleet that was just registered. A healthy replica counts whenever it
answered. An ejected replica counts as one that is not healthy.
Redis decides by the same rule for `acquire()` and the queue; see `lua/lib/spares.lua`.
"""

from __future__ import annotations

import functools
import math
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable

from shared_registry.model import AdminState, Replica
from shared_registry.selection.levels import position_of

ANSWERED_SECONDS = 3600.0
"""How long after its last answer a replica that is not healthy still counts. `lua/lib/ready.lua` has it too."""


class Panic:
    """The state in which fewer than `percent` of the replicas that answered within the last hour are healthy.

    Attributes:
        healthy: How many of them are healthy.
        counted: How many they are.
        percent: The setting `panic_percent`.
        since: One hour before this was found, in seconds since the Unix epoch. Replicas that answered since then count.
        until: When the first of those that are not healthy will not have answered for an hour, in seconds since the
            Unix epoch.
    """

    def __init__(
        self,
        healthy: int,
        counted: int,
        percent: float,
        since: float,
        until: float,
        find_spares: Callable[[], tuple[Replica, ...]],
    ) -> None:
        self.healthy = healthy
        self.counted = counted
        self.percent = percent
        self.since = since
        self.until = until
        self._find_spares = find_spares

    def __str__(self) -> str:
        return f"{self.healthy} of {self.counted} active replicas healthy, panic_percent is {self.percent:g}"

    @functools.cached_property
    def spares(self) -> tuple[Replica, ...]:
        """The replicas that answered within the last hour and are not healthy, in order.

        They are listed when they are first asked for; a change of the view makes another panic with another list.
        """
        return self._find_spares()


class Spares:
    """The active replicas that are not healthy and have answered at some time.

    The times of their last answers are kept sorted, so that the number of those within the last hour is found by a
    search.
    """

    def __init__(self) -> None:
        self._times: list[float] = []
        self._answered_at: dict[Replica, float] = {}

    def fill(self, replicas: Iterable[Replica]) -> None:
        """Have exactly those of these replicas that may be spares."""
        self._answered_at = {replica: at for replica in replicas if (at := _answered_at(replica)) is not None}
        self._times = sorted(self._answered_at.values())

    def put(self, replicas: Iterable[Replica], *, since: float) -> set[Replica]:
        """Take over what has changed of replicas that the view shows and that are not selectable.

        Return those that have not answered since then.
        """
        late, times, known = set(), self._times, self._answered_at
        for replica in replicas:
            at, before = _answered_at(replica), known.get(replica)
            if at != before:
                if before is not None:
                    del times[bisect_left(times, before)]
                    del known[replica]
                if at is not None:
                    known[replica] = at
                    insort(times, at)
            if at is None or at < since:
                late.add(replica)
        return late

    def drop(self, replicas: Iterable[Replica]) -> None:
        """Remove replicas, as far as they are there."""
        for replica in replicas:
            at = self._answered_at.pop(replica, None)
            if at is not None:
                del self._times[bisect_left(self._times, at)]

    def find_panic(self, healthy: int, percent: float, *, now: Callable[[], float]) -> Panic | None:
        """Return the panic; `None` if there is none. At 0 percent there is none.

        Args:
            healthy: How many replicas are healthy, active and not ejected.
            percent: The setting `panic_percent`.
            now: Returns the time, in seconds since the Unix epoch.
        """
        # In the usual case so few replicas are not healthy that the time of their answers does not matter.
        if percent <= 0 or healthy * 100 >= percent * (healthy + len(self._times)):
            return None
        since = now() - ANSWERED_SECONDS
        first = bisect_left(self._times, since)
        count = len(self._times) - first
        if healthy * 100 >= percent * (healthy + count):
            return None

        def spares() -> tuple[Replica, ...]:
            return tuple(sorted(self.answered_between(since, math.inf), key=position_of))

        return Panic(healthy, healthy + count, percent, since, self._times[first] + ANSWERED_SECONDS, spares)

    def answered_between(self, first: float, end: float) -> list[Replica]:
        """Return those whose last answer came at the first time or later, and before the end."""
        if bisect_left(self._times, first) >= bisect_left(self._times, end):
            return []
        return [replica for replica, at in self._answered_at.items() if first <= at < end]


def _answered_at(replica: Replica) -> float | None:
    record = replica.record
    return None if record.admin is not _ACTIVE or record.is_selectable else record.health.last_ok_at


_ACTIVE = AdminState.ACTIVE
