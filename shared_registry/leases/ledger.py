"""What this router holds, and what it is about to take or give back. Pure state; Redis is compared with it."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from shared_registry.leases.lease import Lease


def new_lease_id(session: str | None) -> str:
    """Return a random id; one for a named session ends with the digest of its name, which itself is kept nowhere."""
    random = secrets.token_hex(16)
    if session is None:
        return random
    return f"{random}:{hashlib.sha256(session.encode(errors='surrogatepass')).hexdigest()}"


@dataclass(slots=True)
class SlotRequest:
    """One session that asks for a slot.

    Attributes:
        lease_id: By which it asks again.
        avoided: Canonical urls taken only where there is nothing else.
        excluded: Canonical urls never taken, unless after waiting in the queue.
        closings: How often the registry had been stopped when it asked first.
        session: The name that the caller gave, if any.
        sequence: Of its place in the queue, once it has one.
        is_in_doubt: It was asked for, and the answer has not come.
    """

    lease_id: str
    avoided: Collection[str]
    excluded: Collection[str]
    closings: int
    session: str | None = None
    sequence: str = ""
    is_in_doubt: bool = False


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment to compare from: how many leases were held, and in motion, and how many moves had begun by then."""

    held: int
    moving: int
    acquires: int
    releases: int


class Ledger:
    """Every lease id of this router is in one of these states, or unknown.

    acquiring   asked for; whether Redis has it is not known yet
    held        ours; Redis has it too, unless it is unconfirmed
    ending      given back, or given up; Redis may still have it

    Attributes:
        acquires: How many ids were ever asked for.
        held: By id.
        unconfirmed: Ids of held leases that Redis did not have when we last heard of them.
        unrecorded: Those among them that are to be put back before anything new is asked for.
        kept: Ids that have ended here, while Redis counts them on: canonical url by id. Their slots are this router's.
    """

    def __init__(self) -> None:
        self.held: dict[str, Lease] = {}
        self.unconfirmed: set[str] = set()
        self.unrecorded: set[str] = set()
        self.kept: dict[str, str] = {}
        self._acquiring: set[str] = set()
        self._ending: set[str] = set()
        self._being_told: set[str] = set()
        self.acquires = 0
        self._releases = 0

    @property
    def ending(self) -> list[str]:
        """Ids whose end Redis may not have heard of, and of which nobody is telling it."""
        return list(self._ending - self._being_told)

    def knows(self, lease_id: str) -> bool:
        """Whether it has a state: what Redis has of another id is nobody's."""
        return lease_id in self.held or lease_id in self._acquiring or lease_id in self._ending

    def is_asked(self, lease_id: str) -> bool:
        """Whether it was asked for, and is neither held nor given up."""
        return lease_id in self._acquiring

    def ask(self, lease_id: str) -> None:
        """An id is asked for, perhaps again."""
        if lease_id not in self._acquiring:
            self._acquiring.add(lease_id)
            self.acquires += 1

    def hold(self, lease: Lease) -> None:
        """What was asked for is ours."""
        self._acquiring.discard(lease.id)
        self.held[lease.id] = lease
        if lease.is_degraded:
            self.unconfirmed.add(lease.id)
            self.unrecorded.add(lease.id)

    def drop(self, lease_id: str) -> None:
        """What was asked for was denied."""
        self._acquiring.discard(lease_id)

    def give_up(self, lease_id: str) -> None:
        """What was asked for is not wanted any more, and Redis may have granted it."""
        self._acquiring.discard(lease_id)
        self._ending.add(lease_id)

    def begin_end(self, lease_id: str) -> bool:
        """A held lease is given back, and Redis is being told; return whether it was held."""
        if self.held.pop(lease_id, None) is None:
            return False
        self.unconfirmed.discard(lease_id)
        self.unrecorded.discard(lease_id)
        self._ending.add(lease_id)
        self._being_told.add(lease_id)
        self._releases += 1
        return True

    def keep(self, lease_id: str, key: str) -> None:
        """Redis did not hear of the end of one that it has on this replica."""
        if lease_id in self._ending:
            self.kept[lease_id] = key

    def fail_to_end(self, lease_id: str) -> None:
        """Redis could not be told of the end, or did not answer; it is still to be told."""
        self._being_told.discard(lease_id)

    def end(self, lease_id: str) -> None:
        """Redis has heard of the end."""
        self._ending.discard(lease_id)
        self._being_told.discard(lease_id)
        self.kept.pop(lease_id, None)

    def confirm(self, lease_ids: Iterable[str], *, not_there: Iterable[str]) -> None:
        """Redis has these leases now, but for those on replicas that it does not know."""
        unknown = set(not_there)
        for lease_id in lease_ids:
            self.unrecorded.discard(lease_id)
            lease = self.held.get(lease_id)
            if lease is not None and lease.replica.key in unknown:
                self.unconfirmed.add(lease_id)
            else:
                self.unconfirmed.discard(lease_id)

    def put_off(self, lease_id: str) -> None:
        """It cannot be put back by itself, and nothing else is to wait for it."""
        self.unrecorded.discard(lease_id)

    def expect_back(self, keys: Collection[str]) -> bool:
        """Redis knows these replicas now; return whether it lacks leases on them, which are to be put back."""
        back = {one for one in self.unconfirmed if one in self.held and self.held[one].replica.key in keys}
        self.unrecorded |= back
        return bool(back)

    def missing(self) -> dict[str, str]:
        """Return the held leases that Redis does not have, as far as we know: canonical url by id."""
        return {one: self.held[one].replica.key for one in self.unconfirmed if one in self.held}

    def mark(self) -> Mark:
        """Return the present moment."""
        moving = len(self._acquiring) + len(self._ending) + len(self.unconfirmed)
        return Mark(len(self.held) - len(self.unconfirmed), moving, self.acquires, self._releases)

    def bounds(self, since: Mark) -> tuple[int, int]:
        """Return how many leases Redis must have had, and may have had at most, at any moment since."""
        begun_to_end = self._releases - since.releases
        begun_to_acquire = self.acquires - since.acquires
        return max(since.held - begun_to_end, 0), since.held + since.moving + begun_to_acquire

    def clear(self) -> list[Lease]:
        """Forget everything; return what was held."""
        held = list(self.held.values())
        self.held.clear()
        self.kept.clear()
        for ids in (self.unconfirmed, self.unrecorded, self._acquiring, self._ending, self._being_told):
            ids.clear()
        return held
