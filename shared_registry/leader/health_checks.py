"""A router's health checks: it campaigns for leader, probes for all while it leads, and answers as a peer meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random

from shared_registry.aio.clock import Clock
from shared_registry.config import RouterConfig
from shared_registry.leader.duties import Duty, perform
from shared_registry.leader.election import Election
from shared_registry.leader.health_loop import HealthLoop, HealthSettings
from shared_registry.leader.panic_watch import PanicWatch
from shared_registry.leader.ramps import Ramps
from shared_registry.mirror.mirror import Mirror
from shared_registry.probing import HttpProbe, HttpProber
from shared_registry.probing.listeners import ProbeListeners
from shared_registry.probing.peer import Peer, PeerSettings
from shared_registry.probing.prober_list import ProberList
from shared_registry.probing.target import probe_print, url_maker
from shared_registry.probing.trouble_log import TroubleLog
from shared_registry.selection.cooldown import Cooldown
from shared_registry.store.commands import Store


class HealthChecks:
    """Connects election, duties and peer to one router's store and mirror. Only one `run` at a time."""

    def __init__(
        self,
        store: Store,
        mirror: Mirror,
        cooldown: Cooldown,
        *,
        probers: ProberList,
        trouble_log: TroubleLog,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._store = store
        self._mirror = mirror
        self._cooldown = cooldown
        self._router = probers.router
        self._probers = probers
        self._trouble_log = trouble_log
        self._clock = clock
        self._rng = rng
        self._election: Election | None = None
        self._loop: HealthLoop | None = None

    @property
    def is_running(self) -> bool:
        """Whether this router takes part in elections."""
        return self._election is not None

    @property
    def is_leader(self) -> bool:
        """Whether this router is the leader, by its own clock."""
        return self._election is not None and self._election.term is not None

    def distrust(self, key: str) -> None:
        """Probe this replica on a fresh connection the next time, because a session of this router has failed on it."""
        if self._loop is not None:
            self._loop.distrust(key)

    async def run(self, config: RouterConfig, http_get: HttpProbe | None) -> None:
        """Take part in elections until cancelled; then report the last probe results, and resign.

        Args:
            config: The settings of probes and of the leader's lease.
            http_get: Replaces the HTTP probe.
        """
        async with contextlib.AsyncExitStack() as stack:
            loop = self._loop = await self._health_loop(stack, config, http_get)
            peer = await self._peer(stack, config, http_get)
            duties: list[Duty] = [
                loop,
                PanicWatch(self._store, self._mirror.view, clock=self._clock, rng=self._rng),
                self._ramps(config),
            ]
            self._election = Election(
                self._store,
                router=self._router,
                lead=functools.partial(perform, duties),
                lease_seconds=config.lease_seconds,
                renew_interval_seconds=config.renew_interval_seconds,
                seen_epoch=lambda: self._mirror.epoch,
                clock=self._clock,
                rng=self._rng,
            )
            listeners = [*(duty.notice for duty in duties), self._election.notice, peer.notice]
            try:
                with self._mirror.subscribed(*listeners), self._probers.taking_part(probe_print(config)):
                    async with asyncio.TaskGroup() as group:
                        group.create_task(peer.run())
                        await self._election.run()
            finally:
                self._election = self._loop = None

    async def _health_loop(
        self, stack: contextlib.AsyncExitStack, config: RouterConfig, http_get: HttpProbe | None
    ) -> HealthLoop:
        prober = None
        if http_get is None:
            prober = http_get = await stack.enter_async_context(HttpProber(config))
        return HealthLoop(
            self._mirror,
            self._store.report,
            http_get,
            _health_settings(config),
            router=self._router,
            listeners=ProbeListeners(self._trouble_log, self._cooldown.reach, prober.retain if prober else None),
            clock=self._clock,
            rng=self._rng,
        )

    async def _peer(self, stack: contextlib.AsyncExitStack, config: RouterConfig, http_get: HttpProbe | None) -> Peer:
        if http_get is None:
            http_get = await stack.enter_async_context(HttpProber(config))
        return Peer(
            self._mirror,
            self._store.give_opinions,
            http_get,
            _peer_settings(config),
            probers=self._probers,
            clock=self._clock,
            rng=self._rng,
            listeners=ProbeListeners(self._trouble_log, self._cooldown.reach),
        )

    def _ramps(self, config: RouterConfig) -> Ramps:
        view = self._mirror.view
        return Ramps(self._store, view, slow_start_seconds=config.slow_start_seconds, clock=self._clock, rng=self._rng)


def _health_settings(config: RouterConfig) -> HealthSettings:
    return HealthSettings(
        url_of=url_maker(config),
        interval_seconds=config.health_check_interval_seconds,
        fast_interval_seconds=config.effective_fast_interval_seconds,
        timeout_seconds=config.health_check_timeout_seconds,
        thresholds=config.thresholds(),
        concurrency=config.probe_concurrency,
    )


def _peer_settings(config: RouterConfig) -> PeerSettings:
    return PeerSettings(
        url_of=url_maker(config),
        fast_interval_seconds=config.effective_fast_interval_seconds,
        thresholds=config.thresholds(),
    )
