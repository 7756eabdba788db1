"""Replicas as callers name them: several at once, and by names that they had."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from shared_registry.errors import UsageError
from shared_registry.model import Replica

T = TypeVar("T")
FORMER_AT_MOST = 1000


def each_of(targets: Iterable[T]) -> Iterable[T]:
    """Return the items of an argument that names several replicas.

    Raises:
        UsageError: It is one text, whose letters nobody means.
    """
    if isinstance(targets, str | bytes):
        raise UsageError(f"several replicas are given by a list, got {targets!r}; write [{targets!r}] for one")
    return targets


class FormerNames:
    """The names that replicas had before they were removed or renamed. The latest are remembered."""

    def __init__(self) -> None:
        self._keys: dict[str, str] = {}

    def note(self, replica: Replica) -> None:
        """Remember the present name of a replica that is about to lose it."""
        if replica.name:
            self._keys.pop(replica.name, None)
            self._keys[replica.name] = replica.key
            if len(self._keys) > FORMER_AT_MOST:
                del self._keys[next(iter(self._keys))]

    def key_of(self, target: object) -> str | None:
        """Return the canonical url of the replica that had this name last; `None` if no replica had it."""
        return self._keys.get(target) if isinstance(target, str) else None
