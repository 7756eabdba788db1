"""The commands that take slots away: which replicas they change, what that costs, and the question before it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from shared_registry.admin.blast_radius import BlastRadius
from shared_registry.admin.operator import Operator
from shared_registry.admin.replica_changes import Target
from shared_registry.cli.changes import Result, Results, room_text, sessions_text, shown_name
from shared_registry.errors import UnknownReplica, UsageError
from shared_registry.model import LabelSelector


@dataclass(frozen=True, slots=True)
class PlannedChange:
    """The replicas that a command is about to change, and what that costs."""

    targets: list[Target]
    radius: BlastRadius


async def look_up(
    operator: Operator, names: Sequence[str], labels: LabelSelector, *, also_removed: bool = False
) -> list[Target]:
    """Return the replicas that are named, or else those with these labels.

    Raises:
        UsageError: Both are given, or neither.
        UnknownReplica: A replica is not registered, or none has these labels.
    """
    if bool(names) == bool(labels.terms):
        what = "both are" if names else "nothing is"
        raise UsageError(f"TARGET: name replicas or select them by -l; {what} given, nothing was changed")
    if names:
        return await operator.find(names, also_removed=also_removed)
    targets = await operator.select(labels)
    if not targets:
        raise UnknownReplica("no replica has these labels; nothing was changed")
    return targets


def confirm(plan: PlannedChange, verb: str, *, always: bool = False) -> bool:
    """Ask on a terminal before a change after which no session finds a slot; return whether to go on.

    Args:
        plan: The change.
        verb: What is done to the replicas, such as "Drain".
        always: Whether to ask before any change.

    Raises:
        UsageError: There is no terminal to ask on.
    """
    registered = [one for one in plan.targets if one.key in plan.radius.sessions]
    if not plan.radius.leaves_nothing and not (always and (registered or not sys.stdin.isatty())):
        return True
    warning = _warning(plan.radius, verb)
    if not sys.stdin.isatty():
        why = f"{warning}; " if plan.radius.leaves_nothing else ""
        raise UsageError(f"--yes: is required to {verb.lower()} them without a terminal; {why}nothing was changed")
    for one in registered:
        sys.stderr.write(f"{shown_name(one.url, one.name)}{sessions_text(plan.radius.sessions[one.key])}\n")
    sys.stderr.write(f"{warning}\n" if plan.radius.leaves_nothing else f"{room_text(plan.radius.after)}\n")
    what = "this replica" if len(registered) == 1 else f"these {len(registered)} replicas"
    sys.stderr.write(f"{verb} {what}? [y/N] ")  # typer's own question writes to standard output, which is for results
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def would(plan: PlannedChange, outcome: str) -> Results:
    """Return what a change would do, such as `would_drain`, without doing it."""
    each = [Result(one.url, one.name, outcome, plan.radius.sessions.get(one.key)) for one in plan.targets]
    return Results(each, left=plan.radius.after, is_dry_run=True)


def with_cost(plan: PlannedChange, results: Results) -> Results:
    """Return the results of a change together with what it cost; what is left only if nothing failed."""
    pairs = zip(results.each, plan.targets, strict=True)
    each = [replace(one, sessions=plan.radius.sessions.get(target.key)) for one, target in pairs]
    return replace(results, each=each, left=plan.radius.after if results.failure is None else None)


def _warning(radius: BlastRadius, verb: str) -> str:
    left = "no replica that takes sessions" if not radius.after.replicas else "no free slot"
    return f"this would leave {left}, and new sessions wait or are refused; `{verb.lower()} --dry-run` shows it"
