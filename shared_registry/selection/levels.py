"""The levels of replicas that policies choose among, kept in order by small steps.

A change of one replica moves that one only: it costs a search, and a copy within a flat list.
"""

from __future__ import annotations

import operator
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import compress

from shared_registry.model import Replica

LEVELS = 4
"""Primaries, others, primaries in a cooldown, and others in a cooldown."""
NOTED_PER_CHANGE = 8
"""How many shares are recorded in the time of one change of a weight."""
FAR = 32
"""From one replica to add or remove to the next, in places: all between the first and the last are copied if they are
closer on average.
"""
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

    Positions are not stored, but found by a search: of 50,000 replicas they would take megabytes. The search goes
    through a list of numbers, which takes a fifth of the time of one through the attributes of replicas.

    Attributes:
        replicas: The replicas. The list changes with the set; nobody else may change it.
    """

    __slots__ = ("_copy", "_held", "_orders", "replicas")

    def __init__(self) -> None:
        self.replicas: list[Replica] = []
        self._orders: list[int] = []
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
        """Have exactly these replicas, which are given in order."""
        self.replicas = list(replicas)
        self._orders = [order_of(replica) for replica in self.replicas]
        self._held = {}
        self._copy = None

    def adopt(self, other: Ordered) -> None:
        """Take the lists of another set, which must not use them any more."""
        self.replicas, self._orders, self._held, self._copy = other.replicas, other._orders, other._held, other._copy

    def hold(self, replica: Replica) -> None:
        """Keep a replica where it stands until it is put or dropped, although its order is about to change."""
        if replica not in self._held and replica in self:
            self._held[replica] = order_of(replica)

    def put(self, replicas: Collection[Replica]) -> None:
        """Add replicas, or move them to where they stand now."""
        self._drop_held(replicas)
        self._add(replicas)

    def drop(self, replicas: Iterable[Replica]) -> list[Replica]:
        """Remove those of these replicas that are here. Return them."""
        search = self._search
        found = {}
        for replica in replicas:
            at, is_there = search(replica)
            if is_there:
                found[at] = replica
        if found:
            self._remove(sorted(found))
            self._copy = None
            if self._held:
                for replica in found.values():
                    self._held.pop(replica, None)
        return list(found.values())

    def _add(self, replicas: Iterable[Replica]) -> list[Replica]:
        """Add those of these replicas that are not here, and not held. Return them."""
        search = self._search
        places = []
        for replica in replicas:
            at, is_there = search(replica)
            if not is_there:
                places.append((at, order_of(replica), replica.key, replica))
        if places:
            places.sort()
            self._insert(places)
            self._copy = None
        return [place[-1] for place in places]

    def _drop_held(self, replicas: Iterable[Replica]) -> None:
        if self._held:
            self.drop([replica for replica in replicas if replica in self._held])

    def _insert(self, places: Sequence[tuple[int, int, str, Replica]]) -> None:
        """Add replicas: where each belongs among those that are here, its order, its key, and the replica, sorted."""
        replicas, orders = self.replicas, self._orders
        first, last = places[0][0], places[-1][0]
        if last - first > FAR * len(places):
            for at, order, _, replica in reversed(places):
                replicas.insert(at, replica)
                orders.insert(at, order)
            return
        window, window_orders, before = [], [], first
        for at, order, _, replica in places:
            window += replicas[before:at]
            window_orders += orders[before:at]
            window.append(replica)
            window_orders.append(order)
            before = at
        replicas[first:last], orders[first:last] = window, window_orders

    def _remove(self, places: Sequence[int]) -> None:
        """Remove the replicas at these places, which are sorted."""
        replicas, orders = self.replicas, self._orders
        first, end = places[0], places[-1] + 1
        if end - first > FAR * len(places):
            for at in reversed(places):
                del replicas[at], orders[at]
            return
        stays = bytearray(b"\\1") * (end - first)
        for at in places:
            stays[at - first] = 0
        replicas[first:end] = compress(replicas[first:end], stays)
        orders[first:end] = compress(orders[first:end], stays)

    def _search(self, replica: Replica) -> tuple[int, bool]:
        """Return where a replica stands or belongs, and whether it is there."""
        replicas, orders = self.replicas, self._orders
        order = self._held.get(replica) if self._held else None
        if order is None:
            order = order_of(replica)
        at = bisect_left(orders, order)
        if at == len(orders) or orders[at] != order:
            return at, False
        if replicas[at] is not replica:
            at = bisect_left(replicas, replica.key, at, bisect_right(orders, order, at), key=_KEY)
        return at, at < len(replicas) and replicas[at] is replica


class SelectionLevel(Ordered):
    """The replicas of one level, with their weights. Those of one weight form a class.

    Attributes:
        full_weights: How many replicas have each weight after their ramps.
    """

    __slots__ = ("_classes", "_only", "_unusual", "_usual", "full_weights")

    def __init__(self) -> None:
        super().__init__()
        self.full_weights: dict[float, int] = {}
        self._only: float | None = None  # the weight of all replicas, whose class is the level itself
        self._classes: dict[float, Ordered] = {}
        self._usual: Weights = (1.0, 1.0)
        self._unusual: dict[Replica, Weights] = {}

    @property
    def classes(self) -> dict[float, list[Replica]]:
        """The replicas of each weight, in order. A list stays the same object while its class has members."""
        if self._only is not None:
            return {self._only: self.replicas}
        return {weight: members.replicas for weight, members in self._classes.items()}

    def fill(self, replicas: Sequence[Replica], weights: Iterable[float], full_weights: Iterable[float]) -> None:
        """Have exactly these replicas, which are given in order."""
        pairs = list(zip(weights, full_weights, strict=True))
        counts = Counter(pairs)
        self._usual = max(counts, key=counts.__getitem__, default=self._usual)
        same = {pair: pair for pair in counts}
        self._unusual = {
            replica: same[pair] for replica, pair in zip(replicas, pairs, strict=True) if pair != self._usual
        }
        self.full_weights = {}
        for (_, full), count in counts.items():
            self.full_weights[full] = self.full_weights.get(full, 0) + count
        self._only, self._classes = None, {}
        self.replace(replicas)
        classes: dict[float, list[Replica]] = {weight: [] for weight, _ in counts}
        if len(classes) == 1:
            (self._only,) = classes
            return
        for replica, (weight, _) in zip(replicas, pairs, strict=True):
            classes[weight].append(replica)
        for weight, members in classes.items():
            self._classes[weight] = Ordered()
            self._classes[weight].replace(members)

    def weight_of(self, replica: Replica) -> float | None:
        """Return the present weight of a replica; `None` if the replica is not of this level."""
        return self._weights_of(replica)[0] if replica in self else None

    def weights(self, *, full: bool = False) -> list[float]:
        """Return the weight of each replica, now or after its ramp, in the order of `replicas`."""
        unusual, usual = self._unusual.get, self._usual
        return [unusual(replica, usual)[full] for replica in self.replicas]

    def hold(self, replica: Replica) -> None:
        """See `Ordered`."""
        super().hold(replica)
        if self._only is None and replica in self._held:
            self._classes[self._weights_of(replica)[0]].hold(replica)

    def place(self, weights: Mapping[Replica, Weights]) -> None:
        """Add replicas, or change their weights, or move them to where they stand now."""
        self._drop_held(weights)  # first, because one class may be left then
        kinds = {weight for weight, _ in weights.values()}
        if not self.replicas and len(kinds) == 1:
            (self._only,) = kinds
        elif kinds - {self._only}:
            self._part()
        added = self._add(weights)
        if len(added) < len(weights):
            new = set(added)
            changed = [one for one, pair in weights.items() if one not in new and self._weights_of(one) != pair]
            self._leave_classes(changed)
            added += changed
        self._join_classes(added, weights)
        self._unite()

    def drop(self, replicas: Iterable[Replica]) -> list[Replica]:
        """See `Ordered`."""
        gone = super().drop(replicas)
        self._leave_classes(gone)
        if not self.replicas:
            self._only = None
        self._unite()
        return gone

    def _unite(self) -> None:
        """Have no lists beside those of the only class, if there is only one."""
        if len(self._classes) == 1:
            self._only, members = self._classes.popitem()
            self.adopt(members)

    def _part(self) -> None:
        """Leave the level's lists to its only class, because pickers may have them, and copy them for the level."""
        if self._only is not None:
            members = self._classes[self._only] = Ordered()
            members.adopt(self)
            self._only = None
            self.replicas, self._orders, self._held = self.replicas.copy(), self._orders.copy(), self._held.copy()

    def _weights_of(self, replica: Replica) -> Weights:
        return self._unusual.get(replica, self._usual)

    def _join_classes(self, replicas: Iterable[Replica], weights: Mapping[Replica, Weights]) -> None:
        joining: defaultdict[float, list[Replica]] = defaultdict(list)
        usual, counts = self._usual, self.full_weights
        for replica in replicas:
            weight, full = pair = weights[replica]
            if pair != usual:
                self._unusual[replica] = pair
            counts[full] = counts.get(full, 0) + 1
            joining[weight].append(replica)
        if self._only is None:
            for weight, some in joining.items():
                if weight not in self._classes:
                    self._classes[weight] = Ordered()
                self._classes[weight].put(some)

    def _leave_classes(self, replicas: Iterable[Replica]) -> None:
        leaving: defaultdict[float, list[Replica]] = defaultdict(list)
        unusual, usual, counts = self._unusual, self._usual, self.full_weights
        for replica in replicas:
            weight, full = unusual.pop(replica, usual) if unusual else usual
            counts[full] -= 1
            if not counts[full]:
                del counts[full]
            leaving[weight].append(replica)
        if self._only is None:
            for weight, some in leaving.items():
                members = self._classes[weight]
                members.drop(some)
                if not members.replicas:
                    del self._classes[weight]


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

    def place(self, replicas: Iterable[Replica], cooling: Collection[str] = ()) -> None:
        """Add replicas, or take over what has changed of them."""
        lists: dict[int, list[Replica]] = {}
        for replica in replicas:
            lists.setdefault(self._level_of(replica, cooling), []).append(replica)
        for number, members in lists.items():
            self._drop_from(members, (other for other in range(LEVELS) if other != number))
            if self._shares or self._ramping[number]:
                for replica in members:
                    self._note_share(replica, number)
            self._weigh(members, number)

    def drop(self, replicas: Collection[Replica]) -> None:
        """Remove replicas, as far as they are there."""
        self._drop_from(replicas, range(LEVELS))

    def _drop_from(self, replicas: Collection[Replica], numbers: Iterable[int]) -> None:
        for number in numbers:
            level = self.levels[number]
            if level.replicas and (gone := level.drop(replicas)):
                if self._ramping[number]:
                    for replica in gone:
                        self._forget_share(replica, number)
                self._note(number, gone)

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
                self._weigh((replica,), number)
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

    def _weigh(self, replicas: Collection[Replica], number: int) -> None:
        """Give these replicas, of which all are or become members of a level, their weights."""
        full = [(replica, replica.record.endpoint.weight) for replica in replicas]
        if self._ramping[number]:
            weights = {replica: (self._weight_of(replica, number), weight) for replica, weight in full}
        else:
            weights = {replica: (weight, weight) for replica, weight in full}
        self.levels[number].place(weights)
        self._note(number, replicas)

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

    def _note(self, number: int, replicas: Iterable[Replica]) -> None:
        changed = self.changed[number]
        if changed is not None:
            changed.update(replicas)
