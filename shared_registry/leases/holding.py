"""Maintains the leases that a router holds: releases them, marks those on lost replicas, checks heartbeat counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from shared_registry.errors import StoreError
from shared_registry.happenings import LeaseEnd
from shared_registry.leases.lease import HeldLease
from shared_registry.leases.lease_news import LeaseNews
from shared_registry.leases.ledger import Ledger
from shared_registry.leases.outage import AWAY, Outage
from shared_registry.leases.reconciliation import Reconciler
from shared_registry.mirror.mirror import Mirror
from shared_registry.model import ORIGIN, AdminState, Event, EventKind, ReplicaRecord, ReplicaStatus, is_later
from shared_registry.store.commands import Store
from shared_registry.store.failures import was_not_sent, was_refused
from shared_registry.store.replies import Heartbeat

DEPARTURES = frozenset({EventKind.ROUTER_LEFT, EventKind.ROUTER_EXPIRED})


class Holder:
    """Maintains the leases of one router. Safe for concurrent use within an event loop."""

    def __init__(
        self,
        store: Store,
        mirror: Mirror,
        ledger: Ledger,
        outage: Outage,
        reconciler: Reconciler,
        *,
        affinity_seconds: float,
        news: LeaseNews,
    ) -> None:
        """Set up; nothing is sent yet.

        Args:
            store: Releases the leases.
            mirror: Shows the registered replicas.
            ledger: Records the leases of this router.
            outage: Records whether Redis accepts writes.
            reconciler: Compares Redis with the ledger when the two may differ.
            affinity_seconds: How long after its release a session may still return to its replica.
            news: Reports how leases end.
        """
        self._store = store
        self._mirror = mirror
        self._ledger = ledger
        self._outage = outage
        self._reconciler = reconciler
        self._affinity_seconds = affinity_seconds
        self._news = news
        self._emitter = news.emitter
        self.released = 0

    def notice(self, events: Sequence[Event]) -> None:
        """Set `lost` on each lease whose replica is lost, and look for inherited leases. For `Mirror.subscribed`.

        An empty list of events means that the mirror read all state anew, or follows the event stream again after a
        break. Then Redis may be another server, which lost writes that the former one had acknowledged. Reconciliation
        is needed, because the heartbeat's number of leases stays the same where one lease is missing and another is
        back.
        """
        if not events:
            self._reconciler.ask()
        for event in events:
            if event.kind in DEPARTURES:
                self._reconciler.note_departure(event.by)
        if not self._ledger.held:
            return
        carried = [(event, record) for event in events for record in event.carried]
        if self._ledger.unconfirmed and self._ledger.expect_back({record.key for _, record in carried}):
            self._reconciler.ask()
        gone = {record.key: event.id for event, record in carried if _is_lost(record)}
        if events and not gone:
            return
        gone_spares = {
            record.key: event.id
            for event, record in carried
            if event.kind is EventKind.REPLICA_UNHEALTHY or _is_removed(record)
        }
        for lease in self._ledger.held.values():
            lost_at = (gone_spares if lease.is_spare else gone).get(lease.replica.key, ORIGIN)
            if is_later(lost_at, lease.revision) if events else self._is_gone(lease):
                lease.lose()

    def begin_heartbeat(self) -> Callable[[Heartbeat | StoreError], None]:
        """Begin a heartbeat; return the function to call with its reply, or with the error.

        That function asks for a reconciliation if the reply counts a number of leases that this router cannot have held
        since the heartbeat began. Leases that the application lost are ended now.
        """
        if self._ledger.abandoned:
            for lease in self._ledger.end_abandoned():
                self._outage.degraded.give_back(lease.id)
                if self._emitter.has_listeners:
                    self._news.ended(lease, LeaseEnd.ABANDONED)
            self._reconciler.ask_to_end()
        mark = self._ledger.mark()

        def end(heartbeat: Heartbeat | StoreError) -> None:
            if isinstance(heartbeat, StoreError):
                if isinstance(heartbeat, AWAY):
                    self._outage.note_failure(heartbeat)
                return
            low, high = self._ledger.bounds(mark)
            if heartbeat.joined and high > 0:
                self._reconciler.note_reaped()
            elif not low <= heartbeat.leases <= high:
                self._reconciler.ask()

        return end

    def drains(self) -> list[str]:
        """Return the canonical urls of the replicas to be removed with their last session, and without a session here.

        Redis removes them when their last session ends, but for sessions that ended before Redis had the replica back.
        """
        drains = self._mirror.view.to_be_removed
        used = {lease.replica.key for lease in self._ledger.held.values()} if drains else ()
        return [key for key in drains if key not in used]

    async def end(self, lease: HeldLease) -> None:
        """Release a lease. A lease that has already ended, also by the end of this router, is left unchanged."""
        if not self._ledger.begin_end(lease.id):
            return
        self.released += 1
        if self._emitter.has_session_listeners:
            self._news.ended(lease, LeaseEnd.RELEASED)
        was_taken_since = self._outage.degraded.give_back(lease.id)
        lease_id, ledger = lease.id, self._ledger
        try:
            await self._store.release(lease_id, affinity_seconds=self._affinity_seconds, on_end=ledger.end)
        except StoreError as error:
            ledger.fail_to_end(lease_id)
            self._outage.note_failure(error)
            # A release that may have reached Redis frees the slot for other routers.
            if not was_taken_since and (was_refused(error) or was_not_sent(error)):
                ledger.keep(lease_id, lease.replica.key)
            self._reconciler.ask()
        except BaseException:
            ledger.fail_to_end(lease_id)
            self._reconciler.ask_to_end()
            raise

    def _is_gone(self, lease: HeldLease) -> bool:
        replica = self._mirror.view.get(lease.replica.key)
        if replica is None:
            return not is_later(lease.revision, self._mirror.revision)
        is_lost = (_is_removed if lease.is_spare else _is_lost)(replica.record)
        return is_lost and is_later(replica.record.revision, lease.revision)


def _is_lost(record: ReplicaRecord) -> bool:
    return record.health.status is ReplicaStatus.UNHEALTHY or _is_removed(record)


def _is_removed(record: ReplicaRecord) -> bool:
    return record.admin is AdminState.REMOVED
