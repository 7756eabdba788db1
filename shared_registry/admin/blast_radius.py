"""What a change of some replicas would cost: the sessions on them, and what could still take sessions. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from shared_registry.model import ReplicaRecord


@dataclass(frozen=True, slots=True)
class Room:
    """What takes new sessions.

    Attributes:
        replicas: How many replicas do: healthy, active and not ejected.
        free_slots: How many sessions they can take; `None` if one of them has no limit.
    """

    replicas: int
    free_slots: int | None

    @property
    def is_none(self) -> bool:
        """Whether no session finds a slot."""
        return self.free_slots == 0


@dataclass(frozen=True, slots=True)
class BlastRadius:
    """What a change would cost that lets some replicas take no new sessions.

    Attributes:
        sessions: The sessions on each of these replicas, by its canonical url; without replicas that are not
            registered.
        before: What takes new sessions now.
        after: What would take new sessions then.
    """

    sessions: Mapping[str, int]
    before: Room
    after: Room

    @property
    def leaves_nothing(self) -> bool:
        """Whether new sessions find a slot now, and would find none then."""
        return self.after.is_none and not self.before.is_none


def blast_radius(records: Iterable[ReplicaRecord], changed: Collection[str]) -> BlastRadius:
    """Return what it would cost if these replicas, by their canonical urls, took no new sessions."""
    known = list(records)
    sessions = {one.key: one.in_flight for one in known if one.key in changed}
    return BlastRadius(sessions, _room(known), _room(one for one in known if one.key not in changed))


def _room(records: Iterable[ReplicaRecord]) -> Room:
    taking = [one for one in records if one.is_selectable]
    if any(not one.endpoint.capacity for one in taking):
        return Room(len(taking), None)
    return Room(len(taking), sum(max(one.endpoint.capacity - one.in_flight, 0) for one in taking))
