"""A selection policy in one file: replicas in this router's own zone first, in turn; the others when none of them can.

    ZONE=eu-1 SHARED_REGISTRY_POLICY=same_zone ...

Replicas say where they are by a label: `shared-registry add http://127.0.0.1:8000 --label zone=eu-1`. Importing this
module registers the policy. A package that is installed beside needs no import, but an entry point:

    [project.entry-points."shared_registry.policies"]
    same_zone = "same_zone:same_zone"
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from itertools import compress

from shared_registry import Replica
from shared_registry.selection import Members, Picker, PolicyContext, find_policy, register_policy


class LabelFirst:
    """Takes the members that have a label before all others; round robin, by weight, within both."""

    def __init__(self, context: PolicyContext, label: str, value: str) -> None:
        self._label, self._value = label, value
        round_robin = find_policy("round_robin")
        self._pickers = round_robin.make(context), round_robin.make(context)

    def update(self, members: Members) -> None:
        """Choose among these from now on. Called as well when only the labels of a member have changed."""
        has_label = [one.labels.get(self._label) == self._value for one in members.replicas]
        for picker, wanted in zip(self._pickers, (has_label, [not has for has in has_label]), strict=True):
            replicas, weights = compress(members.replicas, wanted), compress(members.weights, wanted)
            picker.update(Members(list(replicas), list(weights)))

    def choose(self, key: str | None) -> Replica | None:
        """Return the replica for the next session."""
        first, others = self._pickers
        return first.choose(key) or others.choose(key)

    def choose_except(self, key: str | None, excluded: Collection[str]) -> Replica | None:
        """Return the replica for the next session, which is none of the excluded."""
        first, others = self._pickers
        return first.choose_except(key, excluded) or others.choose_except(key, excluded)

    def recount(self) -> None:
        """Loads do not matter here."""


def label_first(label: str, value: str) -> Callable[[PolicyContext], Picker]:
    """Return what makes a picker that takes replicas with a label before all others."""
    return lambda context: LabelFirst(context, label, value)


same_zone = label_first("zone", os.environ.get("ZONE", ""))
register_policy("same_zone", same_zone)
