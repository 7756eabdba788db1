"""What a session has tried before it asks for a slot again."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from shared_registry.leases.lease import Lease
from shared_registry.model import Replica
from shared_registry.selection.targets import each_of
from shared_registry.selection.view import View

MOST_SPARES = 2
"""How many replicas that are not healthy one session tries, so that dead ones cannot take up its time."""


@dataclass(frozen=True, slots=True)
class Attempts:
    """The attempts of one session.

    Attributes:
        excluded: Canonical urls of the replicas that it must not get again.
        may_try_spare: Whether the session may still try a replica that is not healthy.
        sequence: The sequence in the queue that the session had, or would have had; empty if none.
    """

    excluded: Collection[str] = ()
    may_try_spare: bool = True
    sequence: str = ""


NO_ATTEMPTS = Attempts()


def attempts_of(
    exclude: Collection[Replica | str | Lease], view: View, *, again_after: Collection[Lease] = ()
) -> Attempts:
    """Return the attempts that the arguments `exclude` and `again_after` of `acquire()` name.

    A lease says whether its replica was healthy then. Of a replica that is named otherwise, its present state counts.

    Raises:
        ConfigError: A url is not valid.
        UsageError: It is one text, or has something else than leases, handles and texts.
        UnknownReplica: A url or name belongs to no replica that the view shows or has shown.
    """
    exclude, again_after = tuple(each_of(exclude)), tuple(again_after)
    leases = [one for one in exclude if isinstance(one, Lease)]
    named = view.known_keys_of(one for one in exclude if not isinstance(one, Lease))
    tried = {lease.replica.key for lease in leases}
    spares = {lease.replica.key for lease in leases if lease.is_spare}
    for key in named - tried:
        replica = view.get(key)
        if replica is not None and (not replica.is_healthy or replica.is_ejected):
            spares.add(key)
    sequences = [int(lease.sequence) for lease in (*leases, *again_after) if lease.sequence]
    return Attempts(named | tried, len(spares) < MOST_SPARES, str(min(sequences)) if sequences else "")
