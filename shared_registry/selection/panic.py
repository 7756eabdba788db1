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
    """The active replicas that are not healthy and have answered at some time, in the order of their last answers.

    So the number of those that answered within the last hour is found by a search.
    """

    def __init__(self) -> None:
        self._answers: list[tuple[float, str, Replica]] = []
        self._answered_at: dict[Replica, float] = {}

    def fill(self, replicas: Iterable[Replica]) -> None:
        """Have exactly those of these replicas that may be spares."""
        self._answered_at = {replica: at for replica in replicas if (at := _answered_at(replica)) is not None}
        self._answers = sorted((at, replica.key, replica) for replica, at in self._answered_at.items())

    def put(self, replica: Replica) -> float | None:
        """Take over what has changed of a replica that the view shows. Return its last answer if it may be a spare."""
        at, before = _answered_at(replica), self._answered_at.get(replica)
        if at != before:
            self.drop(replica)
            if at is not None:
                self._answered_at[replica] = at
                insort(self._answers, (at, replica.key, replica), key=_place)
        return at

    def drop(self, replica: Replica) -> None:
        """Remove a replica, if it is there."""
        at = self._answered_at.pop(replica, None)
        if at is not None:
            del self._answers[bisect_left(self._answers, (at, replica.key), key=_place)]

    def find_panic(self, healthy: int, percent: float, *, now: Callable[[], float]) -> Panic | None:
        """Return the panic; `None` if there is none. At 0 percent there is none.

        Args:
            healthy: How many replicas are healthy, active and not ejected.
            percent: The setting `panic_percent`.
            now: Returns the time, in seconds since the Unix epoch.
        """
        # In the usual case so few replicas are not healthy that the time of their answers does not matter.
        if percent <= 0 or healthy * 100 >= percent * (healthy + len(self._answers)):
            return None
        since = now() - ANSWERED_SECONDS
        first = bisect_left(self._answers, since, key=_time)
        count = len(self._answers) - first
        if healthy * 100 >= percent * (healthy + count):
            return None

        def spares() -> tuple[Replica, ...]:
            return tuple(sorted(self.answered_between(since, math.inf), key=position_of))

        return Panic(healthy, healthy + count, percent, since, self._answers[first][0] + ANSWERED_SECONDS, spares)

    def answered_between(self, first: float, end: float) -> list[Replica]:
        """Return those whose last answer came at the first time or later, and before the end."""
        answers = self._answers
        return [
            one for _, _, one in answers[bisect_left(answers, first, key=_time) : bisect_left(answers, end, key=_time)]
        ]


def _answered_at(replica: Replica) -> float | None:
    record = replica.record
    return None if record.admin is not AdminState.ACTIVE or record.is_selectable else record.health.last_ok_at


def _place(answer: tuple[float, str, Replica] | tuple[float, str]) -> tuple[float, str]:
    return answer[0], answer[1]


def _time(answer: tuple[float, str, Replica]) -> float:
    return answer[0]
