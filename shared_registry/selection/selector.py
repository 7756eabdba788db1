"""Keeps the policies of one router prepared for the replicas that may be selected now."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence

from shared_registry.model import Replica
from shared_registry.selection.later import Later
from shared_registry.selection.levels import Levels, SelectionLevel
from shared_registry.selection.loads import Loads
from shared_registry.selection.members import Chooser, Members, Picker
from shared_registry.selection.policies import Policy, PolicyContext, find_policy


class Selection:
    """Chooses by any policy among levels of replicas, from the first level that has a replica to offer.

    The router's own policy is prepared at every change. Any other policy is too, from its first use on. A policy is
    prepared for a further level only when it is needed, because all replicas of the first level are excluded.

    Attributes:
        loads: The loads that `least_loaded` and a bounded `hash` use.
        later: Work of the policies that is done in pieces.
        choose: The router's own policy, prepared; `None` if that policy takes the first replica of the first level.
    """

    def __init__(
        self, policy: str = "priority", *, rng: random.Random | None = None, hash_max_load: float | None = None
    ) -> None:
        """Set up, without replicas.

        Args:
            policy: The name of the router's own policy.
            rng: Used for the random choices of the policies. With a seed, all choices are repeatable.
            hash_max_load: See `HashRing`.

        Raises:
            UsageError: There is no such policy.
        """
        self.loads = Loads()
        self.later = Later()
        self.choose: Chooser | None = None
        self._context = PolicyContext(rng or random.Random(), self.loads, hash_max_load, self.later)
        self._policy = policy
        self._policies: dict[str, Policy] = {policy: find_policy(policy)}
        self._used: set[str] = set()
        self._pickers: dict[tuple[str, int], Picker] = {}
        self._changed: dict[tuple[str, int], set[Replica] | None] = {}
        self._levels: Sequence[SelectionLevel] = Levels().levels
        self._is_spread = False
        self._is_withheld = False

    def prepare(self, levels: Levels, *, is_spread: bool = False, is_withheld: bool = False) -> None:
        """Choose among these replicas from now on.

        Args:
            levels: All selectable replicas. Their changes since the last call are taken over, and taken off.
            is_spread: Whether to spread sessions also if the policy is `priority`.
            is_withheld: Whether to choose none of them. The policies stay prepared.
        """
        is_same, self._levels = levels.levels is self._levels, levels.levels
        self._is_spread, self._is_withheld = is_spread, is_withheld
        changed = levels.take_changes()
        for at in self._pickers:
            self._note(at, changed[at[1]] if is_same else None)
        own_policy = self._named(None)
        needed = self._used if own_policy == "priority" else self._used | {own_policy}
        level = self._first_level() if needed else 0
        for policy in needed:
            self._picker(policy, level)
        self.choose = None if own_policy == "priority" else self._picker(own_policy, level).choose
        if is_withheld and self.choose is not None:
            self.choose = _choose_none

    def _note(self, at: tuple[str, int], changed: set[Replica] | None) -> None:
        """Note the changes of a picker's level that the picker has to take over before its next choice."""
        if changed is None or self._changed.get(at, ()) is None:
            self._changed[at] = None
        elif changed:
            self._changed[at] = changed | (self._changed.get(at) or set())

    def select(self, policy: str | None, key: str | None, excluded: Collection[str]) -> Replica | None:
        """Return the replica for the next session.

        Args:
            policy: The name of the policy; `None` for the router's own.
            key: The key for the policy `hash`.
            excluded: Canonical urls of replicas that are not to be returned.

        Raises:
            UsageError: There is no such policy.
        """
        named = self._named(policy)
        self._policy_named(named)
        if named != "priority":
            self._used.add(named)
        if self._is_withheld:
            return None
        for number, level in enumerate(self._levels):
            if level.replicas:
                picker = self._picker(named, number)
                replica = picker.choose_except(key, excluded) if excluded else picker.choose(key)
                if replica is not None:
                    return replica
        return None

    @property
    def uses_loads(self) -> bool:
        """Whether the router's own policy uses the loads."""
        return self._policies[self._policy].needs_loads(self._context)

    def begin_read(self) -> None:
        """Begin to read the loads; see `Loads.begin_read`."""
        self.loads.begin_read()

    def update(self, in_flight: Mapping[str, int]) -> None:
        """Take over the loads that were read, by canonical url."""
        self.loads.update(in_flight)
        for picker in self._pickers.values():
            picker.recount()

    def _named(self, policy: str | None) -> str:
        """Return the name of the policy to use. In panic `round_robin` replaces `priority`.

        The first replica in order may have been dead for long.
        """
        policy = policy or self._policy
        return "round_robin" if policy == "priority" and self._is_spread else policy

    def _policy_named(self, name: str) -> Policy:
        policy = self._policies.get(name)
        if policy is None:
            policy = self._policies[name] = find_policy(name)
        return policy

    def _picker(self, policy: str, level: int) -> Picker:
        at = policy, level
        picker = self._pickers.get(at)
        if picker is None:
            picker = self._pickers[at] = self._policy_named(policy).make(self._context)
            self._changed[at] = None
        if at in self._changed:
            picker.update(Members(level=self._levels[level], changed=self._changed.pop(at)))
        return picker

    def _first_level(self) -> int:
        return next((number for number, level in enumerate(self._levels) if level.replicas), 0)


def _choose_none(_: str | None) -> None:
    """Choose none, because the view is withheld."""
