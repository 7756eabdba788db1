"""Leases whose sessions do not run through a router: each may move to another router, and may have a deadline.

A client of the API asks for such a lease with a text of its own. The lease's id is made from that text, so that every
router knows the id again, and the client may repeat its request at any of them. Like all leases it belongs to one
router, which ends it at its deadline. When its router dies or leaves, another live router inherits it with a deadline,
the grace.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from shared_registry.aio.clock import Clock, wait_until
from shared_registry.errors import StoreError, StoreUnavailable
from shared_registry.leases.lease import HeldLease, Lease
from shared_registry.leases.ledger import MOVES, Ledger, session_digest
from shared_registry.leases.reconciliation import Reconciler
from shared_registry.mirror.mirror import Mirror
from shared_registry.store.commands import Store
from shared_registry.store.replies import Denial, Denied

ENDING_SECONDS = 2.0
"""How long a request waits for the end of an earlier lease of its id."""
PAUSE_SECONDS = 0.02
UNCLAIMED_SECONDS = 10.0


def movable_id(owner: str, text: str, session: str | None) -> str:
    """Return the id of a lease that may move. The session is never given a replica that is not healthy.

    Args:
        owner: The name of the client, so that clients cannot meet each other's leases.
        text: The client's own text.
        session: The session's name, if it has one.
    """
    digest = hashlib.sha256(f"{owner}\0{text}".encode(errors="surrogatepass")).hexdigest()[:32]
    whole = f"{digest}{MOVES}~healthy"
    return whole if session is None else f"{whole}:{session_digest(session)}"


def may_move(lease_id: str) -> bool:
    """Return whether it is the id of a lease that may move."""
    return MOVES in lease_id


T = TypeVar("T")
_ENDED = Denied(Denial.ENDED)


class InUse(Exception):
    """Another request of the same id is under way at this router."""


@dataclass(slots=True, eq=False)
class MovableLease:
    """A lease that may move, at the router that has it.

    Attributes:
        lease: The lease.
        ends_at: When this router ends it, on the monotonic clock; `None` if it has no deadline.
        holder: The number of its holder. A new holder has the next number.
        is_held: Whether its holder is there.
        changed: Set when the lease is not this holder's any more: it has ended, moved, or got another holder.
    """

    lease: Lease
    ends_at: float | None = None
    holder: int = 0
    is_held: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class MovableLeases:
    """The leases of one router that may move. `run` must be kept running.

    Attributes:
        is_closed: Whether this router ends. Its leases wait for their clients elsewhere.
    """

    def __init__(
        self,
        store: Store,
        ledger: Ledger,
        mirror: Mirror,
        reconciler: Reconciler,
        *,
        end: Callable[[HeldLease], Awaitable[None]],
        grace_seconds: float,
        clock: Clock,
    ) -> None:
        """Set up; nothing is sent yet.

        Args:
            store: Moves leases here.
            ledger: Records the leases of this router.
            mirror: Provides the handles of replicas.
            reconciler: Finds leases that this router has inherited, or that have moved away.
            end: Called to release a lease.
            grace_seconds: How long an inherited lease, and one without a holder, waits for its client.
            clock: Used for deadlines.
        """
        self._store = store
        self._ledger = ledger
        self._mirror = mirror
        self._reconciler = reconciler
        self._end = end
        self.grace_seconds = grace_seconds
        self._clock = clock
        self.is_closed = False
        self._leases: dict[str, MovableLease] = {}
        self._asked: set[str] = set()
        self._earlier = asyncio.Event()
        reconciler.inherit, reconciler.move_away = self._inherit, self._forget

    def __len__(self) -> int:
        """The number of leases that this router has or asks for."""
        return len(self._leases.keys() | self._asked)

    def get(self, lease_id: str) -> MovableLease | None:
        """Return a lease of this router; `None` if it has none of that id."""
        return self._leases.get(lease_id)

    async def find(self, lease_id: str) -> MovableLease | None:
        """Return a lease, which is this router's from now on; `None` if no router has it.

        A call that is cancelled may end the lease.

        Raises:
            StoreError: Redis is away, or refuses.
            InUse: A request for that lease is under way here.
        """
        if (known := await self._still_here(lease_id)) is not None:
            return known
        if not may_move(lease_id):
            return None
        return await self._alone(lease_id, lambda: self._take_over(lease_id))

    async def acquire(
        self, lease_id: str, acquire: Callable[[str], Awaitable[Lease]], *, session: str | None
    ) -> MovableLease:
        """Return the lease of that id: this router's, another router's that is taken over, or a new one.

        Args:
            lease_id: An id from `movable_id`.
            acquire: Acquires a new lease of that id.
            session: The name of the session.

        Raises:
            RegistryError: See `SharedReplicaRegistry.acquire`.
            InUse: A request for that lease is under way here.
        """
        if (known := await self._still_here(lease_id)) is not None:
            return known

        async def work() -> MovableLease:
            found = await self._take_over(lease_id, session)
            return found or self._keep(await acquire(lease_id))

        return await self._alone(lease_id, work)

    def take(self, lease: MovableLease) -> int:
        """Become the holder of a lease, which has no deadline from now on; return the number of the holder."""
        lease.changed.set()
        lease.changed = asyncio.Event()
        lease.ends_at = None
        lease.is_held = True
        lease.holder += 1
        return lease.holder

    def let_go(self, lease: MovableLease, holder: int) -> None:
        """Leave a lease to its client for the grace, unless it has another holder."""
        if lease.holder == holder:
            lease.is_held = False
            self.expect(lease, self.grace_seconds)

    def expect(self, lease: MovableLease, seconds: float) -> None:
        """End a lease in so many seconds, unless this is called again."""
        lease.ends_at = self._clock.monotonic() + seconds
        self._earlier.set()

    async def release(self, lease: MovableLease) -> None:
        """End a lease. Never raises because of Redis."""
        self._drop(lease.lease.id)
        await lease.lease.release()

    async def run(self) -> None:
        """End leases at their deadlines until cancelled."""
        while True:
            now = self._clock.monotonic()
            due = [one for one in self._leases.values() if one.ends_at is not None and one.ends_at <= now]
            if due:
                await asyncio.gather(*(self.release(one) for one in due))
                continue
            self._earlier.clear()
            deadlines = [one.ends_at for one in self._leases.values() if one.ends_at is not None]
            await wait_until(self._clock, min(deadlines, default=float("inf")), self._earlier)

    def close(self) -> None:
        """Forget all leases, because they leave this router."""
        self.is_closed = True
        for lease_id in list(self._leases):
            self._drop(lease_id)

    async def _alone(self, lease_id: str, work: Callable[[], Awaitable[T]]) -> T:
        """Do the work of one request of an id at a time, after an earlier lease of that id has ended.

        Raises:
            InUse: Another one is under way.
            StoreUnavailable: The end of an earlier lease has not reached Redis.
        """
        if lease_id in self._asked:
            raise InUse
        self._asked.add(lease_id)
        try:
            deadline = self._clock.monotonic() + ENDING_SECONDS
            while self._ledger.knows(lease_id):
                if self._clock.monotonic() >= deadline:
                    raise StoreUnavailable("Redis has not received the end of an earlier lease of this id; try again")
                self._reconciler.ask_to_end()
                await self._clock.sleep(PAUSE_SECONDS)
            return await work()
        finally:
            self._asked.discard(lease_id)

    async def _still_here(self, lease_id: str) -> MovableLease | None:
        """Return a lease of this router, which comes back if another one has taken it over since; `None` if none is.

        This router learns only with a later heartbeat that it has moved. Without Redis, what it knows counts.
        """
        if lease_id in self._leases:
            with contextlib.suppress(StoreError):
                if await self._store.take_over(lease_id) == _ENDED:
                    self._forget(lease_id)
        return self._leases.get(lease_id)

    async def _take_over(self, lease_id: str, session: str | None = None) -> MovableLease | None:
        is_sent = False

        def sent() -> None:
            nonlocal is_sent
            is_sent = True
            self._ledger.ask(lease_id)

        try:
            grant = await self._store.take_over(lease_id, on_sent=sent)
            if grant is None or grant == _ENDED:
                self._ledger.drop(lease_id)
                return None
            if isinstance(grant, Denied):
                raise StoreUnavailable("this router is not among the live ones; try again in a moment")
            return await self._adopt(lease_id, grant.key, grant.revision, session)
        except BaseException:
            # The lease stays where it is, or moves to this router: then it is one that this router inherits.
            if is_sent and self._ledger.is_asked(lease_id):
                self._ledger.drop(lease_id)
                self._reconciler.ask()
            raise

    async def _inherit(self, lease_id: str, key: str) -> None:
        """Keep a lease for its client, that came from a router which is gone."""
        if lease_id in self._asked or lease_id in self._leases or self._ledger.knows(lease_id):
            return
        self._asked.add(lease_id)
        try:
            self._ledger.ask(lease_id)
            self.expect(await self._adopt(lease_id, key, "0-0", None), self.grace_seconds)
        finally:
            self._asked.discard(lease_id)
            if self._ledger.is_asked(lease_id):
                self._ledger.drop(lease_id)

    async def _adopt(self, lease_id: str, key: str, revision: str, session: str | None) -> MovableLease:
        replica = await self._mirror.handle(key)
        record = HeldLease(lease_id, replica, revision, time.time(), session)
        self._ledger.hold(record)
        return self._keep(Lease(record, end=self._end, abandon=self._ledger.abandoned.append))

    def _keep(self, lease: Lease) -> MovableLease:
        self._leases[lease.id] = found = MovableLease(lease)
        self.expect(found, UNCLAIMED_SECONDS)  # nobody has said yet how long it is wanted
        return found

    def _forget(self, lease_id: str) -> None:
        """Forget a lease that has moved to another router."""
        self._ledger.move_away(lease_id)
        self._drop(lease_id)

    def _drop(self, lease_id: str) -> None:
        lease = self._leases.pop(lease_id, None)
        if lease is not None:
            lease.changed.set()
