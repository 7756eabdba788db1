"""Lets a router campaign for leader, and run the duties of the leader during its terms."""

from __future__ import annotations

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
from shared_registry.model import Thresholds
from shared_registry.probing import HttpProbe, HttpProber
from shared_registry.probing.trouble_log import TroubleLog
from shared_registry.store.commands import Store


class Leadership:
    """Connects the election and the duties to one router's store and mirror. Only one `run` at a time."""

    def __init__(
        self,
        store: Store,
        mirror: Mirror,
        *,
        router: str,
        trouble_log: TroubleLog,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._store = store
        self._mirror = mirror
        self._router = router
        self._trouble_log = trouble_log
        self._clock = clock
        self._rng = rng
        self._election: Election | None = None

    @property
    def is_running(self) -> bool:
        """Whether this router takes part in elections."""
        return self._election is not None

    @property
    def is_leader(self) -> bool:
        """Whether this router is the leader, by its own clock."""
        return self._election is not None and self._election.term is not None

    async def run(self, config: RouterConfig, http_get: HttpProbe | None) -> None:
        """Take part in elections until cancelled; then report the last probe results, and resign.

        Args:
            config: The settings of probes and of the leader's lease.
            http_get: Replaces the HTTP probe.
        """
        async with contextlib.AsyncExitStack() as stack:
            prober = None
            if http_get is None:
                prober = http_get = await stack.enter_async_context(HttpProber(config))
            view = self._mirror.view
            panic_watch = PanicWatch(self._store, view, clock=self._clock, rng=self._rng)
            ramps = Ramps(
                self._store, view, slow_start_seconds=config.slow_start_seconds, clock=self._clock, rng=self._rng
            )
            loop = HealthLoop(
                self._mirror,
                self._store.report,
                http_get,
                _health_settings(config),
                clock=self._clock,
                rng=self._rng,
                trouble_log=self._trouble_log,
                retain=prober.retain if prober else None,
            )
            duties: list[Duty] = [loop, panic_watch, ramps]
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
            try:
                with self._mirror.subscribed(*(duty.notice for duty in duties), self._election.notice):
                    await self._election.run()
            finally:
                self._election = None


def _health_settings(config: RouterConfig) -> HealthSettings:
    return HealthSettings(
        path=config.health_check_path,
        port=config.health_check_port,
        interval_seconds=config.health_check_interval_seconds,
        fast_interval_seconds=config.effective_fast_interval_seconds,
        timeout_seconds=config.health_check_timeout_seconds,
        thresholds=Thresholds(config.failure_threshold, config.recovery_threshold),
        concurrency=config.probe_concurrency,
    )
