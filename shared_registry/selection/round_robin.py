"""Weighted round robin: the members take turns, in number by weight, spread evenly over the cycle.

Members of equal weight form a class. Inside a class the members take turns. The turns of the classes are ordered by
deadline: the n-th turn of a class of total weight W is due at (n - 1/2) / W, and the earliest turn comes next. A cycle
is the shortest time in which every weight amounts to a whole number of turns. In any cycle, wherever it begins, each
member has exactly its number of turns. The cost is that of a heap of classes; with equal weights there is none.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Sequence
from heapq import heapify, heapreplace

from shared_registry.model import Replica
from shared_registry.selection.members import Members
from shared_registry.selection.policies import register_policy


class Turns:
    """The members of one weight, and which of them has the next turn. The list of members may change at any time."""

    __slots__ = ("at", "replicas")

    def __init__(self, replicas: Sequence[Replica], at: int) -> None:
        self.replicas = replicas
        self.at = at

    def __len__(self) -> int:
        return len(self.replicas)

    def choose(self, key: str | None = None) -> Replica:  # noqa: ARG002
        """Return the member that has the next turn."""
        at, replicas = self.at, self.replicas
        if at >= len(replicas):
            at = 0
        self.at = at + 1
        return replicas[at]


Turn = tuple[float, int, int, float, Turns]
"""The next turn of a class: the due time, the number of the class, twice its past turns plus one, its total weight."""


class RoundRobin:
    """Begins each cycle at a random place, so that routers that start together begin with different replicas."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._sizes: dict[float, int] = {}
        self._classes: dict[float, Turns] = {}
        self._turns: list[Turn] = []
        self._only: Turns | None = None

    def update(self, members: Members) -> None:
        """Choose among these members from now on.

        A new cycle begins if the number of members of any weight has changed. Members of equal weight go on taking
        turns where they were.
        """
        sizes = {weight: len(replicas) for weight, replicas in members.classes.items()}
        known = self._classes
        self._classes = {
            weight: known[weight] if weight in known else Turns(replicas, self._rng.randrange(len(replicas)))
            for weight, replicas in members.classes.items()
        }
        for weight, replicas in members.classes.items():
            self._classes[weight].replicas = replicas
        if sizes == self._sizes:
            return
        self._sizes = sizes
        total = sum(weight * size for weight, size in sizes.items())
        start = self._rng.random() * 2 * sum(sizes.values()) / total if sizes else 0.0
        self._turns = [
            _first_turn(number, weight * len(members), members, start)
            for number, (weight, members) in enumerate(self._classes.items())
        ]
        heapify(self._turns)
        self._only = self._turns[0][-1] if len(self._turns) == 1 else None

    def choose(self, key: str | None) -> Replica | None:  # noqa: ARG002
        """Return the member that has the next turn."""
        if self._only is not None:
            return self._only.choose()
        turns = self._turns
        if not turns:
            return None
        _, number, position, weight, members = turns[0]
        position += 2
        heapreplace(turns, (position / weight, number, position, weight, members))
        return members.choose()

    def choose_except(self, key: str | None, excluded: Collection[str]) -> Replica | None:  # noqa: ARG002
        """Return the next member that is not excluded. Excluded members lose their turn."""
        for due, number, position, weight, members in sorted(self._turns, key=lambda turn: turn[:2]):
            for _ in range(len(members)):
                replica = members.choose()
                if replica.key not in excluded:
                    if (due, number) == self._turns[0][:2]:
                        heapreplace(self._turns, ((position + 2) / weight, number, position + 2, weight, members))
                    return replica
        return None

    def recount(self) -> None:
        """Do nothing: this policy does not use loads."""


def _first_turn(number: int, weight: float, members: Turns, start: float) -> Turn:
    """Return the first turn of a class that is due at the time `start` or later."""
    passed = max(0, math.ceil((weight * start - 1) / 2))
    position = 2 * passed + 1
    return position / weight, number, position, weight, members


register_policy("round_robin", lambda context: RoundRobin(context.rng))
