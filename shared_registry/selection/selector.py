"""Keeps the policies of one router prepared for the replicas that may be selected now."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence

from shared_registry.model import Replica
from shared_registry.selection.loads import Loads
from shared_registry.selection.members import Chooser, Members, Picker
from shared_registry.selection.policies import Policy, PolicyContext, find_policy


class Selection:
    """Chooses by any policy among levels of replicas, from the first level that has a replica to offer.

    The router's own policy is prepared at every change. Any other policy is too, from its first use on. A policy is
    prepared for a further level only when it is needed, because all replicas of the first level are excluded.

    Attributes:
        loads: The loads that `least_loaded` and a bounded `hash` use.
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
        self.choose: Chooser | None = None
        self._context = PolicyContext(rng or random.Random(), self.loads, hash_max_load)
        self._policy = policy
        self._policies: dict[str, Policy] = {policy: find_policy(policy)}
        self._used: set[str] = set()
        self._pickers: dict[tuple[str, int], Picker] = {}
        self._outdated: set[tuple[str, int]] = set()
        self._preference: Sequence[Replica] = ()
        self._cooling: Collection[str] = ()
        self._shares: Mapping[str, float] = {}
        self._levels: list[Members] | None = None
        self._is_spread = False

    def prepare(
        self,
        preference: Sequence[Replica],
        *,
        cooling: Collection[str] = (),
        shares: Mapping[str, float] | None = None,
        is_spread: bool = False,
    ) -> None:
        """Choose among these replicas from now on.

        Args:
            preference: All selectable replicas, best first.
            cooling: Canonical urls of the replicas in a cooldown, which come last.
            shares: The part of its weight that a replica has now, by canonical url, for replicas that ramp up.
            is_spread: Whether to treat primaries and other replicas alike, and to spread sessions also if the policy is
                `priority`.
        """
        self._preference, self._cooling, self._shares = preference, cooling, shares or {}
        self._is_spread = is_spread
        self._levels = None
        self._outdated.update(self._pickers)
        own_policy = self._named(None)
        needed = self._used if own_policy == "priority" else self._used | {own_policy}
        level = self._first_level() if needed else 0
        for policy in needed:
            self._picker(policy, level)
        self.choose = None if own_policy == "priority" else self._picker(own_policy, level).choose

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
        for number, members in enumerate(self._all_levels()):
            if members.replicas:
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
            self._outdated.add(at)
        if at in self._outdated:
            self._outdated.discard(at)
            levels = self._all_levels()
            picker.update(levels[level] if level < len(levels) else Members())
        return picker

    def _first_level(self) -> int:
        return next((number for number, members in enumerate(self._all_levels()) if members.replicas), 0)

    def _all_levels(self) -> list[Members]:
        """Return the levels: primaries, others, primaries in a cooldown, and others in a cooldown.

        In panic primaries and others are one level, and so are those in a cooldown.
        """
        if self._levels is None:
            levels: tuple[list[Replica], ...] = ([], [], [], [])
            cooling, is_spread = self._cooling, self._is_spread
            if not cooling and not is_spread:
                first = next((at for at, one in enumerate(self._preference) if not one.record.endpoint.primary), None)
                levels = (list(self._preference[:first]), [] if first is None else list(self._preference[first:]))
            else:
                for replica in self._preference:
                    level = 0 if is_spread or replica.record.endpoint.primary else 1
                    levels[level + 2 if replica.record.key in cooling else level].append(replica)
            self._levels = [self._members(replicas) for replicas in levels]
        return self._levels

    def _members(self, replicas: Sequence[Replica]) -> Members:
        weights = [replica.record.endpoint.weight for replica in replicas]
        shares = self._shares
        if not shares:
            return Members(replicas, weights)
        parts = [shares.get(replica.record.key, 1.0) for replica in replicas]
        most = max(parts, default=1.0)  # if all replicas ramp up together, the result is as without ramps
        return Members(
            replicas, [weight * part / most for weight, part in zip(weights, parts, strict=True)], full_weights=weights
        )
