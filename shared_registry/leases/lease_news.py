"""Reports to listeners what happens to this router's leases, and to the sessions that ask for one."""

from __future__ import annotations

import time

from shared_registry.aio.clock import Clock
from shared_registry.errors import NoHealthyReplica, Saturated, StoreError
from shared_registry.happenings import (
    DegradedBegan,
    DegradedEnded,
    DenialReason,
    Emitter,
    LeaseAwaited,
    LeaseDenied,
    LeaseEnd,
    LeaseEnded,
    LeaseGranted,
    LeasesPutBack,
)
from shared_registry.leases.lease import HeldLease
from shared_registry.leases.ledger import SlotRequest
from shared_registry.store.replies import Queued, Restored


class LeaseNews:
    """Makes the happenings. Ask `emitter.has_listeners` before each call, so that nothing is made for nobody.

    Attributes:
        emitter: Delivers the happenings.
    """

    def __init__(self, emitter: Emitter, clock: Clock) -> None:
        self.emitter = emitter
        self._clock = clock

    def awaited(self, request: SlotRequest, entry: Queued) -> None:
        """Report that a session has begun to wait."""
        self.emitter.emit(
            LeaseAwaited(
                at=time.time(),
                lease_id=request.lease_id,
                session=request.session,
                position=entry.position,
                depth=entry.depth,
            )
        )

    def granted(self, request: SlotRequest, lease: HeldLease) -> None:
        """Report that `acquire` returns a lease."""
        self.emitter.emit(
            LeaseGranted(
                at=lease.acquired_at,
                lease_id=lease.id,
                session=lease.session,
                key=lease.replica.key,
                seconds=self._since(request.asked_at),
                waited_seconds=self._waited(request),
                is_spare=lease.is_spare,
                is_degraded=lease.is_degraded,
                has_returned=lease.has_returned,
            )
        )

    def denied(self, request: SlotRequest, error: BaseException) -> None:
        """Report that `acquire` raises an error."""
        self.emitter.emit(
            LeaseDenied(
                at=time.time(),
                lease_id=request.lease_id,
                session=request.session,
                reason=_reason_of(error),
                error=str(error) or type(error).__name__,
                seconds=self._since(request.asked_at),
                waited_seconds=self._waited(request),
            )
        )

    def ended(self, lease: HeldLease, end: LeaseEnd) -> None:
        """Report that a lease of this router ended."""
        now = time.time()
        self.emitter.emit(
            LeaseEnded(
                at=now,
                lease_id=lease.id,
                session=lease.session,
                key=lease.replica.key,
                end=end,
                seconds=max(now - lease.acquired_at, 0.0),
            )
        )

    def reconciled(self, lease_id: str, key: str) -> None:
        """Report that a lease ended which Redis had and this router did not know."""
        self.emitter.emit(LeaseEnded(at=time.time(), lease_id=lease_id, key=key, end=LeaseEnd.RECONCILED))

    def put_back(self, restored: Restored) -> None:
        """Report that leases were put back."""
        over_capacity = tuple(restored.over_capacity)
        self.emitter.emit(LeasesPutBack(at=time.time(), count=restored.count, over_capacity=over_capacity))

    def degraded_began(self, error: StoreError) -> None:
        """Report that sessions are placed without Redis."""
        self.emitter.emit(DegradedBegan(at=time.time(), error=str(error)))

    def degraded_ended(self, placed: int) -> None:
        """Report that sessions are placed through Redis again."""
        self.emitter.emit(DegradedEnded(at=time.time(), placed=placed))

    def _since(self, began_at: float) -> float:
        return max(self._clock.monotonic() - began_at, 0.0)

    def _waited(self, request: SlotRequest) -> float | None:
        return None if request.waits_since is None else self._since(request.waits_since)


def _reason_of(error: BaseException) -> DenialReason:
    if isinstance(error, Saturated):
        return DenialReason.SATURATED
    if isinstance(error, NoHealthyReplica):
        return DenialReason.NO_HEALTHY
    return DenialReason.UNAVAILABLE if isinstance(error, StoreError) else DenialReason.GIVEN_UP
