"""Acquires leases from Redis, at once or through the queue, and places sessions without Redis while it is away."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

from shared_registry.aio.clock import Clock
from shared_registry.config import RouterConfig
from shared_registry.errors import Saturated, Settling, SlotMigrating, StoreError, StoreRefused, StoreUnavailable
from shared_registry.leases.attempts import Attempts
from shared_registry.leases.lease import HeldLease, Lease
from shared_registry.leases.lease_news import LeaseNews
from shared_registry.leases.ledger import Ledger, SlotRequest, new_lease_id
from shared_registry.leases.outage import AWAY, Outage
from shared_registry.leases.queue import POLL_SECONDS, OnPosition, RouterQueue
from shared_registry.leases.reconciliation import Reconciler
from shared_registry.leases.recovery import Recovery
from shared_registry.mirror.mirror import Mirror
from shared_registry.model import Replica
from shared_registry.store.commands import Store
from shared_registry.store.lane import Busy
from shared_registry.store.replies import Denial, Denied, Grant, Queued

T = TypeVar("T")
SETTLING = "Redis refused writes a moment ago; sessions that other routers placed without it may not be recorded yet"
PUT_BACK = "Redis lost data, and the sessions that run are being put back; try again in a moment"
SETTLING_PAUSE_SECONDS = 0.05
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
        end: Callable[[HeldLease], Awaitable[None]],
        clock: Clock,
    ) -> None:
        """Set up; nothing is sent before the first acquire.

        Args:
            asker: Asks Redis for slots.
            queue: Keeps this router's sessions that wait for a slot.
            ledger: Records the leases of this router.
            outage: Places sessions while Redis is away.
            reconciler: Gives back slots that Redis granted and no session needs any more.
            mirror: Provides the handles of replicas.
            end: Called to release a lease.
            clock: Used for deadlines and pauses.
        """
        self._asker = asker
        self._router_queue = queue
        self._ledger = ledger
        self._outage = outage
        self._reconciler = reconciler
        self._mirror = mirror
        self._view = mirror.view
        self._emitter = mirror.emitter
        self._news = LeaseNews(mirror.emitter, clock)
        self._end = end
        self._abandon = ledger.abandoned.append  # once, not a bound method for each lease
        self._clock = clock

    async def acquire(
        self,
        session: str | None,
        *,
        avoided: Collection[str],
        attempts: Attempts,
        timeout_seconds: float = 0.0,
        on_position: OnPosition | None = None,
        lease_id: str | None = None,
    ) -> Lease:
        """Return a lease on the least loaded replica that has room, or on the replica where the session was before.

        A call that is cancelled at any point leaves no lease behind, at the latest after the next reconciliation.

        Args:
            session: The session's name. A session with the same name returns to the same replica.
            avoided: Canonical urls of replicas that are used only if no other replica is possible.
            attempts: What the session has tried before. These replicas are not used, except after waiting in the queue.
            timeout_seconds: How long to wait for a slot, including the wait for this call's turn to ask Redis.
            on_position: Called with the session's position in the queue while the session waits.
            lease_id: The id of the lease, which this router must not know; a new one by default. The session gets no
                replica that is not healthy then, and does not wait while Redis is away.

        Raises:
            Saturated: All replicas stayed full until the timeout, or this router was too busy to ask Redis in time.
            NoHealthyReplica: No replica was healthy and active before the timeout.
            StoreUnavailable: Redis was away until the timeout, and this router may use no replica without it.
            StoreRefused: The same, because Redis refused this router's password or rights.
            UsageError: The registry was stopped during the call.
        """
        asked_at = self._clock.monotonic()
        deadline = asked_at + timeout_seconds
        request = self._asker.request(session, avoided, attempts, lease_id=lease_id)
        request.asked_at = asked_at
        try:
            while True:
                try:
                    return await self._try_once(request, deadline if timeout_seconds > 0 else None, on_position)
                except Busy as error:
                    raise Saturated(f"{error}; try again later") from error
                except AWAY:
                    left = deadline - self._clock.monotonic()
                    if left <= 0 or lease_id is not None:
                        raise
                finally:
                    self._give_up(request)
                await self._clock.sleep(min(POLL_SECONDS, left))
                request.expect_open()
                request = self._asker.again(request, attempts)
        except BaseException as error:
            if self._emitter.has_listeners:
                self._news.denied(request, error)
            raise

    async def _try_once(self, request: SlotRequest, deadline: float | None, on_position: OnPosition | None) -> Lease:
        """Return a lease.

        Raises:
            StoreUnavailable: Redis is away, or the slot that it granted must be left to other routers.
        """
        try:
            found = await self._find(request, deadline, on_position)
            request.expect_open()
        except (SlotMigrating, Settling):
            raise
        except AWAY as error:
            return await self._place_alone(request, error)
        if isinstance(found, Denied):
            self._ledger.drop(request.lease_id)
            if self._outage.left_to_others():
                raise StoreUnavailable(SETTLING)
            raise self._router_queue.refusal(found, request)
        replica = self._view.get(found.key) or await self._mirror.handle(found.key)
        if self._outage.was_refused and replica.key in self._outage.left_to_others():
            # There are two cases. Concurrent calls of this router have used up its share. Or the queue granted a slot
            # that another router freed, and that router counts the slot in its own share until shares are computed
            # anew.
            raise StoreUnavailable(SETTLING)
        self._outage.end()
        request.sequence = found.sequence or request.sequence
        return self._hold(request, replica, found.revision, is_spare=found.is_spare, has_returned=found.has_returned)

    async def _place_alone(self, request: SlotRequest, error: StoreUnavailable | StoreRefused) -> Lease:
        request.expect_open()
        replica = await self._outage.place(
            error, avoided=request.avoided, excluded=request.excluded, takes_spare=request.takes_spare
        )
        request.expect_open()
        self._reconciler.ask()
        self._outage.begin(error)
        revision = replica.record.revision
        return self._hold(request, replica, revision, is_degraded=True, is_spare=not replica.record.is_selectable)

    def _find(
        self, request: SlotRequest, deadline: float | None, on_position: OnPosition | None
    ) -> Awaitable[Grant | Denied]:
        if deadline is None:
            return self._asker.ask(request)
        return self._router_queue.wait(self._asker, request, deadline, on_position)

    def _hold(
        self,
        request: SlotRequest,
        replica: Replica,
        revision: str,
        *,
        is_degraded: bool = False,
        is_spare: bool = False,
        has_returned: bool = False,
    ) -> Lease:
        record = HeldLease(
            request.lease_id, replica, revision, time.time(), request.session, is_degraded, is_spare, has_returned
        )
        self._outage.degraded.take(record.id, replica.record.key)
        self._ledger.hold(record)
        if self._emitter.has_session_listeners:
            self._news.granted(request, record)
        return Lease(
            record,
            end=self._end,
            abandon=self._abandon,
            sequence=request.sequence,
        )

    def _give_up(self, request: SlotRequest) -> None:
        """Give back the slot that Redis may have granted, unless the request has ended in a lease or a denial."""
        if not self._ledger.is_asked(request.lease_id):
            return
        self._ledger.give_up(request.lease_id)
        if request.is_in_doubt:
            self._reconciler.ask()
        else:
            self._reconciler.ask_to_end()


class Asker:
    """Asks Redis for slots on behalf of one router. Safe for concurrent use within an event loop."""

    def __init__(
        self,
        store: Store,
        ledger: Ledger,
        outage: Outage,
        recovery: Recovery,
        *,
        settings: RouterConfig,
        clock: Clock,
    ) -> None:
        """Set up; nothing is sent before the first request.

        Args:
            store: Grants the slots.
            ledger: Records each request before Redis can have received it.
            outage: Decides which replicas are left to other routers, and whether this router may place a session
                without Redis.
            recovery: Brings Redis in line with this router's leases before a request.
            settings: The length of the queue from which on no further session may join it, whether there can be panic,
                and how long a session that does not wait for a slot may be held up while others are put back.
            clock: Used for pauses.
        """
        self._store = store
        self._ledger = ledger
        self._outage = outage
        self._recovery = recovery
        self._max_queue = settings.max_queue
        self._has_panic = settings.effective_panic_percent > 0
        self._settling_seconds = settings.redis_timeout_seconds
        self._clock = clock

    def request(
        self, session: str | None, avoided: Collection[str], attempts: Attempts, *, lease_id: str | None = None
    ) -> SlotRequest:
        """Return a new request for a session. Nothing is sent yet. Its lease has that id, or a new one.

        In the queue, a session that has tried a replica before is not given one that is not healthy: it could be the
        same.
        """
        takes_spare = self._has_panic and attempts.may_try_spare and lease_id is None
        return SlotRequest(
            lease_id or new_lease_id(session, needs_healthy=not takes_spare or bool(attempts.excluded)),
            avoided,
            attempts.excluded,
            self._ledger.closings,
            self._ledger,
            session,
            sequence=attempts.sequence,
            takes_spare=takes_spare,
        )

    def again(self, request: SlotRequest, attempts: Attempts) -> SlotRequest:
        """Return a new request, with another lease id, for a session whose request has failed."""
        repeated = self.request(request.session, request.avoided, attempts)
        repeated.sequence = request.sequence or repeated.sequence
        repeated.asked_at, repeated.waits_since = request.asked_at, request.waits_since
        return repeated

    def close(self) -> None:
        """End all requests that have begun."""
        self._ledger.closings += 1
        self._store.end_waits("the registry was stopped")

    async def ask(self, request: SlotRequest, *, patience_seconds: float | None = None) -> Grant | Denied:
        """Ask for a slot once. A session that waits in the queue leaves it by this call.

        Args:
            request: The session's request.
            patience_seconds: How long to wait for the turn to send the request; `None` waits as long as Redis answers.

        Raises:
            Busy: The request could not be sent in time.
            StoreUnavailable: Redis did not answer in time, or does not let this router join.
            Settling: Sessions are being put back after a loss, and that takes long.
        """
        joins, deadline = 0, math.inf
        while True:
            if self._ledger.unrecorded:
                await self._catch_up(patience_seconds)
            answer = await self._send(request, 0, patience_seconds)
            if isinstance(answer, Grant):
                return answer
            if isinstance(answer, Queued):
                raise StoreError("Redis gave a position in the queue to a session that does not wait")
            if answer.reason is Denial.NOT_REGISTERED:
                joins = await self._rejoin(request, joins, patience_seconds)
            elif answer.reason is Denial.SETTLING:
                deadline = await self._pause(request, deadline)
            else:
                return answer

    async def ask_to_wait(self, request: SlotRequest, *, patience_seconds: float) -> Grant | Queued | Denied:
        """Ask once for a slot, or for a position in the queue if no slot is free; see `ask`."""
        joins = 0
        while True:
            if self._ledger.unrecorded:
                await self._catch_up(patience_seconds)
            answer = await self._send(request, self._max_queue, patience_seconds)
            if not isinstance(answer, Denied) or answer.reason is not Denial.NOT_REGISTERED:
                return answer
            joins = await self._rejoin(request, joins, patience_seconds)

    def can_place_alone(self, request: SlotRequest, error: StoreError) -> bool:
        """Whether this router may place the session without Redis, which failed with this error."""
        if isinstance(error, SlotMigrating | Settling):
            return False
        replica = self._outage.choose(
            avoided=request.avoided, excluded=request.excluded, takes_spare=request.takes_spare
        )
        return replica is not None

    async def _catch_up(self, patience_seconds: float | None) -> None:
        await _within(patience_seconds, self._recovery.catch_up())

    async def _rejoin(self, request: SlotRequest, joins: int, patience_seconds: float | None) -> int:
        """Join the live routers again: another router reaped this one, or history was lost.

        The leases that are still held here must be put back before a new lease is granted.

        Args:
            request: A request that was refused, because this router is not among the live ones.
            joins: How often it was before.
            patience_seconds: How long that may take; `None` for as long as Redis answers.

        Returns:
            How often it was.

        Raises:
            StoreUnavailable: It was refused too often.
        """
        request.expect_open()
        await _within(patience_seconds, self._recovery.rejoin())
        if joins + 1 >= TRIES_TO_JOIN:
            raise StoreUnavailable("this router is not among the live ones, although it has just sent a heartbeat")
        return joins + 1

    async def _pause(self, request: SlotRequest, deadline: float) -> float:
        """Pause while sessions are put back after a loss. Return until when to try again, from the first pause on.

        Raises:
            Settling: The deadline has passed.
        """
        now = self._clock.monotonic()
        if now >= deadline:
            self._ledger.drop(request.lease_id)
            raise Settling(PUT_BACK)
        await self._clock.sleep(SETTLING_PAUSE_SECONDS)
        request.expect_open()
        return min(deadline, now + self._settling_seconds)

    def _send(
        self, request: SlotRequest, max_queue: int, patience_seconds: float | None
    ) -> Awaitable[Grant | Queued | Denied]:
        """Ask Redis and receive the answer, even if the caller is cancelled after the request was sent.

        If the caller is cancelled before the request was sent, do not send it.
        """
        left_to_others = self._outage.left_to_others() if self._outage.was_refused else ()
        return self._store.acquire(
            request.lease_id,
            max_queue=max_queue,
            sequence=request.sequence if max_queue else "",
            takes_spare=request.takes_spare,
            avoided=request.avoided,
            excluded={*request.excluded, *left_to_others} if left_to_others else request.excluded,
            patience_seconds=patience_seconds,
            progress=request,
        )


async def _within(patience_seconds: float | None, work: Awaitable[T]) -> T:
    """Await work that must be done before a request.

    Raises:
        Busy: The work took longer than `patience_seconds`.
    """
    try:
        async with asyncio.timeout(patience_seconds):
            return await work
    except TimeoutError:
        raise Busy("this router could not join the live routers again in time") from None
