"""Builds one router's placement from the parts that acquire, hold, release and compare leases."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from shared_registry.aio.clock import Clock
from shared_registry.config import RouterConfig
from shared_registry.happenings import LeaseEnd
from shared_registry.leases.asking import Acquirer, Asker
from shared_registry.leases.holding import Holder
from shared_registry.leases.lease_news import LeaseNews
from shared_registry.leases.ledger import Ledger
from shared_registry.leases.movable import MovableLeases
from shared_registry.leases.outage import Outage
from shared_registry.leases.queue import RouterQueue
from shared_registry.leases.reconciliation import Member, Reconciler
from shared_registry.leases.recovery import Recovery
from shared_registry.leases.settling import Settler
from shared_registry.mirror.mirror import Mirror
from shared_registry.probing.prober_list import ProberList
from shared_registry.store.commands import Store
from shared_registry.store.reader import Reader


class Placement:
    """One router's leases. `run` must be kept running, and `settler.begin_heartbeat` must precede every heartbeat."""

    def __init__(
        self,
        store: Store,
        reader: Reader,
        mirror: Mirror,
        settings: RouterConfig,
        *,
        probers: ProberList,
        join: Callable[[], Awaitable[object]],
        clock: Clock,
        rng: random.Random,
    ) -> None:
        """Build the parts; nothing is sent before the first acquire.

        Args:
            store: Writes to the shared state.
            reader: Reads the shared state.
            mirror: Shows the registered replicas.
            settings: This router's settings.
            probers: This router's key, and the other routers that can probe.
            join: Sends a heartbeat, by which this router joins the live routers.
            clock: Used for waits and deadlines.
            rng: Used for jitter.
        """
        self._mirror = mirror
        self.ledger = Ledger()
        news = self._news = LeaseNews(mirror.emitter, clock)
        router = probers.router
        mode, affinity = settings.degraded_placement, settings.affinity_seconds
        self.reconciler = Reconciler(
            store,
            reader,
            self.ledger,
            news,
            Member(router, join),
            affinity_seconds=affinity,
            clock=clock,
            rng=rng,
        )
        self.outage = Outage(
            mode,
            reader,
            mirror,
            self.ledger,
            news,
            router=router,
            refresh_seconds=settings.refresh_seconds,
            clock=clock,
        )
        self.holder = Holder(
            store, mirror, self.ledger, self.outage, self.reconciler, affinity_seconds=affinity, news=news
        )
        self._queue = RouterQueue(
            reader,
            router=router,
            is_known=self.ledger.knows,
            on_orphaned_lease=self.reconciler.ask,
            news=news,
            clock=clock,
            rng=rng,
        )
        recovery = Recovery(join, self.reconciler)
        self._asker = Asker(
            store,
            self.ledger,
            self.outage,
            recovery,
            settings=settings,
            clock=clock,
        )
        self.settler = Settler(
            self.holder,
            mirror,
            self.reconciler,
            self._queue,
            lately_alive=lambda: {*probers.others, *self.outage.lately_alive()},
            join=join,
            clock=clock,
            rng=rng,
        )
        self.acquirer = self._acquirer(clock)
        self.movable = MovableLeases(
            store,
            self.ledger,
            mirror,
            self.reconciler,
            end=self.holder.end,
            grace_seconds=settings.hold_grace_seconds,
            clock=clock,
        )

    def _acquirer(self, clock: Clock) -> Acquirer:
        return Acquirer(
            self._asker,
            self._queue,
            self.ledger,
            self.outage,
            self.reconciler,
            self._mirror,
            end=self.holder.end,
            clock=clock,
        )

    async def run(self) -> None:
        """Reconcile when due, read the loads regularly, and follow the queue, until cancelled."""
        with self._mirror.subscribed(self.holder.notice, self._queue.notice, self.settler.notice):
            async with asyncio.TaskGroup() as group:
                group.create_task(self.reconciler.run())
                group.create_task(self._queue.run())
                group.create_task(self.outage.poll_loads())
                group.create_task(self.settler.run())
                group.create_task(self.movable.run())

    def close(self) -> None:
        """Forget all leases, because they end with this router. Releasing one of them does nothing any more."""
        for lease in self.ledger.clear():
            if self._news.emitter.has_listeners:
                self._news.ended(lease, LeaseEnd.LEFT)
        self.movable.close()
        self.reconciler.close()
        self._asker.close()
        self._queue.call_all()
