"""By what right a router probes and reports: its term as the leader, or its share of the plan.

This is all that differs between the probes of the leader and those of a participant.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Protocol

from shared_registry.aio.clock import Clock
from shared_registry.leader.election import RunningTerm, StandAside
from shared_registry.model import Share, Term, planned_prober
from shared_registry.probing.peer import KnownReplicas
from shared_registry.probing.prober_list import ProberList

Mandate = Term | Share
"""What a report carries, so that Redis can refuse it."""


class Authority(Protocol):
    """The right to probe some replicas, and to report on them."""

    @property
    def is_current(self) -> bool:
        """Whether this router may still act."""

    @property
    def ends_at(self) -> float:
        """When the authority ends, on the monotonic clock, unless Redis confirms it again."""

    @property
    def mandate(self) -> Mandate:
        """What the result of a probe that begins now is reported under."""

    def covers(self, key: str) -> bool:
        """Return whether this router probes the replica with this canonical url now."""

    def next_batch(self, mandate: Mandate) -> int:
        """Return the number of the next batch of reports under a mandate."""

    def stand_aside(self, complaint: str, *, is_contradicted: bool = False) -> None:
        """End the authority of a leader that is unfit to probe.

        Args:
            complaint: Why it is unfit.
            is_contradicted: Whether the reason is that other routers reach what this one does not.

        Raises:
            StandAside: The term should end.
        """


class Lead:
    """The right of the leader. Where there is a plan, it covers the leader's share, and otherwise all replicas."""

    def __init__(
        self, term: RunningTerm, known: KnownReplicas, *, router: str, share_batches: itertools.count[int]
    ) -> None:
        """Set up.

        Args:
            term: The leader's term.
            known: Who probes what, as this router's mirror shows it.
            router: This router's key.
            share_batches: The numbers of batches under shares, which never begin again.
        """
        self._term = term
        self._known = known
        self._router = router
        self._share_batches = share_batches

    def __str__(self) -> str:
        return f"epoch {self._term.epoch}"

    @property
    def is_current(self) -> bool:
        """See `Authority`."""
        return self._term.is_current

    @property
    def ends_at(self) -> float:
        """See `Authority`."""
        return self._term.deadline

    @property
    def mandate(self) -> Mandate:
        """See `Authority`."""
        plan = self._known.plan
        return Share(plan.number, self._router) if plan is not None and self._router in plan.routers else self._term

    def covers(self, key: str) -> bool:
        """See `Authority`."""
        plan = self._known.plan
        return plan is None or plan.prober_of(key) == self._router

    def next_batch(self, mandate: Mandate) -> int:
        """See `Authority`."""
        if isinstance(mandate, Share):
            return next(self._share_batches)
        self._term.batch += 1
        return self._term.batch

    def stand_aside(self, complaint: str, *, is_contradicted: bool = False) -> None:
        """See `Authority`."""
        if not self._term.is_last_resort:
            raise StandAside(complaint, is_contradicted=is_contradicted)


class Participation:
    """The right of a router that has a share of the plan and is not the leader.

    It lasts as long as the plan names the router, and its last heartbeat is not older than its expiry. From then on the
    leader may have given its share to others. What is over does not begin again: another object does.
    """

    def __init__(
        self,
        known: KnownReplicas,
        probers: ProberList,
        *,
        is_leader: Callable[[], bool],
        share_batches: itertools.count[int],
        clock: Clock,
    ) -> None:
        """Set up.

        Args:
            known: Who probes what, as this router's mirror shows it.
            probers: This router's key, and until when it counts as alive.
            is_leader: Returns whether this router is the leader, which probes under its term.
            share_batches: See `Lead`.
            clock: The monotonic clock.
        """
        self._known = known
        self._probers = probers
        self._is_leader = is_leader
        self._share_batches = share_batches
        self._clock = clock
        self._is_over = False

    def __str__(self) -> str:
        return "the share of the plan"

    @property
    def is_current(self) -> bool:
        """See `Authority`."""
        plan = self._known.plan
        is_named = plan is not None and self._probers.router in plan.routers
        is_alive = self._clock.monotonic() < self._probers.alive_until
        self._is_over = self._is_over or not is_named or not is_alive or self._is_leader()
        return not self._is_over

    @property
    def ends_at(self) -> float:
        """See `Authority`."""
        return self._probers.alive_until

    @property
    def mandate(self) -> Mandate:
        """See `Authority`."""
        plan = self._known.plan
        return Share(plan.number if plan is not None else 0, self._probers.router)

    def covers(self, key: str) -> bool:
        """See `Authority`."""
        return planned_prober(key, self._known.plan, None) == self._probers.router

    def next_batch(self, mandate: Mandate) -> int:  # noqa: ARG002  all are shares
        """See `Authority`."""
        return next(self._share_batches)

    def stand_aside(self, complaint: str, *, is_contradicted: bool = False) -> None:
        """Do nothing: what others reach is handed over to them replica by replica."""
