"""The members that a policy chooses among, and the interface of every policy."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple, Protocol

from shared_registry.model import Replica

Chooser = Callable[[str | None], Replica | None]


class Members(NamedTuple):
    """The replicas to choose among, with their weights.

    These are separate lists and not one list of tuples, because ten thousand tuples at every change would keep the
    garbage collector busy.

    Attributes:
        replicas: The replicas.
        weights: The present weight of each replica.
        full_weights: The weight of each replica after its ramp; empty if these are the present weights.
    """

    replicas: Sequence[Replica] = ()
    weights: Sequence[float] = ()
    full_weights: Sequence[float] = ()


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
