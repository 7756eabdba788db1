"""What a policy chooses among, and what every policy offers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple, Protocol

from shared_registry.model import Replica

Chooser = Callable[[str | None], Replica | None]


class Members(NamedTuple):
    """Replicas to choose among, and the weight that each has now, and once it has ramped up (empty: the same).

    Two lists rather than one of pairs: ten thousand pairs at every change would keep the garbage collector busy.
    """

    replicas: Sequence[Replica] = ()
    weights: Sequence[float] = ()
    full_weights: Sequence[float] = ()


class Picker(Protocol):
    """One policy, prepared for the members of one level."""

    def update(self, members: Members) -> None:
        """Choose among these from now on; what the policy remembers of those that stay is kept where it can be."""

    def choose(self, key: str | None) -> Replica | None:
        """Return the replica for the next session; `None` only without members."""

    def choose_except(self, key: str | None, excluded: Collection[str]) -> Replica | None:
        """Return the replica for the next session whose canonical url is not excluded; `None` where there is none."""

    def recount(self) -> None:
        """Take note that the loads were read anew."""
