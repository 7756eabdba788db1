"""Shared probing: the leader divides the replicas among the routers, and each of these probes its share.

See `docs/verdicts.md`. `divide` decides who gets what, `PlanKeeper` is the duty of the leader, and `SharedProbing` what
the other participants do.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from shared_registry.aio.clock import Clock, wait_until
from shared_registry.errors import Fenced, StoreError
from shared_registry.leader.authority import Authority, Lead
from shared_registry.leader.election import RunningTerm
from shared_registry.leader.health_loop import HealthLoop
from shared_registry.model import Event, EventKind, Term
from shared_registry.model.plan import BUCKETS, bucket_of
from shared_registry.probing.peer import KnownReplicas
from shared_registry.store.replies import Participants

TOLERANCE = 0.02
"""How much the largest share may exceed the smallest one, as a part of the mean, before buckets move. One replica more
is always accepted."""
REPLICA_WEIGHT = len(BUCKETS)
"""The weight of a replica beside that of its bucket, which is 1: empty buckets are divided evenly too."""
LONGEST_WAIT_SECONDS = 1.0
MARGIN_SECONDS = 0.02
"""How long after a router's expiry to look for it, so that it has expired by then."""
DEPARTURES = (EventKind.ROUTER_LEFT, EventKind.ROUTER_EXPIRED)
logger = logging.getLogger(__name__)


def divide(routers: Sequence[str], former: Mapping[str, str], replicas: Mapping[str, int]) -> dict[str, str]:
    """Return the router of each bucket. A bucket stays with its router as long as the shares are about equal.

    Args:
        routers: The routers that take part, sorted; if there is none, nobody gets a bucket.
        former: The router of each bucket so far.
        replicas: The number of replicas in each bucket.
    """
    if not routers:
        return {}
    weights = {bucket: 1 + REPLICA_WEIGHT * replicas.get(bucket, 0) for bucket in BUCKETS}
    shares = {bucket: router for bucket, router in former.items() if router in routers and bucket in weights}
    loads = dict.fromkeys(routers, 0)
    for bucket, router in shares.items():
        loads[router] += weights[bucket]
    for bucket in sorted(weights.keys() - shares.keys(), key=lambda one: (-weights[one], one)):
        shares[bucket] = min(loads, key=loads.__getitem__)
        loads[shares[bucket]] += weights[bucket]
    accepted = max(REPLICA_WEIGHT, TOLERANCE * sum(weights.values()) / len(routers))
    while (gap := max(loads.values()) - min(loads.values())) > accepted:
        most, least = max(loads, key=loads.__getitem__), min(loads, key=loads.__getitem__)
        movable = [bucket for bucket, router in shares.items() if router == most and weights[bucket] < gap]
        if not movable:
            break
        moved = min(movable, key=lambda one: (abs(2 * weights[one] - gap), one))
        shares[moved] = least
        loads[most] -= weights[moved]
        loads[least] += weights[moved]
    return shares


class PlanStore(Protocol):
    """The part of the store that keeps the plan."""

    async def participants(self, term: Term) -> Participants:
        """Return the routers that can share the probing, and the present plan."""

    async def write_plan(self, term: Term, shares: Mapping[str, str]) -> bool:
        """Store the router of each bucket; none ends the plan. Return whether that was a change."""


class PlanKeeper:
    """Keeps the plan while this router is the leader. `run` once per term.

    If this router is not set to share, it removes the plan of another leader, and otherwise sends nothing.
    """

    def __init__(
        self,
        store: PlanStore,
        replicas: KnownReplicas,
        *,
        is_shared: bool,
        heartbeat_seconds: float,
        clock: Clock,
    ) -> None:
        """Set up.

        Args:
            store: Keeps the plan.
            replicas: The replicas and the plan, as this router's mirror shows them.
            is_shared: Whether the routers share the probing while this router is the leader.
            heartbeat_seconds: How often to look for routers that have come or gone.
            clock: Used for waits.
        """
        self._store = store
        self._replicas = replicas
        self._is_shared = is_shared
        self._heartbeat_seconds = heartbeat_seconds
        self._clock = clock
        self._wake = asyncio.Event()

    def notice(self, events: Sequence[Event]) -> None:
        """Divide anew at once when a router has gone. For `Mirror.subscribed`."""
        if any(event.kind in DEPARTURES or event.kind is EventKind.PLAN_CHANGED for event in events) or not events:
            self._wake.set()

    async def run(self, term: RunningTerm) -> None:
        """Keep the plan as long as the term is current.

        Raises:
            Fenced: Another router is the leader.
        """
        while term.is_current:
            self._wake.clear()
            wait_seconds = self._heartbeat_seconds
            try:
                if self._is_shared:
                    wait_seconds = min(wait_seconds, await self._keep(term))
                elif self._replicas.plan is not None:
                    await self._store.write_plan(term, {})
            except Fenced:
                raise
            except StoreError as error:
                logger.debug("probing: the plan is kept as it is: %s", error)
            await wait_until(self._clock, self._clock.monotonic() + wait_seconds, self._wake)

    async def _keep(self, term: RunningTerm) -> float:
        """Divide anew if necessary, and return in how many seconds a router expires unless it sends a heartbeat."""
        found = await self._store.participants(term)
        former = found.plan.shares if found.plan is not None else {}
        shares = divide(
            found.routers, former, _count(record.key for record in self._replicas.probed() if record.is_probed)
        )
        is_of_term = found.plan is not None and found.plan.epoch == term.epoch
        if shares != former or (shares and not is_of_term):
            await self._store.write_plan(term, shares)
        return math.inf if found.next_expiry_seconds is None else found.next_expiry_seconds + MARGIN_SECONDS


def _count(keys: Iterable[str]) -> Counter[str]:
    return Counter(map(bucket_of, keys))


class LeaderProbing:
    """The leader's own probes, as one of its duties."""

    def __init__(
        self, loop: HealthLoop, known: KnownReplicas, *, router: str, share_batches: itertools.count[int]
    ) -> None:
        self._loop = loop
        self._known = known
        self._router = router
        self._share_batches = share_batches

    def notice(self, events: Sequence[Event]) -> None:
        """Receive changes. For `Mirror.subscribed`."""
        self._loop.notice(events)

    async def run(self, term: RunningTerm) -> None:
        """Probe for one term. See `HealthLoop.run`."""
        await self._loop.run(Lead(term, self._known, router=self._router, share_batches=self._share_batches))


class SharedProbing:
    """Probes this router's share of the plan whenever it has one and is not the leader. Only one `run` at a time."""

    def __init__(self, loop: HealthLoop, make_share: Callable[[], Authority], *, clock: Clock) -> None:
        self._loop = loop
        self._make_share = make_share
        self._clock = clock
        self._wake = asyncio.Event()

    def notice(self, events: Sequence[Event]) -> None:
        """Receive changes. For `Mirror.subscribed`."""
        self._loop.notice(events)
        if not events or any(event.kind in _TURNS for event in events):
            self._wake.set()

    async def run(self) -> None:
        """Probe until cancelled. The results so far are reported before the call ends."""
        while True:
            self._wake.clear()
            share = self._make_share()
            if share.is_current:
                await self._loop.run(share)
            await wait_until(self._clock, self._clock.monotonic() + LONGEST_WAIT_SECONDS, self._wake)


_TURNS = (EventKind.PLAN_CHANGED, EventKind.LEADER_ELECTED, EventKind.LEADER_RESIGNED)
