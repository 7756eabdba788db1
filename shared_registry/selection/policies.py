"""The policies by name. A policy is one file: a class that picks, and the line that registers it here."""

from __future__ import annotations

import difflib
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import entry_points

from shared_registry.errors import UsageError
from shared_registry.selection.loads import Loads
from shared_registry.selection.members import Picker

ENTRY_POINTS = "shared_registry.policies"
"""The group of entry points in which installed packages offer policies: the name, and what makes a picker."""
NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True, slots=True)
class PolicyContext:
    """What a policy may go by besides the replicas and the key.

    Attributes:
        rng: For what it leaves to chance; seeded, all choices repeat.
        loads: The sessions on each replica, current only for a policy that says that it needs them.
        hash_max_load: The setting of that name.
    """

    rng: random.Random = field(default_factory=random.Random)
    loads: Loads = field(default_factory=Loads)
    hash_max_load: float | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """One way to choose.

    Attributes:
        make: Makes a picker for one tier of replicas of one router.
        needs_loads: Whether the loads are to be read for it.
    """

    name: str
    make: Callable[[PolicyContext], Picker]
    needs_loads: Callable[[PolicyContext], bool]


_policies: dict[str, Policy] = {}


def register_policy(
    name: str,
    make: Callable[[PolicyContext], Picker],
    *,
    needs_loads: bool | Callable[[PolicyContext], bool] = False,
) -> None:
    """Make a policy known by a name, before the configuration or a call names it.

    Args:
        name: Lower-case letters, digits and underscores.
        make: Returns a new picker; called once for each tier and router.
        needs_loads: Whether `context.loads` are to be read every `refresh_seconds`; or what tells, from the settings.

    Raises:
        UsageError: The name cannot be used, or another policy has it.
    """
    if not NAME.fullmatch(name):
        raise UsageError(f"policy: {name!r} must be lower-case letters, digits and '_', at most 64")
    if name in _policies and _policies[name].make is not make:
        raise UsageError(f"policy: {name!r} is registered already; choose another name")
    needs = needs_loads if callable(needs_loads) else (lambda _, answer=bool(needs_loads): answer)
    _policies[name] = Policy(name, make, needs)


def policy_names() -> list[str]:
    """Return the names of all policies that are registered, sorted."""
    return sorted(_policies)


def find_policy(name: str) -> Policy:
    """Return the policy of that name; one that an installed package offers is registered then.

    Raises:
        UsageError: There is none. The text names the nearest.
    """
    if name not in _policies:
        for point in entry_points(group=ENTRY_POINTS, name=name):
            register_policy(name, point.load())
    if name in _policies:
        return _policies[name]
    near = difflib.get_close_matches(name, _policies, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise UsageError(f"policy: {name!r} is not among {', '.join(policy_names())}{hint}")
