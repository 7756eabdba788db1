"""Acquiring leases: from Redis, at once or through the queue, and without Redis while it is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

from shared_registry.aio.clock import Clock
from shared_registry.aio.completion import completed
from shared_registry.errors import Saturated, StoreError, StoreUnavailable, UsageError
from shared_registry.leases.lease import Lease
from shared_registry.leases.ledger import Ledger, SlotRequest, new_lease_id
from shared_registry.leases.outage import Outage
from shared_registry.leases.queue import POLL_SECONDS, OnPosition, RouterQueue
from shared_registry.leases.reconciliation import Reconciler
from shared_registry.leases.recovery import Recovery
from shared_registry.mirror.mirror import Mirror
from shared_registry.model import Replica
from shared_registry.store.commands import Store
from shared_registry.store.lane import Busy
from shared_registry.store.replies import Denial, Denied, Grant, Queued

T = TypeVar("T")
SETTLING = "Redis refused writes a moment ago, and what other routers placed without it may not be back yet"
TRIES_TO_JOIN = 3


class Acquirer:
    """Acquires leases for one router. Safe for concurrent use within an event loop."""

    def __init__(
        self,
        asker: Asker,
        queue: RouterQueue,
        ledger: Ledger,
        outage: Outage,
        reconciler: Reconciler,
        mirror: Mirror,
        *,
        end: Callable[[Lease], Awaitable[None]],
        clock: Clock,
    ) -> None:
        """Set up; nothing is sent before the first acquire.

        Args:
            asker: Asks Redis.
            queue: Where sessions wait.
            ledger: What this router holds.
            outage: Places sessions while Redis is away.
            reconciler: Gives back what was granted and is not wanted any more.
            mirror: For the handles of replicas.
            end: Called to release a lease.
            clock: For deadlines and pauses.
        """
        self._asker = asker
        self._router_queue = queue
        self._ledger = ledger
        self._outage = outage
        self._reconciler = reconciler
        self._mirror = mirror
        self._end = end
        self._clock = clock

    async def acquire(
        self,
        session: str | None,
        *,
        avoided: Collection[str],
        excluded: Collection[str],
        timeout_seconds: float = 0.0,
        on_position: OnPosition | None = None,
    ) -> Lease:
        """Return a lease on the least loaded replica that has room, or on the one where the session was before.

        Cancelled at any point it leaves nothing behind, at the latest after the next reconciliation.

        Args:
            session: Its name, by which it returns to the same replica.
            avoided: Canonical urls taken only where there is nothing else.
            excluded: Canonical urls never taken, unless after waiting in the queue.
            timeout_seconds: How long to wait for a slot, and for the turn to ask for it.
            on_position: Told the session's position in the queue while it waits.

        Raises:
            Saturated: All replicas are full, in time; or this router was too busy to ask in time.
            NoHealthyReplica: None is healthy and active, in time.
            StoreUnavailable: Redis is away, and there is nothing that this router may use by itself.
            UsageError: The registry was stopped meanwhile.
        """
        deadline = self._clock.monotonic() + timeout_seconds
        while True:
            request = self._asker.request(session, avoided, excluded)
            try:
                lease = await self._place(request, deadline if timeout_seconds > 0 else None, on_position)
            except Busy as error:
                raise Saturated(f"{error}; try again later") from error
            finally:
                self._give_up(request)
            if lease is not None:
                return lease
            left = deadline - self._clock.monotonic()
            if left <= 0:
                raise StoreUnavailable(SETTLING)
            await self._clock.sleep(min(POLL_SECONDS, left))
            self._asker.expect_open(request)

    async def _place(
        self, request: SlotRequest, deadline: float | None, on_position: OnPosition | None
    ) -> Lease | None:
        """Return a lease; `None` where the slot that Redis gave is left to others."""
        try:
            found = await self._find(request, deadline, on_position)
            self._asker.expect_open(request)
        except StoreUnavailable as error:
            self._asker.expect_open(request)
            replica = await self._outage.place(error, avoided=request.avoided, excluded=request.excluded)
            self._asker.expect_open(request)
            self._reconciler.ask()
            self._outage.begin(error)
            return self._hold(request, replica, replica.record.revision, is_degraded=True)
        if isinstance(found, Denied):
            self._ledger.drop(request.lease_id)
            raise StoreUnavailable(SETTLING) if self._outage.spared() else self._router_queue.refusal(found)
        replica, revision = found
        if self._outage.was_refused and replica.key in self._outage.spared():
            # Others that asked at the same time have used up what this router may take; or the queue gave what another
            # router freed, which goes on counting it as its own until shares are dealt anew.
            return None
        self._outage.end()
        return self._hold(request, replica, revision)

    async def _find(
        self, request: SlotRequest, deadline: float | None, on_position: OnPosition | None
    ) -> tuple[Replica, str] | Denied:
        """Return the replica whose slot the session was given, and the revision as of which; or why it was not."""
        if deadline is None:
            answer = await self._asker.ask(request)
        else:
            answer = await self._router_queue.wait(self._asker, request, deadline, on_position)
        return answer if isinstance(answer, Denied) else (await self._mirror.handle(answer.key), answer.revision)

    def _hold(self, request: SlotRequest, replica: Replica, revision: str, *, is_degraded: bool = False) -> Lease:
        lease = Lease(
            request.lease_id,
            replica,
            session=request.session,
            acquired_at=time.time(),
            revision=revision,
            end=self._end,
            is_degraded=is_degraded,
        )
        self._outage.degraded.take(lease.id, replica.record.key)
        self._ledger.hold(lease)
        return lease

    def _give_up(self, request: SlotRequest) -> None:
        """Give back what the request may have been granted, unless it has come to a lease or a denial."""
        if not self._ledger.is_asked(request.lease_id):
            return
        self._ledger.give_up(request.lease_id)
        if request.is_in_doubt:
            self._reconciler.ask()
        else:
            self._reconciler.ask_to_end()


class Asker:
    """Asks for one router. Safe for concurrent use within an event loop."""

    def __init__(
        self,
        store: Store,
        ledger: Ledger,
        outage: Outage,
        recovery: Recovery,
        *,
        max_queue: int,
    ) -> None:
        """Set up.

        Args:
            store: Where slots are.
            ledger: Notes each request before Redis can have received it.
            outage: Which replicas are left to others, and whether this router may place a session without Redis.
            recovery: What brings Redis in line with this router before a question.
            max_queue: Join the queue unless it is that long.
        """
        self._store = store
        self._ledger = ledger
        self._outage = outage
        self._recovery = recovery
        self._max_queue = max_queue
        self._closings = 0

    def request(self, session: str | None, avoided: Collection[str], excluded: Collection[str]) -> SlotRequest:
        """Return what asks for a session, which was not asked for yet."""
        return SlotRequest(new_lease_id(session), avoided, excluded, self._closings, session)

    def expect_open(self, request: SlotRequest) -> None:
        """Refuse to go on with what began before a stop: the router has left, and would not renew the lease.

        Raises:
            UsageError: The registry was stopped since.
        """
        if request.closings != self._closings:
            raise UsageError("the registry was stopped while a session was being placed")

    def close(self) -> None:
        """Let all requests end that have begun."""
        self._closings += 1
        self._store.turn_away("the registry was stopped")

    async def ask(self, request: SlotRequest, *, patience_seconds: float | None = None) -> Grant | Denied:
        """Ask once. If the session waited, it does no longer.

        Args:
            request: For whom.
            patience_seconds: How long to wait for its turn; `None` for as long as Redis answers.

        Raises:
            Busy: Its turn did not come in time.
            StoreUnavailable: Redis did not answer in time, or does not let this router join.
        """
        answer = await self._as_member(request, 0, patience_seconds)
        if isinstance(answer, Queued):
            raise StoreError("Redis gave a place in the queue to a session that does not wait")
        return answer

    async def ask_to_wait(self, request: SlotRequest, *, patience_seconds: float) -> Grant | Queued | Denied:
        """Ask once, for a place in the queue where there is no slot; see `ask`."""
        return await self._as_member(request, self._max_queue, patience_seconds)

    def can_place_alone(self, request: SlotRequest) -> bool:
        """Whether this router may place the session without Redis."""
        return self._outage.choose(avoided=request.avoided, excluded=request.excluded) is not None

    async def _as_member(
        self, request: SlotRequest, max_queue: int, patience_seconds: float | None
    ) -> Grant | Queued | Denied:
        """Return the answer that a live router gets, joining the live ones as needed."""
        for _ in range(TRIES_TO_JOIN):
            if self._ledger.unrecorded:
                await _within(patience_seconds, self._recovery.catch_up())
            answer = await self._hear(request, max_queue, patience_seconds)
            if not _is_not_registered(answer):
                return answer
            self.expect_open(request)
            # Others took us for dead, or history was lost: what is still held here counts before anything new.
            await _within(patience_seconds, self._recovery.rejoin())
        raise StoreUnavailable("this router is not among the live ones, although it has just sent a heartbeat")

    async def _hear(
        self, request: SlotRequest, max_queue: int, patience_seconds: float | None
    ) -> Grant | Queued | Denied:
        """Ask, and take the answer even where the caller is cancelled; where it is before its turn, do not ask."""
        spared = self._outage.spared() if self._outage.was_refused else ()
        is_sent = False

        def on_sent() -> None:
            nonlocal is_sent
            self.expect_open(request)
            is_sent = request.is_in_doubt = True
            self._ledger.ask(request.lease_id)

        async def answer_to() -> Grant | Queued | Denied:
            answer = await self._store.acquire(
                request.lease_id,
                max_queue=max_queue,
                sequence=request.sequence if max_queue else "",
                avoided=request.avoided,
                excluded={*request.excluded, *spared} if spared else request.excluded,
                patience_seconds=patience_seconds,
                on_sent=on_sent,
            )
            if not _is_not_registered(answer):
                request.is_in_doubt = False
            return answer

        return await completed(answer_to(), is_begun=lambda: is_sent)


async def _within(patience_seconds: float | None, work: Awaitable[T]) -> T:
    """Await what has to come before a question.

    Raises:
        Busy: It took longer.
    """
    try:
        async with asyncio.timeout(patience_seconds):
            return await work
    except TimeoutError:
        raise Busy("this router has not come back among the live ones in time") from None


def _is_not_registered(answer: object) -> bool:
    return isinstance(answer, Denied) and answer.why is Denial.NOT_REGISTERED
