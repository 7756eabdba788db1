"""Weighted power of two choices: draw two members by weight, and choose the one that has less load per weight.

The load includes the session to place. Choosing the least loaded of all members would cause herding: routers that read
the same loads would all send sessions to the same replica until they read the loads again. Two random members differ
from router to router, and the choice is nearly as good.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Collection, Sequence
from itertools import accumulate, pairwise

from shared_registry.model import Replica
from shared_registry.selection.loads import Loads
from shared_registry.selection.members import Members
from shared_registry.selection.policies import register_policy

ABOVE_ROUNDING = 1 + 1e-12
"""A class is cut into parts that are larger by this, so that no place lies before the first part by rounding."""


class LeastLoaded:
    """Draws a class of equal weights by its total weight, and one of its members. With equal weights there is one."""

    def __init__(self, rng: random.Random, loads: Loads) -> None:
        self._rng = rng
        self._random = rng.random
        self._shared_loads = loads
        self._loads = loads.known
        self._only: Sequence[Replica] | None = ()
        self._classes: list[tuple[float, float, Sequence[Replica]]] = []
        self._ends: list[float] = []

    def update(self, members: Members) -> None:
        """Choose among these members from now on."""
        if members.changed is None:
            self._shared_loads.begin(members.replicas)
        else:
            self._shared_loads.begin(one for one in members.changed if members.weight_of(one) is not None)
        starts = [0.0, *accumulate(weight * len(replicas) for weight, replicas in members.classes.items())]
        self._ends = starts[1:]
        self._classes = [
            (weight, (end - start) / len(replicas) * ABOVE_ROUNDING, replicas)
            for (weight, replicas), (start, end) in zip(members.classes.items(), pairwise(starts), strict=True)
        ]
        self._only = None if len(self._classes) > 1 else next(iter(members.classes.values()), ())

    def choose(self, key: str | None) -> Replica | None:  # noqa: ARG002
        """Return the less loaded one of two random members."""
        only, loads = self._only, self._loads
        if only is not None:
            count = len(only)
            if count < 2:
                return self._take(only[0]) if count else None
            random = self._random
            at = int(random() * count)
            other = int(random() * (count - 1))
            if other >= at:
                other += 1
            replica, rival = only[at], only[other]
            load, rival_load = loads[replica], loads[rival]
            if rival_load.count < load.count:
                replica, load = rival, rival_load
        else:
            random, ends, classes = self._random, self._ends, self._classes
            # two inlined draws, because calls would cost as much as the rest of this method
            place = random() * ends[-1]
            at = bisect_right(ends, place)
            weight, step, members = classes[at]
            replica = members[int((place - ends[at]) / step) - 1]
            place = random() * ends[-1]
            at = bisect_right(ends, place)
            rival_weight, step, members = classes[at]
            rival = members[int((place - ends[at]) / step) - 1]
            if rival is replica:
                rival_weight, rival = self._another(replica)
            load, rival_load = loads[replica], loads[rival]
            if (rival_load.count + 1) * weight < (load.count + 1) * rival_weight:
                replica, load = rival, rival_load
        load.count += 1
        load.recent += 1
        self._shared_loads.is_used = True
        return replica

    def choose_except(self, key: str | None, excluded: Collection[str]) -> Replica | None:  # noqa: ARG002
        """Return the less loaded one of two random members that are not excluded."""
        able = [
            (weight, replica)
            for weight, _, replicas in self._classes
            for replica in replicas
            if replica.key not in excluded
        ]
        if not able:
            return None
        two = self._rng.choices(able, [weight for weight, _ in able], k=2)
        return self._take(min(two, key=lambda one: (self._loads[one[1]].count + 1) / one[0])[1])

    def recount(self) -> None:
        """Do nothing: the loads are shared objects, which are already updated."""

    def _another(self, replica: Replica) -> tuple[float, Replica]:
        """Draw once more. If the same member is drawn again, take its neighbour."""
        weight, other = self._draw()
        if other is not replica:
            return weight, other
        at = next(at for at, one in enumerate(self._classes) if one[0] == weight)
        replicas = self._classes[at][2]
        if len(replicas) > 1:
            return weight, replicas[replicas[0] is replica]
        weight, _, replicas = self._classes[(at + 1) % len(self._classes)]
        return weight, replicas[0]

    def _draw(self) -> tuple[float, Replica]:
        """Draw one member by weight."""
        ends = self._ends
        place = self._random() * ends[-1]
        at = bisect_right(ends, place)
        weight, step, replicas = self._classes[at]
        return weight, replicas[int((place - ends[at]) / step) - 1]

    def _take(self, replica: Replica) -> Replica:
        load = self._loads[replica]
        load.count += 1
        load.recent += 1
        self._shared_loads.is_used = True
        return replica


register_policy("least_loaded", lambda context: LeastLoaded(context.rng, context.loads), needs_loads=True)
