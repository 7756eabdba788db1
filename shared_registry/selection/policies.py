"""Registers policies by name. A policy is one file: a class that picks, and a call of `register_policy`."""

from __future__ import annotations

import difflib
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from shared_registry.errors import UsageError
from shared_registry.selection.later import Later
from shared_registry.selection.loads import Loads
from shared_registry.selection.members import Picker

ENTRY_POINTS = "shared_registry.policies"
"""The group of entry points in which installed packages offer policies.

The name of an entry point is the policy's name, and the entry point is the function that makes a picker.
"""
NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True, slots=True)
class PolicyContext:
    """The data that a policy may use in addition to the replicas and the key.

    Attributes:
        rng: Used for random choices. With a seed, all choices are repeatable.
        loads: The sessions on each replica. They are current only for a policy that is registered with `needs_loads`.
        hash_max_load: The setting of that name.
        later: Does in pieces what would keep the event loop waiting in `Picker.update`.
    """

    rng: random.Random = field(default_factory=random.Random)
    loads: Loads = field(default_factory=Loads)
    hash_max_load: float | None = None
    later: Later = field(default_factory=Later)


@dataclass(frozen=True, slots=True)
class Policy:
    """One registered policy.

    Attributes:
        name: The name of the policy in the configuration and in calls.
        make: Makes a picker for one tier of replicas of one router.
        needs_loads: Returns whether the loads must be read for the policy.
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
    """Register a policy under a name. Call this before the configuration or a call uses the name.

    Args:
        name: Lower-case letters, digits and underscores.
        make: Returns a new picker. It is called once for each tier and router.
        needs_loads: Whether `context.loads` must be read periodically; or a function that returns that for
            the settings in a context.

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
    """Return the policy of that name. A policy that an installed package offers is registered at its first use.

    Raises:
        UsageError: There is no such policy. The message suggests the nearest name.
    """
    if name not in _policies:
        from importlib.metadata import entry_points  # noqa: PLC0415  it takes 2 MB, and few have policies of their own

        for point in entry_points(group=ENTRY_POINTS, name=name):
            register_policy(name, point.load())
    if name in _policies:
        return _policies[name]
    near = difflib.get_close_matches(name, _policies, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise UsageError(f"policy: {name!r} is not among {', '.join(policy_names())}{hint}")
