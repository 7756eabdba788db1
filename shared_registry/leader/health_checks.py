"""A router's health checks: it campaigns for leader, probes as the leader or by its share, and answers as a peer."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import random
from collections.abc import Callable, Mapping, Sequence

from shared_registry.aio.clock import Clock
from shared_registry.config import RouterConfig
from shared_registry.discovery import Discovery, FollowedSource
from shared_registry.leader.authority import Participation
from shared_registry.leader.duties import Duty, perform
from shared_registry.leader.election import Election, LeaderLease
from shared_registry.leader.health_loop import HealthLoop, HealthSettings
from shared_registry.leader.panic_watch import PanicWatch
from shared_registry.leader.ramps import Ramps
from shared_registry.leader.sharing import LeaderProbing, PlanKeeper, SharedProbing
from shared_registry.leader.upgrading import Upgrader
from shared_registry.mirror.mirror import Mirror
from shared_registry.probing import HttpProbe, HttpProber
from shared_registry.probing.listeners import ProbeListeners, Testify
from shared_registry.probing.peer import Peer, PeerSettings
from shared_registry.probing.probe_counts import ProbeCounts
from shared_registry.probing.prober_list import ProberList
from shared_registry.probing.target import probe_print, url_maker
from shared_registry.probing.trouble_log import TroubleLog
from shared_registry.selection.cooldown import Cooldown
from shared_registry.store.commands import Store


class HealthChecks:
    """Connects election, duties and peer to one router's store and mirror. Only one `run` at a time.

    Attributes:
        counts: Counts the probes of this router.
    """

    def __init__(
        self,
        store: Store,
        mirror: Mirror,
        cooldown: Cooldown,
        *,
        probers: ProberList,
        trouble_log: TroubleLog,
        testify: Testify,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self.counts = ProbeCounts(clock)
        self._store = store
        self._mirror = mirror
        self._cooldown = cooldown
        self._router = probers.router
        self._probers = probers
        self._trouble_log = trouble_log
        self._testify = testify
        self._clock = clock
        self._rng = rng
        self._election: Election | None = None
        self._loop: HealthLoop | None = None
        self._shared_loop: HealthLoop | None = None
        self._discovery: Discovery | None = None
        self._peer: Peer | None = None
        self._share_batches = itertools.count(1)
        self._is_changed = asyncio.Event()
        self._is_running = False

    @property
    def is_running(self) -> bool:
        """Whether this router takes part in elections."""
        return self._is_running

    @property
    def is_leader(self) -> bool:
        """Whether this router is the leader, by its own clock."""
        return self._election is not None and self._election.term is not None

    @property
    def local_health(self) -> float | None:
        """The worst `LocalHealth.share` of what runs: as the leader, and for the own share; `None` if neither."""
        loops = [loop for loop in (self._loop, self._shared_loop) if loop is not None]
        return min((health for loop in loops if (health := loop.local_health) is not None), default=None)

    @property
    def discovery_sources(self) -> Mapping[str, FollowedSource]:
        """See `Discovery.states`; empty while this router takes no part."""
        return {} if self._discovery is None else self._discovery.states

    def hear_of_lease(self, remaining_seconds: float) -> None:
        """See `Election.hear_of_lease`. Does nothing while this router takes no part in elections."""
        if self._election is not None:
            self._election.hear_of_lease(remaining_seconds)

    def distrust(self, key: str) -> None:
        """Probe this replica at once, because a session of this router could not connect to it.

        Connections that are kept for probes do not count for its next probe as its prober.
        """
        if self._loop is not None:
            self._loop.distrust(key)
        if self._peer is not None:
            self._peer.distrust(key)

    def _reach(self, keys: Sequence[str], is_reached: bool) -> None:  # noqa: FBT001  the state to set
        """Record what a health loop found out. As a peer this router goes on from there."""
        if self._peer is not None:
            self._peer.learn(keys, is_reached)

    def reload(self) -> None:
        """Let `run` begin anew with changed settings. If this router is the leader, it resigns before that."""
        self._is_changed.set()

    async def run(self, settings: Callable[[], RouterConfig], http_get: HttpProbe | None) -> None:
        """Take part in elections until cancelled; then report the last probe results, and resign.

        Args:
            settings: Returns the settings of probes and of the leader's lease; called again after each `reload()`.
            http_get: Replaces the HTTP probe.
        """
        self._is_running = True
        try:
            while True:
                self._is_changed.clear()
                async with asyncio.TaskGroup() as group:
                    work = group.create_task(self._take_part(settings(), http_get))
                    change = group.create_task(self._is_changed.wait())
                    await asyncio.wait((work, change), return_when=asyncio.FIRST_COMPLETED)
                    work.cancel()
                    change.cancel()
                if not self._is_changed.is_set():
                    return
        finally:
            self._is_running = False

    async def _take_part(self, config: RouterConfig, http_get: HttpProbe | None) -> None:
        async with contextlib.AsyncExitStack() as stack:
            peer = self._peer = await self._make_peer(stack, config, http_get)
            probe = await _probe(stack, config, http_get)
            loop = self._loop = self._health_loop(config, probe)
            probing = LeaderProbing(loop, self._mirror, router=self._router, share_batches=self._share_batches)
            shared = None
            if config.probing == "shared":
                self._shared_loop = self._health_loop(config, probe)
                shared = self._shared_probing(self._shared_loop)
            duties = self._duties(config, probing)
            self._election = Election(
                self._store,
                router=self._router,
                lead=functools.partial(perform, duties),
                lease=LeaderLease(config.lease_seconds, config.renew_interval_seconds),
                seen_epoch=lambda: self._mirror.epoch,
                emitter=self._mirror.emitter,
                clock=self._clock,
                rng=self._rng,
            )
            listeners = [*(duty.notice for duty in duties), self._election.notice, peer.notice]
            if shared is not None:
                listeners.append(shared.notice)
            try:
                with self._mirror.subscribed(*listeners), self._probers.taking_part(probe_print(config)):
                    async with asyncio.TaskGroup() as group:
                        group.create_task(peer.run())
                        if shared is not None:
                            group.create_task(shared.run())
                        if config.may_lead:
                            await self._election.run()
            finally:
                self._election = self._loop = self._shared_loop = self._discovery = self._peer = None

    def _duties(self, config: RouterConfig, probing: LeaderProbing) -> list[Duty]:
        plan = PlanKeeper(
            self._store,
            self._mirror,
            is_shared=config.probing == "shared",
            heartbeat_seconds=config.heartbeat_seconds,
            clock=self._clock,
        )
        panic = PanicWatch(self._store, self._mirror.view, clock=self._clock, rng=self._rng)
        upgrader = Upgrader(self._store, router=self._router, clock=self._clock, rng=self._rng)
        self._discovery = Discovery(self._store, self._mirror.view, config, clock=self._clock, rng=self._rng)
        return [probing, plan, panic, self._ramps(config), upgrader, self._discovery]

    def _health_loop(self, config: RouterConfig, probe: HttpProbe) -> HealthLoop:
        prober = probe if isinstance(probe, HttpProber) else None
        return HealthLoop(
            self._mirror,
            self._store.report,
            probe,
            _health_settings(config),
            router=self._router,
            listeners=ProbeListeners(
                self._trouble_log,
                self._reach,
                retain=prober.retain if prober else None,
                forget=prober.forget if prober else None,
                counts=self.counts,
            ),
            clock=self._clock,
            rng=self._rng,
        )

    def _shared_probing(self, loop: HealthLoop) -> SharedProbing:
        make_share = functools.partial(
            Participation,
            self._mirror,
            self._probers,
            is_leader=lambda: self.is_leader,
            share_batches=self._share_batches,
            clock=self._clock,
        )
        return SharedProbing(loop, make_share, clock=self._clock)

    async def _make_peer(
        self, stack: contextlib.AsyncExitStack, config: RouterConfig, http_get: HttpProbe | None
    ) -> Peer:
        probe = await _probe(stack, config, http_get)
        return Peer(
            self._mirror,
            self._store.give_opinions,
            probe,
            _peer_settings(config),
            probers=self._probers,
            clock=self._clock,
            rng=self._rng,
            listeners=ProbeListeners(
                self._trouble_log, self._cooldown.reach, testify=self._testify, counts=self.counts
            ),
        )

    def _ramps(self, config: RouterConfig) -> Ramps:
        view = self._mirror.view
        return Ramps(self._store, view, slow_start_seconds=config.slow_start_seconds, clock=self._clock, rng=self._rng)


async def _probe(stack: contextlib.AsyncExitStack, config: RouterConfig, http_get: HttpProbe | None) -> HttpProbe:
    """Return a probe with connections of its own."""
    return http_get if http_get is not None else await stack.enter_async_context(HttpProber(config))


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
