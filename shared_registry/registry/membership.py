"""Keeps this router among the live routers: sends heartbeats, reaps expired routers, and leaves at the end."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from shared_registry.aio.backoff import Backoff
from shared_registry.aio.clock import Clock, wait_until
from shared_registry.config import RouterConfig
from shared_registry.errors import KeyConflict, StoreError
from shared_registry.leases.settling import Settler
from shared_registry.model import Event, RouterInfo, Source
from shared_registry.probing.prober_list import ProberList
from shared_registry.store.commands import Store
from shared_registry.store.replies import Departure, Heartbeat

logger = logging.getLogger(__name__)


DRAINS_AT_ONCE = 5
ANNOUNCED_SECONDS = 1.0
"""The longest time between heartbeats while replicas are announced. See ANNOUNCEMENTS_GAP_MS in lib/announced.lua."""
SHORTEST_SECONDS = 0.05


class HeartbeatHooks(NamedTuple):
    """What else happens at each heartbeat.

    Attributes:
        measure: Adds to the description what this router measures of itself: whether it can connect to replicas, and
            ages. Called once, before the heartbeat.
        on_end: Receives the reply, or `None` if the heartbeat failed.
    """

    measure: Callable[[RouterInfo], RouterInfo]
    on_end: Callable[[Heartbeat | None], None]


class Membership:
    """Keeps one router in the Redis key `routers`. Only one `run` at a time.

    Attributes:
        reaped_leases: How many leases of routers that have expired this router has ended.
    """

    def __init__(
        self,
        store: Store,
        info: RouterInfo,
        settings: RouterConfig,
        *,
        settler: Settler,
        probers: ProberList,
        hooks: HeartbeatHooks,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        """Set up; the first heartbeat joins the routers.

        Args:
            store: Lists the routers.
            info: The data that this router publishes about itself.
            settings: How often this router sends a heartbeat, when others may reap it, and how long the sessions of a
                reaped router may return to their replicas.
            settler: Checks the replies, and knows this router's sessions and what it says after a loss of data.
            probers: The routers that can probe, kept current by the heartbeats' replies.
            hooks: Called at each heartbeat.
            clock: Used for waits.
            rng: Used for jitter, and to choose among many replicas to be removed.
        """
        self._store = store
        self._info = info
        self._settler = settler
        self._probers = probers
        self._hooks = hooks
        self._heartbeat_seconds = settings.heartbeat_seconds
        self._affinity_seconds = settings.affinity_seconds
        self._moves_leases = settings.hold_grace_seconds > 0
        self._expiry_seconds = settings.router_expiry_seconds
        self._panic_percent = settings.effective_panic_percent
        self._probing = settings.probing
        self._clock = clock
        self._rng = rng
        self._backoff = Backoff(longest_seconds=settings.heartbeat_seconds, rng=rng)
        self._is_in_trouble = False
        self.reaped_leases = 0
        self._unreapable: set[str] = set()
        self._are_announced = False

    def notice(self, events: Sequence[Event]) -> None:
        """Send a heartbeat soon if these events bring the first announced replica. For `Mirror.subscribed`.

        Until a heartbeat knows of announced replicas, the gaps between heartbeats may be so long that the script takes
        them for an outage, after which nothing expires for one time to live.
        """
        if self._are_announced:
            return
        if any(record.source == Source.ANNOUNCED for event in events for record in event.carried):
            self._are_announced = True
            self._probers.is_changed.set()

    def reload(self, settings: RouterConfig) -> None:
        """Publish the fingerprint of changed settings, and whether this router takes part in shared probing."""
        self._info = replace(self._info, config_fingerprint=settings.fingerprint())
        self._probing = settings.probing
        self._probers.is_changed.set()

    async def heartbeat(self) -> Heartbeat:
        """Send one heartbeat.

        Raises:
            StoreError: Redis did not accept the heartbeat.
        """
        self._probers.is_changed.clear()
        end_heartbeat, drains = self._settler.begin_heartbeat(), self._settler.holder.drains()
        sent_at = self._clock.monotonic()
        try:
            info = replace(
                self._hooks.measure(self._info),
                machine=self._probers.machine,
                probe_print=self._probers.probe_print,
                probing=self._probing,
            )
            heartbeat = await self._store.heartbeat(
                info,
                expiry_seconds=self._expiry_seconds,
                panic_percent=self._panic_percent,
                probers_version=self._probers.version,
                known_history=self._settler.known_history,
                settled=self._settler.word,
                peers=self._settler.peers if self._settler.word else (),
                drains=self._rng.sample(drains, min(len(drains), DRAINS_AT_ONCE)),
            )
        except StoreError as error:
            end_heartbeat(error)
            self._hooks.on_end(None)
            raise
        end_heartbeat(heartbeat)
        self._probers.alive_until = sent_at + self._expiry_seconds
        self._are_announced = heartbeat.next_expiry_seconds is not None
        self._hooks.on_end(heartbeat)
        if heartbeat.probers is not None:
            self._probers.update(heartbeat.probers_version, heartbeat.probers)
        return heartbeat

    async def leave(self) -> None:
        """End this router's leases, and remove it from the live routers.

        Raises:
            StoreError: Redis did not accept the change. Other routers reap this one when it has expired.
        """
        affinity, moves = self._affinity_seconds, self._moves_leases
        while await self._store.leave(affinity_seconds=affinity, moves=moves) is Departure.PARTIAL:
            pass

    async def run(self) -> None:
        """Send heartbeats, and reap routers that have expired, until cancelled."""
        while True:
            try:
                heartbeat = await self.heartbeat()
                pause = 0.0 if heartbeat.is_partial else self._pause(heartbeat.next_expiry_seconds)
                next_heartbeat_at = self._clock.monotonic() + pause
                await self._reap(heartbeat.expired, until=next_heartbeat_at)
            except StoreError as error:
                if not self._is_in_trouble:
                    self._is_in_trouble = True
                    logger.warning("router: cannot send a heartbeat: %s", error)
                await self._clock.sleep(self._backoff.next_seconds())
            else:
                if self._is_in_trouble or heartbeat.joined:
                    extra = {"router": self._info.key}
                    logger.info("router: %s is among the live routers", self._info.key, extra=extra)
                self._is_in_trouble = False
                self._backoff.reset()
                await wait_until(self._clock, next_heartbeat_at, self._probers.is_changed)

    def _pause(self, next_expiry_seconds: float | None) -> float:
        """Return the time until the next heartbeat.

        Announced replicas expire by heartbeats, so one comes when the next may. Gaps between heartbeats of all routers
        that are much longer than `ANNOUNCED_SECONDS` count as an outage, in which no replica expires.
        """
        if next_expiry_seconds is None:
            return self._heartbeat_seconds
        return min(self._heartbeat_seconds, ANNOUNCED_SECONDS, max(next_expiry_seconds, SHORTEST_SECONDS))

    def _count_reaped(self, leases: int) -> None:
        self.reaped_leases += leases

    async def _reap(self, expired: Sequence[str], *, until: float) -> None:
        """Reap expired routers until the next heartbeat is due. Its reply names the remaining ones.

        A router whose keys are damaged is left for `check --repair`, and delays no other.
        """
        for router in expired:
            departure = Departure.PARTIAL
            try:
                while departure is Departure.PARTIAL:
                    if self._clock.monotonic() >= until:
                        return
                    departure = await self._store.reap(
                        router,
                        affinity_seconds=self._affinity_seconds,
                        moves=self._moves_leases,
                        on_ended=self._count_reaped,
                    )
            except KeyConflict as error:
                if router not in self._unreapable:
                    self._unreapable.add(router)
                    extra = {"router": router}
                    logger.warning("router: %s has expired and cannot be reaped: %s", router, error, extra=extra)
                continue
            self._unreapable.discard(router)
            if departure is Departure.DONE:
                logger.warning("router: %s has expired and was reaped", router, extra={"router": router})
