"""Weighted power of two choices: draw two members by weight, and choose the one that has less load per weight.

The load includes the session to place. Choosing the least loaded of all members would cause herding: routers that read
the same loads would all send sessions to the same replica until they read the loads again. Two random members differ
from router to router, and the choice is nearly as good.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence

from shared_registry.model import Replica
from shared_registry.selection.loads import Load, Loads
from shared_registry.selection.members import Members
from shared_registry.selection.policies import register_policy


class LeastLoaded:
    """Draws in constant time from an alias table (Vose). With equal weights it draws from the list of members."""

    def __init__(self, rng: random.Random, loads: Loads) -> None:
        self._rng = rng
        self._random = rng.random
        self._shared_loads = loads
        self._version = loads.version
        self._members = Members()
        self._replicas: Sequence[Replica] = ()
        self._loads: list[Load] = []
        self._shares: list[float] = []
        self._cuts: list[float] | None = None
        self._aliases: list[int] = []

    def update(self, members: Members) -> None:
        """Choose among these members from now on."""
        if members == self._members and self._version == self._shared_loads.version:
            return
        if members.weights != self._members.weights:
            self._shares = [1 / weight for weight in members.weights]
            self._cuts = None
            if len(set(members.weights)) > 1:
                self._cuts, self._aliases = alias_table(members.weights)
        self._members, self._version = members, self._shared_loads.version
        self._replicas = members.replicas
        self._loads = self._shared_loads.of(members.replicas)

    def choose(self, key: str | None) -> Replica | None:  # noqa: ARG002
        """Return the less loaded one of two random members."""
        loads = self._loads
        count = len(loads)
        if count < 2:
            return self._take(0) if count else None
        random, cuts = self._random, self._cuts
        if cuts is None:
            at = int(random() * count)
            other = int(random() * (count - 1))
            if other >= at:
                other += 1
        else:  # two inlined draws, because calls would cost as much as the rest of this method
            place = random() * count
            at = int(place)
            if place - at >= cuts[at]:
                at = self._aliases[at]
            place = random() * count
            other = int(place)
            if place - other >= cuts[other]:
                other = self._aliases[other]
            if at == other:
                other = self._another(at, count)
        load, rival = loads[at], loads[other]
        shares = self._shares
        if (rival.count + 1) * shares[other] < (load.count + 1) * shares[at]:
            at = other
            load = rival
        load.count += 1
        load.recent += 1
        self._shared_loads.is_used = True
        return self._replicas[at]

    def choose_except(self, key: str | None, excluded: Collection[str]) -> Replica | None:  # noqa: ARG002
        """Return the less loaded one of two random members that are not excluded."""
        able = [at for at, replica in enumerate(self._replicas) if replica.key not in excluded]
        if not able:
            return None
        two = self._rng.choices(able, [self._members.weights[at] for at in able], k=2)
        return self._take(min(two, key=lambda at: (self._loads[at].count + 1) * self._shares[at]))

    def recount(self) -> None:
        """Do nothing: the loads are shared objects, which are already updated."""

    def _another(self, at: int, count: int) -> int:
        """Draw once more. If the same member is drawn again, take its neighbour."""
        other = self._draw(count)
        return other if other != at else (at + 1) % count

    def _draw(self, count: int) -> int:
        """Draw one member by weight."""
        place = self._random() * count
        at = int(place)
        return at if self._cuts is None or place - at < self._cuts[at] else self._aliases[at]

    def _take(self, at: int) -> Replica:
        self._loads[at].count += 1
        self._loads[at].recent += 1
        self._shared_loads.is_used = True
        return self._replicas[at]


def alias_table(weights: Sequence[float]) -> tuple[list[float], list[int]]:
    """Return, for each member's cell of the table, the member's own share of the cell and the owner of the rest."""
    mean = sum(weights) / len(weights)
    cuts = [weight / mean for weight in weights]
    aliases = list(range(len(weights)))
    small = [at for at, cut in enumerate(cuts) if cut < 1]
    large = [at for at, cut in enumerate(cuts) if cut >= 1]
    while small and large:
        underfull, overfull = small.pop(), large[-1]
        aliases[underfull] = overfull
        cuts[overfull] -= 1 - cuts[underfull]
        if cuts[overfull] < 1:
            small.append(large.pop())
    for at in (*small, *large):  # the remaining cells differ from 1 only by rounding
        cuts[at] = 1.0
    return cuts, aliases


register_policy("least_loaded", lambda context: LeastLoaded(context.rng, context.loads), needs_loads=True)
