"""Acquiring and releasing leases: one script call each, and nothing left behind by a crash, an outage or a cancel."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from shared_registry.aio.clock import Clock
from shared_registry.aio.completion import completed
from shared_registry.errors import NoHealthyReplica, Saturated, StoreError, StoreUnavailable, UsageError
from shared_registry.leases.asking import Asker, OnPosition, SlotRequest
from shared_registry.leases.lease import Lease, new_lease_id
from shared_registry.leases.ledger import Ledger
from shared_registry.leases.outage import Outage
from shared_registry.leases.queue import POLL_SECONDS, Line
from shared_registry.leases.reconciliation import Reconciler
from shared_registry.leases.recovery import Recovery
from shared_registry.mirror.mirror import Mirror
from shared_registry.model import (
    ORIGIN,
    AdminState,
    Event,
    Replica,
    ReplicaEndpoint,
    ReplicaRecord,
    ReplicaStatus,
    is_later,
)
from shared_registry.store.commands import Store
from shared_registry.store.failures import was_refused
from shared_registry.store.lane import Busy
from shared_registry.store.reader import Reader
from shared_registry.store.replies import Beat, Denial, Denied

SETTLING = "Redis refused writes a moment ago, and what other routers placed without it may not be back yet"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlacementSettings:
    """See `RouterConfig` for each."""

    affinity_seconds: float
    degraded: Literal["share", "off", "unlimited"]
    refresh_seconds: float
    max_queue: int


class Placement:
    """One router's leases. Safe for concurrent use within an event loop.

    `begin_beat` belongs before every heartbeat, and `run` must be kept running.
    """

    def __init__(
        self,
        store: Store,
        reader: Reader,
        mirror: Mirror,
        settings: PlacementSettings,
        *,
        router: str,
        join: Callable[[], Awaitable[object]],
        clock: Clock,
        rng: random.Random,
    ) -> None:
        """Set up; nothing is sent before the first acquire.

        Args:
            store: Where leases are kept.
            reader: Where they are read again.
            mirror: For the handles of replicas, and for choosing while Redis is away.
            settings: See there.
            router: This router's key.
            join: Makes it one of the live routers.
            clock: For waiting.
            rng: For jitter.
        """
        self.ledger = Ledger()
        self.reconciler = Reconciler(
            store,
            reader,
            self.ledger,
            router=router,
            join=join,
            affinity_seconds=settings.affinity_seconds,
            clock=clock,
            rng=rng,
        )
        self.outage = Outage(
            settings.degraded,
            reader,
            mirror,
            self.ledger,
            router=router,
            refresh_seconds=settings.refresh_seconds,
            clock=clock,
        )
        self._store = store
        self._reader = reader
        self._mirror = mirror
        self._settings = settings
        self._clock = clock
        self._line = Line(
            reader,
            router=router,
            is_known=self.ledger.knows,
            on_stranger=self.reconciler.ask,
            clock=clock,
            rng=rng,
        )
        self._asker = Asker(
            store,
            self._line,
            Recovery(join, self.reconciler, self.outage.spared),
            max_queue=settings.max_queue,
            on_sent=lambda request: self.ledger.ask(request.lease_id),
            expect_open=self._expect_open,
            can_place_alone=lambda request: self.outage.choose(request) is not None,
            clock=clock,
        )
        self._closings = 0

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
            excluded: Canonical urls never taken, unless after waiting in line.
            timeout_seconds: How long to wait for a slot, and for the turn to ask for it.
            on_position: Told where the session stands while it waits.

        Raises:
            Saturated: All replicas are full, in time; or this router was too busy to ask in time.
            NoHealthyReplica: None is healthy and active, in time.
            StoreUnavailable: Redis is away, and there is nothing that this router may use by itself.
            UsageError: The registry was stopped meanwhile.
        """
        self.outage.used()
        deadline = self._clock.monotonic() + timeout_seconds
        while True:
            request = SlotRequest(new_lease_id(session), avoided, excluded, self._closings)
            lease = await self._place(request, session, deadline if timeout_seconds > 0 else None, on_position)
            if lease is not None:
                return lease
            left = deadline - self._clock.monotonic()
            if left <= 0:
                raise StoreUnavailable(SETTLING)
            await self._clock.sleep(min(POLL_SECONDS, left))
            self._expect_open(request)

    async def _place(
        self, request: SlotRequest, session: str | None, deadline: float | None, on_position: OnPosition | None
    ) -> Lease | None:
        """Return a lease; `None` where the slot that Redis gave is left to others, and was given back."""
        try:
            found = await self._find(request, deadline, on_position)
            self._expect_open(request)
        except StoreUnavailable as error:
            self._expect_open(request)
            return await self._place_without_redis(request, session, error)
        except Busy as error:
            self._give_up(request)
            raise Saturated(f"{error}; try again later") from error
        except BaseException:
            self._give_up(request)
            raise
        if isinstance(found, Denied):
            self.ledger.drop(request.lease_id)
            raise self._denied(found)
        replica, revision = found
        if replica.key in self.outage.spared():
            # Others that asked at the same time have used up what this router may take; or the line gave what another
            # router freed, which goes on counting it as its own until shares are dealt anew.
            self._give_up(request)
            return None
        self.outage.end()
        self.outage.degraded.take(request.lease_id, replica.key)
        return self._hold(request.lease_id, replica, session, revision)

    async def run(self) -> None:
        """Reconcile when it is due, look at the loads now and then, and follow the waiting line, until cancelled."""
        with self._mirror.subscribed(self._notice):
            async with asyncio.TaskGroup() as group:
                group.create_task(self.reconciler.run())
                group.create_task(self._line.run())
                group.create_task(self.outage.look_at_loads())

    def _notice(self, events: Sequence[Event]) -> None:
        """Tell leases that their replica is lost; no events mean that all was read anew, or followed again.

        Then Redis may be another one, which lost writes that it had acknowledged: counts alone do not tell that one
        lease went and another came back.
        """
        if not events:
            self.reconciler.ask()
            self._line.rewind()
        if not self.ledger.held:
            return
        if self.ledger.unconfirmed and self.ledger.expect_back({one.record.key for one in events if one.record}):
            self.reconciler.ask()
        gone = {event.record.key: event.id for event in events if event.record and _is_lost(event.record)}
        if events and not gone:
            return
        for lease in self.ledger.held.values():
            lost_at = gone.get(lease.replica.key, ORIGIN)
            if is_later(lost_at, lease.revision) if events else self._is_gone(lease):
                lease.lost.set()

    def begin_beat(self) -> Callable[[Beat | StoreError], None]:
        """Return what reconciles if the beat that begins counts what this router cannot have held meanwhile."""
        mark = self.ledger.mark()

        def end(beat: Beat | StoreError) -> None:
            if isinstance(beat, StoreError):
                if isinstance(beat, StoreUnavailable):
                    self.outage.note_failure(beat)
                return
            low, high = self.ledger.bounds(mark)
            if not low <= beat.leases <= high or (beat.joined and high > 0):
                self.reconciler.ask()

        return end

    def close(self) -> None:
        """Forget all leases: they have ended with this router. Releasing them does nothing any more."""
        self.ledger.clear()
        self.reconciler.close()
        self._closings += 1
        self._store.turn_away("the registry was stopped")
        self._line.call_all()

    def _expect_open(self, request: SlotRequest) -> None:
        """Refuse to go on with what began before a stop: the router has left, and nobody would beat for the lease."""
        if request.closings != self._closings:
            raise UsageError("the registry was stopped while a session was being placed")

    async def _find(
        self, request: SlotRequest, deadline: float | None, on_position: OnPosition | None
    ) -> tuple[Replica, str] | Denied:
        """Return the replica whose slot the session was given, and the revision as of which; or why it was not."""
        if deadline is not None:
            answer = await self._asker.wait(request, deadline=deadline, on_position=on_position)
        else:
            answer = await self._asker.ask(request)
        return answer if isinstance(answer, Denied) else (await self._handle(answer.key), answer.revision)

    async def _handle(self, key: str) -> Replica:
        """Return a replica's handle, also of one that the mirror has not heard of yet."""
        view = self._mirror.view
        replica = view.get(key)
        if replica is None:
            record = (await completed(self._reader.records([key]))).get(key)
            replica = view.handle(record or Replica(ReplicaEndpoint(key)).record)
        return replica

    def _give_up(self, request: SlotRequest) -> None:
        if not self.ledger.knows(request.lease_id):
            return  # Redis was not asked
        self.ledger.give_up(request.lease_id)
        if request.is_in_doubt:
            self.reconciler.ask()
        else:
            self.reconciler.ask_to_end()

    async def _place_without_redis(self, request: SlotRequest, session: str | None, error: StoreUnavailable) -> Lease:
        self.outage.note_failure(error)
        try:
            await self.outage.see_late()
            await self.outage.see_recorded(error)
            self._expect_open(request)
        except BaseException:
            self._give_up(request)
            raise
        replica = self.outage.choose(request)
        if replica is None:
            self._give_up(request)
            raise error
        self.reconciler.ask()
        self.outage.begin(error)
        self.outage.degraded.take(request.lease_id, replica.key)
        return self._hold(request.lease_id, replica, session, replica.record.revision, is_degraded=True)

    def _hold(
        self, lease_id: str, replica: Replica, session: str | None, revision: str, *, is_degraded: bool = False
    ) -> Lease:
        lease = Lease(
            lease_id,
            replica,
            session=session,
            acquired_at=time.time(),
            revision=revision,
            end=self._end,
            is_degraded=is_degraded,
        )
        self.ledger.hold(lease)
        return lease

    async def _end(self, lease: Lease) -> None:
        was_apart = self.outage.is_apart or self._mirror.is_cut_off
        if not self.ledger.begin_end(lease.id):
            return
        was_taken_since = self.outage.degraded.give_back(lease.id)
        # One that may have come through is given to others then, and not to use here.
        await completed(self._release(lease, was_apart=was_apart, was_taken_since=was_taken_since))

    async def _release(self, lease: Lease, *, was_apart: bool, was_taken_since: bool) -> None:
        try:
            await self._store.release(lease.id, affinity_seconds=self._settings.affinity_seconds)
        except BaseException as error:
            self.ledger.fail_to_end(lease.id)
            if isinstance(error, StoreError):
                self.outage.note_failure(error)
                if not was_taken_since and (was_apart or was_refused(error)):
                    self.ledger.keep(lease.id, lease.replica.key)
            self.reconciler.ask()
            if not isinstance(error, StoreError):
                raise
        else:
            self.ledger.end(lease.id)

    def _is_gone(self, lease: Lease) -> bool:
        replica = self._mirror.view.get(lease.replica.key)
        if replica is None:
            return not is_later(lease.revision, self._mirror.revision)
        return _is_lost(replica.record) and is_later(replica.record.revision, lease.revision)

    def _denied(self, answer: Denied) -> Saturated | NoHealthyReplica | StoreUnavailable:
        if self.outage.spared():
            return StoreUnavailable(SETTLING)
        if answer.why is Denial.NO_HEALTHY:
            return NoHealthyReplica("no replica is healthy and active; see `shared-registry status`")
        return Saturated(
            "every healthy replica has as many sessions as its capacity allows"
            + (f", and {answer.depth} more wait" if answer.depth else "")
            + "; try again later",
            depth=answer.depth,
            retry_after_seconds=self._line.speed.seconds_to_pass(self._clock.monotonic(), answer.depth + 1),
        )


def _is_lost(record: ReplicaRecord) -> bool:
    status, admin = record.health.status, record.admin
    return status is ReplicaStatus.UNHEALTHY or admin is AdminState.REMOVED
