"""The levels of replicas that policies choose among, kept in order by small steps.

A change of one replica moves that one only: it costs a search, and a copy within a flat list.
"""

from __future__ import annotations

import operator
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from shared_registry.model import Replica

LEVELS = 4
"""Primaries, others, primaries in a cooldown, and others in a cooldown."""
NOTED_PER_CHANGE = 8
"""How many shares are recorded in the time of one change of a weight."""
_KEY = operator.attrgetter("record.key")
Weights = tuple[float, float]
"""The weight now, and after the ramp."""


def position_of(replica: Replica) -> tuple[int, str]:
    """Return where a replica stands in any list of replicas."""
    record = replica.record
    return record.endpoint.order or 0, record.key


class Ordered:
    """Replicas in order. A replica keeps its position, whatever its record says, until it is put again.

    Of a position only the order is kept: of 50,000 replicas, tuples would take megabytes.

    Attributes:
        replicas: The replicas. The list changes with the set; nobody else may change it.
    """

    def __init__(self) -> None:
        self.replicas: list[Replica] = []
        self._orders: dict[Replica, int] = {}
        self._copy: tuple[Replica, ...] | None = ()

    def __contains__(self, replica: Replica) -> bool:
        return replica in self._orders

    def copy(self) -> tuple[Replica, ...]:
        """Return the replicas, as they are now."""
        if self._copy is None:
            self._copy = tuple(self.replicas)
        return self._copy

    def replace(self, replicas: Iterable[Replica]) -> None:
        """Have exactly these replicas."""
        self.replicas = sorted(replicas, key=position_of)
        self._orders = {replica: replica.record.endpoint.order or 0 for replica in self.replicas}
        self._copy = None

    def put(self, replica: Replica) -> None:
        """Add a replica, or move it to where it stands now."""
        order = replica.record.endpoint.order or 0
        if self._orders.get(replica) != order:
            self.drop(replica)
            self._orders[replica] = order
            self._put_into(self.replicas, replica)
            self._copy = None

    def drop(self, replica: Replica) -> None:
        """Remove a replica, if it is there."""
        if replica in self._orders:
            self._drop_from(self.replicas, replica)
            del self._orders[replica]
            self._copy = None

    def _put_into(self, replicas: list[Replica], replica: Replica) -> None:
        replicas.insert(self._place_in(replicas, replica), replica)

    def _drop_from(self, replicas: list[Replica], replica: Replica) -> None:
        del replicas[self._place_in(replicas, replica)]

    def _place_in(self, replicas: list[Replica], replica: Replica) -> int:
        """Return where a replica stands, or belongs, in some of the replicas in order."""
        order_of = self._orders.__getitem__
        order = order_of(replica)
        first = bisect_left(replicas, order, key=order_of)
        if first == len(replicas) or replicas[first] is replica or order_of(replicas[first]) != order:
            return first
        return bisect_left(replicas, replica.key, first, bisect_right(replicas, order, first, key=order_of), key=_KEY)


class SelectionLevel(Ordered):
    """The replicas of one level, with their weights.

    Attributes:
        classes: The replicas of each weight, in order. A list stays the same object while its class has members.
        full_weights: How many replicas have each weight after their ramps.
    """

    def __init__(self) -> None:
        super().__init__()
        self.classes: dict[float, list[Replica]] = {}
        self.full_weights: dict[float, int] = {}
        self._weights: dict[Replica, Weights] = {}
        self._pairs: dict[Weights, Weights] = {}

    def fill(self, replicas: Sequence[Replica], weights: Iterable[float], full_weights: Iterable[float]) -> None:
        """Have exactly these replicas, which are given in order."""
        self._orders = {replica: replica.record.endpoint.order or 0 for replica in replicas}
        self.replicas = list(replicas)
        self._copy = None
        pairs = self._pairs = {}
        both = zip(weights, full_weights, strict=True)
        self._weights = dict(zip(replicas, (pairs.setdefault(pair, pair) for pair in both), strict=True))
        self.classes, self.full_weights = {}, {}
        for replica, (weight, full) in self._weights.items():
            self.classes.setdefault(weight, []).append(replica)
            self.full_weights[full] = self.full_weights.get(full, 0) + 1

    def weight_of(self, replica: Replica) -> float | None:
        """Return the present weight of a replica; `None` if the replica is not of this level."""
        weights = self._weights.get(replica)
        return None if weights is None else weights[0]

    def weights(self, *, full: bool = False) -> list[float]:
        """Return the weight of each replica, now or after its ramp, in the order of `replicas`."""
        return [self._weights[replica][full] for replica in self.replicas]

    def place(self, replica: Replica, weight: float, full: float) -> None:
        """Add a replica, or change its weight, its weight after its ramp, or its position."""
        before = self._weights.get(replica)
        if before is not None and self._orders[replica] == (replica.record.endpoint.order or 0):
            if before == (weight, full):
                return
            self._leave_class(replica, *before)
        else:
            self.drop(replica)
            self.put(replica)
        pair = weight, full
        self._weights[replica] = self._pairs.setdefault(pair, pair)
        self._put_into(self.classes.setdefault(weight, []), replica)
        self.full_weights[full] = self.full_weights.get(full, 0) + 1

    def drop(self, replica: Replica) -> None:
        """Remove a replica, if it is there."""
        before = self._weights.pop(replica, None)
        if before is not None:
            self._leave_class(replica, *before)
            super().drop(replica)

    def _leave_class(self, replica: Replica, weight: float, full: float) -> None:
        members = self.classes[weight]
        self._drop_from(members, replica)
        if not members:
            del self.classes[weight]
        self.full_weights[full] -= 1
        if not self.full_weights[full]:
            del self.full_weights[full]


class Levels:
    """All levels of one view.

    A replica that ramps up has a share of its weight. If all replicas of a level ramp up, their weights are divided by
    the largest share, so that the result is as without ramps. While a large level is divided anew, some of its replicas
    keep their former weights until `settle` has come to them.

    Attributes:
        levels: The replicas of each level.
        changed: The replicas of each level that came, left or changed since `take_changes`; `None` if all may have.
        is_spread: Whether primaries and others are one level.
    """

    def __init__(self, *, is_spread: bool = False) -> None:
        self.levels = [SelectionLevel() for _ in range(LEVELS)]
        self.changed: list[set[Replica] | None] = [None] * LEVELS
        self.is_spread = is_spread
        self._shares: Mapping[str, float] = {}
        self._ramping: list[dict[Replica, float]] = [{} for _ in range(LEVELS)]
        self._counts: list[dict[float, int]] = [{} for _ in range(LEVELS)]
        self._most = [1.0] * LEVELS
        self._unnoted: dict[Replica, None] = {}
        self._unsettled: dict[Replica, None] = {}

    def __len__(self) -> int:
        return sum(len(level.replicas) for level in self.levels)

    def __iter__(self) -> Iterator[Replica]:
        for level in self.levels:
            yield from level.replicas

    @property
    def first(self) -> Replica | None:
        """The first replica of the first level that has any."""
        return next((level.replicas[0] for level in self.levels if level.replicas), None)

    def fill(self, replicas: Iterable[Replica], cooling: Collection[str] = ()) -> None:
        """Have exactly these replicas, which are given in order.

        Args:
            replicas: The replicas.
            cooling: Canonical urls of replicas in a cooldown.
        """
        lists: list[list[Replica]] = [[] for _ in range(LEVELS)]
        for replica in replicas:
            lists[self._level_of(replica, cooling)].append(replica)
        self.changed = [None] * LEVELS
        self._unnoted, self._unsettled = {}, {}
        for number, members in enumerate(lists):
            self._ramping[number], self._counts[number] = {}, {}
            if self._shares:
                for replica in members:
                    self._note_share(replica, number)
            self._most[number] = self._most_now(number, len(members))
            full = [replica.record.endpoint.weight for replica in members]
            is_ramping = self._ramping[number]
            weights = [self._weight_of(replica, number) for replica in members] if is_ramping else full
            self.levels[number].fill(members, weights, full)

    def place(self, replica: Replica, cooling: Collection[str] = ()) -> None:
        """Add a replica, or take over what has changed of it."""
        number = self._level_of(replica, cooling)
        if replica not in self.levels[number]:
            self.drop(replica)
        if self._shares or self._ramping[number]:
            self._note_share(replica, number)
        self._weigh(replica, number)
        self._note(number, replica)

    def drop(self, replica: Replica) -> None:
        """Remove a replica, if it is there."""
        number = self._number_of(replica)
        if number is not None:
            self.levels[number].drop(replica)
            self._forget_share(replica, number)
            self._note(number, replica)

    def ramp(self, shares: Mapping[str, float], replicas: Iterable[Replica]) -> None:
        """Give replicas a part of their weights. `settle` does the rest.

        Args:
            shares: The part of its weight that a replica has now, by canonical url, for replicas that ramp up.
            replicas: Those whose part has changed.
        """
        self._shares = shares
        self._unnoted.update(dict.fromkeys(replicas))

    def settle(self, most: int) -> bool:
        """Give replicas the weights that they should have by now, but do not change more than `most` of them.

        Return whether all have them.
        """
        left = NOTED_PER_CHANGE * most
        while self._unnoted and left > 0:
            left -= 1
            replica, _ = self._unnoted.popitem()
            number = self._number_of(replica)
            if number is not None:
                self._note_share(replica, number)
                self._unsettled[replica] = None
        if self._unnoted:
            return False
        self._divide()
        while self._unsettled and most > 0:
            most -= 1
            replica, _ = self._unsettled.popitem()
            number = self._number_of(replica)
            if number is not None and self.levels[number].weight_of(replica) != self._weight_of(replica, number):
                self._weigh(replica, number)
                self._note(number, replica)
        return not self._unsettled

    def _divide(self) -> None:
        """Find by what the weights of each level are divided. If that has changed, all of its weights are to change."""
        for number, level in enumerate(self.levels):
            most = self._most_now(number, len(level.replicas))
            if most != self._most[number]:
                self._most[number] = most
                self._unsettled.update(dict.fromkeys(level.replicas))

    def take_changes(self) -> list[set[Replica] | None]:
        """Return the changes of each level, and begin to collect anew."""
        changed, self.changed = self.changed, [set() for _ in range(LEVELS)]
        return changed

    def _number_of(self, replica: Replica) -> int | None:
        """Return the number of the level that a replica is in; `None` if it is in none."""
        return next((number for number, level in enumerate(self.levels) if replica in level), None)

    def _level_of(self, replica: Replica, cooling: Collection[str]) -> int:
        level = 0 if self.is_spread or replica.record.endpoint.primary else 1
        return level + 2 if cooling and replica.record.key in cooling else level

    def _weigh(self, replica: Replica, number: int) -> None:
        full = replica.record.endpoint.weight
        self.levels[number].place(replica, self._weight_of(replica, number) if self._ramping[number] else full, full)

    def _weight_of(self, replica: Replica, number: int) -> float:
        return replica.record.endpoint.weight * self._ramping[number].get(replica, 1.0) / self._most[number]

    def _note_share(self, replica: Replica, number: int) -> None:
        """Record the share of a member of a level."""
        share, ramping, counts = self._shares.get(replica.record.key, 1.0), self._ramping[number], self._counts[number]
        before = ramping.get(replica, 1.0)
        if before != share:
            if before != 1.0:
                self._forget_share(replica, number)
            if share != 1.0:
                ramping[replica] = share
                counts[share] = counts.get(share, 0) + 1

    def _forget_share(self, replica: Replica, number: int) -> None:
        share = self._ramping[number].pop(replica, None)
        if share is not None:
            counts = self._counts[number]
            counts[share] -= 1
            if not counts[share]:
                del counts[share]

    def _most_now(self, number: int, members: int) -> float:
        """Return the largest share in a level with so many members."""
        return max(self._counts[number]) if members and len(self._ramping[number]) == members else 1.0

    def _note(self, number: int, replica: Replica) -> None:
        changed = self.changed[number]
        if changed is not None:
            changed.add(replica)
