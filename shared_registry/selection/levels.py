"""The levels of replicas that policies choose among, kept in order by small steps.

A change of one replica moves that one only: it costs a search, and a copy within a flat list.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from shared_registry.model import Replica

LEVELS = 4
"""Primaries, others, primaries in a cooldown, and others in a cooldown."""
Position = tuple[int, str]


def position_of(replica: Replica) -> Position:
    """Return where a replica stands in any list of replicas."""
    return replica.record.endpoint.order or 0, replica.key


class Ordered:
    """Replicas in order. A replica keeps its position, whatever its record says, until it is put again.

    Attributes:
        replicas: The replicas. The list changes with the set; nobody else may change it.
    """

    def __init__(self) -> None:
        self.replicas: list[Replica] = []
        self._positions: dict[Replica, Position] = {}
        self._copy: tuple[Replica, ...] | None = ()

    def __contains__(self, replica: Replica) -> bool:
        return replica in self._positions

    def copy(self) -> tuple[Replica, ...]:
        """Return the replicas, as they are now."""
        if self._copy is None:
            self._copy = tuple(self.replicas)
        return self._copy

    def replace(self, replicas: Iterable[Replica]) -> None:
        """Have exactly these replicas."""
        self._positions = {replica: position_of(replica) for replica in replicas}
        self.replicas = sorted(self._positions, key=self._positions.__getitem__)
        self._copy = None

    def put(self, replica: Replica) -> None:
        """Add a replica, or move it to where it stands now."""
        position = position_of(replica)
        if self._positions.get(replica) != position:
            self.drop(replica)
            self._positions[replica] = position
            insort(self.replicas, replica, key=self._positions.__getitem__)
            self._copy = None

    def drop(self, replica: Replica) -> None:
        """Remove a replica, if it is there."""
        if replica in self._positions:
            drop_from(self.replicas, replica, self._positions.__getitem__)
            del self._positions[replica]
            self._copy = None


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
        self._weights: dict[Replica, tuple[float, float]] = {}

    def fill(self, replicas: Sequence[Replica], weights: Iterable[float], full_weights: Iterable[float]) -> None:
        """Have exactly these replicas, which are given in order."""
        self._positions = {replica: position_of(replica) for replica in replicas}
        self.replicas = list(replicas)
        self._copy = None
        self._weights = dict(zip(replicas, zip(weights, full_weights, strict=True), strict=True))
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

    def place(self, replica: Replica, weight: float) -> None:
        """Add a replica that does not ramp up, or change its weight or position."""
        if self._weights.get(replica) == (weight, weight) and self._positions[replica] == position_of(replica):
            return
        self.drop(replica)
        self.put(replica)
        self._weights[replica] = weight, weight
        insort(self.classes.setdefault(weight, []), replica, key=self._positions.__getitem__)
        self.full_weights[weight] = self.full_weights.get(weight, 0) + 1

    def drop(self, replica: Replica) -> None:
        """Remove a replica, if it is there."""
        if replica not in self._weights:
            return
        weight, full = self._weights.pop(replica)
        members = self.classes[weight]
        drop_from(members, replica, self._positions.__getitem__)
        if not members:
            del self.classes[weight]
        self.full_weights[full] -= 1
        if not self.full_weights[full]:
            del self.full_weights[full]
        super().drop(replica)


class Levels:
    """All levels of one view.

    Attributes:
        levels: The replicas of each level.
        changed: The replicas of each level that came, left or changed since `take_changes`; `None` if all may have.
    """

    def __init__(self) -> None:
        self.levels = [SelectionLevel() for _ in range(LEVELS)]
        self.changed: list[set[Replica] | None] = [None] * LEVELS
        self._at: dict[Replica, int] = {}

    def __len__(self) -> int:
        return len(self._at)

    def __iter__(self) -> Iterator[Replica]:
        for level in self.levels:
            yield from level.replicas

    @property
    def first(self) -> Replica | None:
        """The first replica of the first level that has any."""
        return next((level.replicas[0] for level in self.levels if level.replicas), None)

    def fill(
        self,
        replicas: Iterable[Replica],
        cooling: Collection[str] = (),
        shares: Mapping[str, float] | None = None,
        *,
        is_spread: bool = False,
    ) -> None:
        """Have exactly these replicas, which are given in order.

        Args:
            replicas: The replicas.
            cooling: Canonical urls of replicas in a cooldown.
            shares: The part of its weight that a replica has now, by canonical url, for replicas that ramp up.
            is_spread: Whether primaries and others are one level.
        """
        lists: list[list[Replica]] = [[] for _ in range(LEVELS)]
        for replica in replicas:
            lists[_level_of(replica, cooling, is_spread=is_spread)].append(replica)
        for level, members in zip(self.levels, lists, strict=True):
            full = [replica.record.endpoint.weight for replica in members]
            level.fill(members, _shared(members, full, shares) if shares else full, full)
        self._at = {replica: number for number, members in enumerate(lists) for replica in members}
        self.changed = [None] * LEVELS

    def place(self, replica: Replica, cooling: Collection[str] = ()) -> None:
        """Add a replica that does not ramp up, or take over what has changed of it."""
        number = _level_of(replica, cooling, is_spread=False)
        if self._at.get(replica, number) != number:
            self.drop(replica)
        self._at[replica] = number
        self.levels[number].place(replica, replica.record.endpoint.weight)
        self._note(number, replica)

    def drop(self, replica: Replica) -> None:
        """Remove a replica, if it is there."""
        number = self._at.pop(replica, None)
        if number is not None:
            self.levels[number].drop(replica)
            self._note(number, replica)

    def take_changes(self) -> list[set[Replica] | None]:
        """Return the changes of each level, and begin to collect anew."""
        changed, self.changed = self.changed, [set() for _ in range(LEVELS)]
        return changed

    def _note(self, number: int, replica: Replica) -> None:
        changed = self.changed[number]
        if changed is not None:
            changed.add(replica)


def drop_from(replicas: list[Replica], replica: Replica, position: Callable[[Replica], Position]) -> None:
    """Remove a replica from a list that is in the order of these positions."""
    del replicas[bisect_left(replicas, position(replica), key=position)]


def _level_of(replica: Replica, cooling: Collection[str], *, is_spread: bool) -> int:
    level = 0 if is_spread or replica.record.endpoint.primary else 1
    return level + 2 if replica.record.key in cooling else level


def _shared(replicas: Sequence[Replica], weights: Sequence[float], shares: Mapping[str, float]) -> list[float]:
    """Return the present weights. If all of the replicas ramp up together, the result is as without ramps."""
    parts = [shares.get(replica.record.key, 1.0) for replica in replicas]
    most = max(parts, default=1.0)
    return [weight * part / most for weight, part in zip(weights, parts, strict=True)]
