"""The members that a policy chooses among, and the interface of every policy."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from shared_registry.model import Replica
from shared_registry.selection.levels import SelectionLevel

Chooser = Callable[[str | None], Replica | None]


class Members:
    """The replicas to choose among, with their weights.

    The lists are made when they are asked for. A policy that uses only `classes`, `changed` and `weight_of` takes over
    one change among ten thousand members in microseconds.

    Attributes:
        changed: The replicas that came, left or changed since the last update of this picker; `None` if all may have.
    """

    __slots__ = ("_level", "changed")

    def __init__(
        self,
        replicas: Sequence[Replica] = (),
        weights: Sequence[float] = (),
        full_weights: Sequence[float] = (),
        *,
        level: SelectionLevel | None = None,
        changed: Collection[Replica] | None = None,
    ) -> None:
        """Set up.

        Args:
            replicas: The replicas.
            weights: The present weight of each replica.
            full_weights: The weight of each replica after its ramp; empty if these are the present weights.
            level: The level that has the members, instead of these lists.
            changed: See the attribute.
        """
        if level is None:
            level = SelectionLevel()
            level.fill(replicas, weights, full_weights or weights)
        self._level = level
        self.changed = changed

    @property
    def replicas(self) -> Sequence[Replica]:
        """The replicas, in order."""
        return self._level.copy()

    @property
    def weights(self) -> Sequence[float]:
        """The present weight of each replica."""
        return self._level.weights()

    @property
    def full_weights(self) -> Sequence[float]:
        """The weight of each replica after its ramp."""
        return self._level.weights(full=True)

    @property
    def classes(self) -> Mapping[float, Sequence[Replica]]:
        """The replicas of each weight. These lists change before each update of the picker, and only then."""
        return self._level.classes

    @property
    def full_weight_counts(self) -> Mapping[float, int]:
        """How many replicas have each weight after their ramps."""
        return self._level.full_weights

    def weight_of(self, replica: Replica) -> float | None:
        """Return the present weight of a replica; `None` if it is not a member."""
        return self._level.weight_of(replica)


class Picker(Protocol):
    """One policy, prepared for the members of one level of replicas."""

    def update(self, members: Members) -> None:
        """Choose among these members from now on. The policy keeps its state of members that stay, where it can."""

    def choose(self, key: str | None) -> Replica | None:
        """Return the replica for the next session; `None` only if there are no members."""

    def choose_except(self, key: str | None, excluded: Collection[str]) -> Replica | None:
        """Return the replica for the next session whose canonical url is not excluded; `None` if there is none."""

    def recount(self) -> None:
        """Receive the notice that the loads were read anew."""
