"""The levels of replicas that policies choose among, kept in order by small steps.

A change of one replica moves that one only: it costs a search, and a copy within a flat list.
"""

from __future__ import annotations

import operator
from bisect import bisect_left, bisect_right
from collections import Counter
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
    return order_of(replica), replica.record.key


def order_of(replica: Replica) -> int:
    """Return by what replicas are ordered first."""
    return replica.record.endpoint.order or 0


class Ordered:
    """Replicas in order. Call `hold` before the order of one changes, and then put it again.

    Positions are not stored, but found by a search: of 50,000 replicas they would take megabytes.

    Attributes:
        replicas: The replicas. The list changes with the set; nobody else may change it.
    """

    def __init__(self) -> None:
        self.replicas: list[Replica] = []
        self._held: dict[Replica, int] = {}
        self._copy: tuple[Replica, ...] | None = ()

    def __contains__(self, replica: Replica) -> bool:
        return self._search(replica)[1]

    def copy(self) -> tuple[Replica, ...]:
        """Return the replicas, as they are now."""
        if self._copy is None:
            self._copy = tuple(self.replicas)
        return self._copy

    def replace(self, replicas: Iterable[Replica]) -> None:
        """Have exactly these replicas."""
        self.replicas = sorted(replicas, key=position_of)
        self._held = {}
        self._copy = None

    def hold(self, replica: Replica) -> None:
        """Keep a replica where it stands until it is put or dropped, although its order is about to change."""
        if replica not in self._held and replica in self:
            self._held[replica] = order_of(replica)

    def put(self, replica: Replica) -> None:
        """Add a replica, or move it to where it stands now."""
        if replica in self._held:
            self.drop(replica)
        at, is_there = self._search(replica)
        if not is_there:
            self._insert(at, replica)

    def drop(self, replica: Replica) -> bool:
        """Remove a replica, if it is there. Return whether it was."""
        at, is_there = self._search(replica)
        if is_there:
            self._remove(at, replica)
        return is_there

    def _insert(self, at: int, replica: Replica) -> None:
        self.replicas.insert(at, replica)
        self._copy = None

    def _remove(self, at: int, replica: Replica) -> None:
        del self.replicas[at]
        self._held.pop(replica, None)
        self._copy = None

    def _search(self, replica: Replica) -> tuple[int, bool]:
        """Return where a replica stands or belongs, and whether it is there."""
        at = self._place_in(self.replicas, replica)
        return at, at < len(self.replicas) and self.replicas[at] is replica

    def _place_in(self, replicas: list[Replica], replica: Replica) -> int:
        """Return where a replica stands, or belongs, in some of the replicas in order."""
        if not replicas:
            return 0
        place_of = self._order_of if self._held else order_of
        order = place_of(replica)
        first = bisect_left(replicas, order, key=place_of)
        if first == len(replicas) or replicas[first] is replica or place_of(replicas[first]) != order:
            return first
        return bisect_left(replicas, replica.key, first, bisect_right(replicas, order, first, key=place_of), key=_KEY)

    def _order_of(self, replica: Replica) -> int:
        order = self._held.get(replica)
        return order_of(replica) if order is None else order


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
        self._usual: Weights = (1.0, 1.0)
        self._unusual: dict[Replica, Weights] = {}

    def fill(self, replicas: Sequence[Replica], weights: Iterable[float], full_weights: Iterable[float]) -> None:
        """Have exactly these replicas, which are given in order."""
        self.replicas = list(replicas)
        self._held, self._copy = {}, None
        self.classes, self.full_weights = {}, {}
        pairs = list(zip(weights, full_weights, strict=True))
        counts = Counter(pairs)
        self._usual = max(counts, key=counts.__getitem__, default=self._usual)
        same = {pair: pair for pair in counts}
        self._unusual = {
            replica: same[pair] for replica, pair in zip(replicas, pairs, strict=True) if pair != self._usual
        }
        for replica, (weight, full) in zip(replicas, pairs, strict=True):
            self.classes.setdefault(weight, []).append(replica)
            self.full_weights[full] = self.full_weights.get(full, 0) + 1

    def weight_of(self, replica: Replica) -> float | None:
        """Return the present weight of a replica; `None` if the replica is not of this level."""
        return self._weights_of(replica)[0] if replica in self else None

    def weights(self, *, full: bool = False) -> list[float]:
        """Return the weight of each replica, now or after its ramp, in the order of `replicas`."""
        unusual, usual = self._unusual.get, self._usual
        return [unusual(replica, usual)[full] for replica in self.replicas]

    def place(self, replica: Replica, weight: float, full: float) -> None:
        """Add a replica, or change its weight, its weight after its ramp, or its position."""
        if replica in self._held:
            self.drop(replica)
        at, is_there = self._search(replica)
        if not is_there:
            self._insert(at, replica)
        elif self._weights_of(replica) == (weight, full):
            return
        else:
            self._leave_class(at, replica)
        if (weight, full) != self._usual:
            self._unusual[replica] = weight, full
        members = self.classes.setdefault(weight, [])
        members.insert(self._place_in_class(members, at, replica, most=len(self.replicas) - 1), replica)
        self.full_weights[full] = self.full_weights.get(full, 0) + 1

    def drop(self, replica: Replica) -> bool:
        """See `Ordered`."""
        at, is_there = self._search(replica)
        if is_there:
            self._leave_class(at, replica)
            self._remove(at, replica)
        return is_there

    def _place_in_class(self, members: list[Replica], at: int, replica: Replica, *, most: int) -> int:
        """Return where a replica stands or belongs in its class: as in the level if that class is the only one.

        Args:
            members: The class.
            at: Where the replica stands in the level.
            replica: The replica.
            most: How many members the class has at this moment if it is the only one.
        """
        return at if len(members) == most else self._place_in(members, replica)

    def _weights_of(self, replica: Replica) -> Weights:
        return self._unusual.get(replica, self._usual)

    def _leave_class(self, at: int, replica: Replica) -> None:
        weight, full = self._unusual.pop(replica, self._usual)
        members = self.classes[weight]
        del members[self._place_in_class(members, at, replica, most=len(self.replicas))]
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
        self._drop_from(replica, (other for other in range(LEVELS) if other != number))
        if self._shares or self._ramping[number]:
            self._note_share(replica, number)
        self._weigh(replica, number)
        self._note(number, replica)

    def drop(self, replica: Replica) -> None:
        """Remove a replica, if it is there."""
        self._drop_from(replica, range(LEVELS))

    def _drop_from(self, replica: Replica, numbers: Iterable[int]) -> None:
        for number in numbers:
            level = self.levels[number]
            if level.replicas and level.drop(replica):
                self._forget_share(replica, number)
                self._note(number, replica)

    def hold(self, replica: Replica) -> None:
        """See `Ordered`."""
        for level in self.levels:
            level.hold(replica)

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
