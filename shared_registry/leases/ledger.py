"""Records the leases that this router holds, acquires and releases. Pure state; Redis is compared with it."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from shared_registry.errors import UsageError
from shared_registry.leases.lease import HeldLease

MOVES = "~moves"
"""What stands in the id of a lease that may move; see lua/lib/moving.lua."""


def new_lease_id(session: str | None, *, needs_healthy: bool = False) -> str:
    """Return a random lease id, with the time by this router's clock, which `shared-registry leases` shows as an age.

    The id for a named session ends with the digest of the session's name. The name itself is not stored.

    Args:
        session: The session's name, if it has one.
        needs_healthy: While the session waits in the queue, it must not be given a replica that is not healthy. The id
            carries this, because the scripts that serve the queue know no more of a waiter than its id.
    """
    unique = f"{os.urandom(10).hex()}-{int(time.time() * 1000):011x}{'~healthy' if needs_healthy else ''}"
    if session is None:
        return unique
    return f"{unique}:{session_digest(session)}"


def session_digest(session: str) -> str:
    """Return the digest by which a session's name is shown and stored."""
    return hashlib.sha256(session.encode(errors="surrogatepass")).hexdigest()


@dataclass(slots=True)
class SlotRequest:
    """One session's request for a slot.

    Attributes:
        lease_id: The id of the lease. It is the same at every repetition of the request.
        avoided: Canonical urls of replicas that are used only if no other replica is possible.
        excluded: Canonical urls of replicas that are never used, except after waiting in the queue.
        closings: See `Ledger.closings`, when the request began.
        ledger: Records the request.
        session: The session's name that the caller gave, if any.
        asked_at: When the session began to ask, on the monotonic clock.
        waits_since: When it began to wait in the queue, on the monotonic clock; `None` if it does not.
        sequence: The session's sequence in the queue, once it has one, or from an earlier request.
        takes_spare: Whether the session may get a replica that is not healthy, in a panic.
        is_in_doubt: Whether the request was sent and its answer has not arrived.
    """

    lease_id: str
    avoided: Collection[str]
    excluded: Collection[str]
    closings: int
    ledger: Ledger
    session: str | None = None
    asked_at: float = 0.0
    waits_since: float | None = None
    sequence: str = ""
    takes_spare: bool = True
    is_in_doubt: bool = False

    def expect_open(self) -> None:
        """Refuse a request that began before the registry was stopped.

        The router has left by then, and would not keep the lease alive.

        Raises:
            UsageError: The registry was stopped after the request began.
        """
        if self.closings != self.ledger.closings:
            raise UsageError("the registry was stopped while a session was being placed")

    def sent(self) -> None:
        """Record that the request is about to be sent."""
        self.expect_open()
        self.is_in_doubt = True
        self.ledger.ask(self.lease_id)


@dataclass(frozen=True, slots=True)
class Mark:
    """The numbers of a ledger at one moment, from which `Ledger.bounds` computes.

    Attributes:
        held: Leases that were held and confirmed.
        moving: Leases that were being acquired or ended, or were unconfirmed.
        acquires: Acquires that had begun.
        releases: Releases that had begun.
    """

    held: int
    moving: int
    acquires: int
    releases: int


class Ledger:
    """Every lease id of this router is in one of these states, or unknown.

    acquiring   requested; it is not known yet whether Redis has it
    held        held by this router; Redis has it too, unless it is unconfirmed
    ending      released or given up; Redis may still have it

    Attributes:
        acquires: How many ids were ever requested.
        is_used: Set whenever an id is requested. Whoever waits for the next one clears it.
        closings: How often the registry was stopped.
        held: The held leases by id.
        unconfirmed: Ids of held leases that Redis did not have when it was last compared with the ledger.
        unrecorded: Ids among the unconfirmed ones that must be put back before a new slot is requested.
        abandoned: Ids of leases whose `Lease` was collected before they had ended. Any thread may append.
        kept: Leases that have ended here and that Redis still counts: canonical url by id. Only this router may use
            their slots.
    """

    def __init__(self) -> None:
        self.held: dict[str, HeldLease] = {}
        self.unconfirmed: set[str] = set()
        self.unrecorded: set[str] = set()
        self.abandoned: deque[str] = deque()
        self.kept: dict[str, str] = {}
        self._acquiring: set[str] = set()
        self._ending: set[str] = set()
        self._sending: set[str] = set()
        self.acquires = self.closings = 0
        self.is_used = asyncio.Event()
        self._releases = 0

    @property
    def ending(self) -> list[str]:
        """Ids of ended leases that Redis may still have, without those whose release is being sent."""
        return list(self._ending - self._sending)

    def knows(self, lease_id: str) -> bool:
        """Whether the id has a state. A lease in Redis with an unknown id is an orphaned lease."""
        return lease_id in self.held or lease_id in self._acquiring or lease_id in self._ending

    def is_asked(self, lease_id: str) -> bool:
        """Whether the id was requested, and is neither held nor given up."""
        return lease_id in self._acquiring

    def ask(self, lease_id: str) -> None:
        """Record that an id is requested, perhaps again."""
        if lease_id not in self._acquiring:
            self._acquiring.add(lease_id)
            self.acquires += 1
            self.is_used.set()

    def hold(self, lease: HeldLease) -> None:
        """Record that a requested lease is held."""
        self._acquiring.discard(lease.id)
        self.held[lease.id] = lease
        if lease.is_degraded:
            self.unconfirmed.add(lease.id)
            self.unrecorded.add(lease.id)

    def drop(self, lease_id: str) -> None:
        """Record that a request was denied."""
        self._acquiring.discard(lease_id)

    def give_up(self, lease_id: str) -> None:
        """Record that a request was given up, although Redis may have granted it."""
        self._acquiring.discard(lease_id)
        self._ending.add(lease_id)

    def begin_end(self, lease_id: str) -> bool:
        """Record that the release of a held lease begins and is being sent; return whether the lease was held."""
        if not self._end_held(lease_id):
            return False
        self._sending.add(lease_id)
        return True

    def end_abandoned(self) -> list[HeldLease]:
        """Record that the abandoned leases have ended, and that their release is still to be sent; return them."""
        abandoned = [self.held.get(self.abandoned.popleft()) for _ in range(len(self.abandoned))]
        return [lease for lease in abandoned if lease is not None and self._end_held(lease.id)]

    def _end_held(self, lease_id: str) -> bool:
        record = self.held.pop(lease_id, None)
        if record is None:
            return False
        record.has_ended = True
        if self.unconfirmed or self.unrecorded:
            self.unconfirmed.discard(lease_id)
            self.unrecorded.discard(lease_id)
        self._ending.add(lease_id)
        self._releases += 1
        return True

    def move_away(self, lease_id: str) -> None:
        """Record that a held lease has moved to another router, so that it ends here without a release."""
        if self._end_held(lease_id):
            self._ending.discard(lease_id)

    def keep(self, lease_id: str, key: str) -> None:
        """Record that Redis did not receive the end of a lease that it counts on this replica."""
        if lease_id in self._ending:
            self.kept[lease_id] = key

    def fail_to_end(self, lease_id: str) -> None:
        """Record that a release failed or was not answered, and is still to be sent."""
        self._sending.discard(lease_id)

    def end(self, lease_id: str) -> None:
        """Record that Redis has received the end of a lease."""
        self._ending.discard(lease_id)
        self._sending.discard(lease_id)
        if self.kept:
            self.kept.pop(lease_id, None)

    def confirm(self, lease_ids: Iterable[str], *, not_there: Iterable[str]) -> None:
        """Record that Redis has these leases now, except those on replicas that it does not know.

        Args:
            lease_ids: The leases.
            not_there: Canonical urls of the replicas that Redis does not know.
        """
        unknown = set(not_there)
        for lease_id in lease_ids:
            self.unrecorded.discard(lease_id)
            lease = self.held.get(lease_id)
            if lease is not None and lease.replica.key in unknown:
                self.unconfirmed.add(lease_id)
            else:
                self.unconfirmed.discard(lease_id)

    def contest(self, lease_ids: Iterable[str], *, over_capacity: Collection[str]) -> None:
        """Record that leases that were put back may share their slots.

        Args:
            lease_ids: The leases.
            over_capacity: Canonical urls of the replicas that had more sessions than their capacity then.
        """
        for lease_id in lease_ids:
            lease = self.held.get(lease_id)
            if lease is not None and lease.replica.key in over_capacity:
                lease.is_contested = True

    def put_off(self, lease_id: str) -> None:
        """Record that a lease cannot be put back even on its own, so that no request waits for it."""
        self.unrecorded.discard(lease_id)

    def expect_back(self, keys: Collection[str]) -> bool:
        """Record that Redis knows these replicas now; return whether it lacks leases on them.

        Those leases must be put back before a new slot is requested.
        """
        back = {one for one in self.unconfirmed if one in self.held and self.held[one].replica.key in keys}
        self.unrecorded |= back
        return bool(back)

    def missing(self) -> dict[str, str]:
        """Return the held leases that Redis does not have, as far as this router knows: canonical url by id."""
        return {one: self.held[one].replica.key for one in self.unconfirmed if one in self.held}

    def mark(self) -> Mark:
        """Return the numbers of this moment, for `bounds`."""
        moving = len(self._acquiring) + len(self._ending) + len(self.unconfirmed)
        return Mark(len(self.held) - len(self.unconfirmed), moving, self.acquires, self._releases)

    def bounds(self, since: Mark) -> tuple[int, int]:
        """Return the least and the greatest number of leases that Redis can have had at any moment since the mark."""
        begun_to_end = self._releases - since.releases
        begun_to_acquire = self.acquires - since.acquires
        return max(since.held - begun_to_end, 0), since.held + since.moving + begun_to_acquire

    def clear(self) -> list[HeldLease]:
        """Forget everything; return the leases that were held."""
        held = list(self.held.values())
        for record in held:
            record.has_ended = True
        self.held.clear()
        self.abandoned.clear()
        self.kept.clear()
        for ids in (self.unconfirmed, self.unrecorded, self._acquiring, self._ending, self._sending):
            ids.clear()
        return held
