"""Weighted round robin: the members take turns, in number by weight, spread evenly over the cycle.

Members of equal weight form a class. Inside a class the members take turns. The turns of the classes are ordered by
deadline: the n-th turn of a class of total weight W is due at (n - 1/2) / W, and the earliest turn comes next. A cycle
is the shortest time in which every weight amounts to a whole number of turns. In any cycle, wherever it begins, each
member has exactly its number of turns. The cost is that of a heap of classes; with equal weights there is none.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Iterator
from heapq import heapify, heapreplace
from itertools import cycle

from shared_registry.model import Replica
from shared_registry.selection.members import Members
from shared_registry.selection.policies import register_policy

Turn = tuple[float, int, int, float, int, Iterator[Replica]]
"""The next turn of a class.

It holds the due time, the number of the class, twice its past turns plus one, its total weight, its size, and an
iterator that gives its members in turn.
"""


class RoundRobin:
    """Begins each cycle at a random place, so that routers that start together begin with different replicas."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._members = Members()
        self._turns: list[Turn] = []
        self._only: Iterator[Replica] | None = None

    def update(self, members: Members) -> None:
        """Choose among these members from now on. A new cycle begins unless the members are the same as before."""
        if members == self._members:
            return
        self._members = members
        classes: dict[float, list[Replica]] = {}
        for replica, weight in zip(members.replicas, members.weights, strict=True):
            classes.setdefault(weight, []).append(replica)
        total = sum(weight * len(replicas) for weight, replicas in classes.items())
        start = self._rng.random() * 2 * len(members.replicas) / total if members.replicas else 0.0
        self._turns = [
            _first_turn(number, weight * len(replicas), self._rotated(replicas), start)
            for number, (weight, replicas) in enumerate(classes.items())
        ]
        heapify(self._turns)
        self._only = self._turns[0][-1] if len(self._turns) == 1 else None

    def choose(self, key: str | None) -> Replica | None:  # noqa: ARG002
        """Return the member that has the next turn."""
        if self._only is not None:
            return next(self._only)
        turns = self._turns
        if not turns:
            return None
        _, number, position, weight, size, replicas = turns[0]
        position += 2
        heapreplace(turns, (position / weight, number, position, weight, size, replicas))
        return next(replicas)

    def choose_except(self, key: str | None, excluded: Collection[str]) -> Replica | None:  # noqa: ARG002
        """Return the next member that is not excluded. Excluded members lose their turn."""
        for due, number, position, weight, size, replicas in sorted(self._turns, key=lambda turn: turn[:2]):
            for _ in range(size):
                replica = next(replicas)
                if replica.key not in excluded:
                    if (due, number) == self._turns[0][:2]:
                        heapreplace(
                            self._turns, ((position + 2) / weight, number, position + 2, weight, size, replicas)
                        )
                    return replica
        return None

    def recount(self) -> None:
        """Do nothing: this policy does not use loads."""

    def _rotated(self, replicas: list[Replica]) -> list[Replica]:
        at = self._rng.randrange(len(replicas))
        return replicas[at:] + replicas[:at]


def _first_turn(number: int, weight: float, replicas: list[Replica], start: float) -> Turn:
    """Return the first turn of a class that is due at the time `start` or later."""
    passed = max(0, math.ceil((weight * start - 1) / 2))
    position = 2 * passed + 1
    return position / weight, number, position, weight, len(replicas), cycle(replicas)


register_policy("round_robin", lambda context: RoundRobin(context.rng))
