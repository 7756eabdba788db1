"""The default policy, the one of FastVideo's registry: the first healthy primary, or else the first healthy other."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from shared_registry.model import Replica
from shared_registry.selection.members import Members
from shared_registry.selection.policies import register_policy


class Priority:
    """Always chooses the first member."""

    def __init__(self) -> None:
        self._replicas: Sequence[Replica] = ()

    def update(self, members: Members) -> None:
        """Choose among these members from now on."""
        self._replicas = members.replicas

    def choose(self, key: str | None) -> Replica | None:  # noqa: ARG002
        """Return the first member."""
        return self._replicas[0] if self._replicas else None

    def choose_except(self, key: str | None, excluded: Collection[str]) -> Replica | None:  # noqa: ARG002
        """Return the first member that is not excluded."""
        return next((replica for replica in self._replicas if replica.key not in excluded), None)

    def recount(self) -> None:
        """Do nothing: this policy does not use loads."""


register_policy("priority", lambda _: Priority())
