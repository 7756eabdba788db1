"""What operators did in a simulation, and what must be left of it at the end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from shared_registry.model import AdminState, ReplicaRecord
from tests.support.simulation.faults import Kind
from tests.support.simulation.router import SimulatedRouter


@dataclass(eq=False, slots=True)
class Change:
    """One change by an operator.

    Attributes:
        kind: What was changed.
        url: Of which replica: its url, or the name of a pod; of a removed pod the instance.
        capacity: The capacity that it got.
        begun: When it was begun.
        at: When it was acknowledged; `None` while it is not known whether it was made.
        carriers: After a loss, the routers that showed it then; one of them must live on. `None` without a loss.
        is_lost: It may be lost, for a reason that the guarantees name.
    """

    kind: Kind
    url: str
    capacity: int = 0
    begun: float = 0.0
    at: float | None = None
    carriers: list[SimulatedRouter] | None = None
    is_lost: bool = False

    def is_shown(self, record: ReplicaRecord | None) -> bool:
        """Return whether a replica is as this change left it."""
        if self.kind is Kind.REMOVE:
            return record is None
        if record is None:
            return False
        if self.kind is Kind.ADD:
            return record.endpoint.capacity == self.capacity
        return record.admin is (AdminState.DRAINING if self.kind is Kind.DRAIN else AdminState.ACTIVE)


@dataclass
class Operators:
    """All changes, in the order in which they were begun.

    Attributes:
        changes: The changes.
        find: Returns what a router shows of the replica that a change names.
    """

    find: Callable[[SimulatedRouter, str], ReplicaRecord | None]
    changes: list[Change] = field(default_factory=list)

    def begin(self, change: Change) -> Change:
        self.changes.append(change)
        return change

    def lose_all(self, routers: Iterable[SimulatedRouter]) -> None:
        """Note that Redis lost all its data, while these routers live."""
        alive = [router for router in routers if router.is_started and not router.is_over]
        for change in self.changes:
            shows = [router for router in alive if change.is_shown(self.find(router, change.url))]
            change.carriers = shows if change.carriers is None else [one for one in change.carriers if one in shows]

    def lose_since(self, at: float, kept: dict[str, ReplicaRecord]) -> None:
        """Note that Redis lost what was written since, and has these replicas left.

        A change that all data was lost of before may have been brought back only since.
        """
        for change in self.changes:
            was_lost_before = change.carriers is not None and not change.is_shown(kept.get(change.url))
            if change.at is None or change.at >= at or was_lost_before:
                change.is_lost = True

    def give_up(self, url: str) -> None:
        """Expect nothing of what was changed of a replica so far."""
        for change in self.changes:
            change.is_lost |= change.url == url

    def missing(
        self, records: dict[str, ReplicaRecord], alive: Collection[SimulatedRouter], away: Collection[str]
    ) -> list[str]:
        """Return what should be left and is not.

        Args:
            records: The replicas that there are, by what changes call them.
            alive: The routers that live.
            away: Replicas of which nothing need be left.
        """
        found = []
        for url in {change.url: None for change in self.changes if change.url not in away}:
            for kinds in ((Kind.ADD, Kind.REMOVE), (Kind.DRAIN, Kind.ENABLE)):
                change = self._last(url, kinds)
                if change is not None and is_sure(change, alive) and not change.is_shown(records.get(url)):
                    found.append(f"{url}: {change.kind.name.lower()} of {change.at:.2f} s is gone: {records.get(url)}")
        return found

    def _last(self, url: str, kinds: tuple[Kind, Kind]) -> Change | None:
        """Return the last change of these kinds that nothing after it can have undone."""
        own = [change for change in self.changes if change.url == url]
        if any(change.at is None or change.is_lost for change in own):
            return None
        of_kind = [change for change in own if change.kind in kinds]
        if not of_kind:
            return None
        last = of_kind[-1]
        if any((one.at or 0.0) >= last.begun for one in of_kind[:-1]):
            return None  # they were made at the same time, so either may have been the last one
        later = own[own.index(last) + 1 :]
        if last.kind in (Kind.DRAIN, Kind.ENABLE) and any(one.kind in (Kind.ADD, Kind.REMOVE) for one in later):
            return None
        return last


def is_sure(change: Change, alive: Collection[SimulatedRouter]) -> bool:
    """Return whether a change was made and is not lost, while these routers live."""
    if change.at is None or change.is_lost:
        return False
    return change.carriers is None or any(one in alive for one in change.carriers)
