"""The facade: one router's registry of replicas, shared over Redis with the other routers. Owns the tasks' lives."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import logging
import os
import random
import socket
import time
from collections.abc import Collection
from types import TracebackType
from typing import Self

from shared_registry import client
from shared_registry._version import __version__
from shared_registry.backoff import Backoff
from shared_registry.check import Violation, find_violations
from shared_registry.client import Client, Clients
from shared_registry.clock import Clock, SystemClock
from shared_registry.config import RouterConfig, validate_endpoint
from shared_registry.errors import ConfigError, StoreError, StoreUnavailable, UsageError
from shared_registry.keys import Keys
from shared_registry.leadership import Leadership
from shared_registry.membership import Membership
from shared_registry.mirror import Mirror
from shared_registry.model import (
    AdminState,
    Event,
    Leader,
    Replica,
    ReplicaEndpoint,
    RouterInfo,
    Source,
    Thresholds,
)
from shared_registry.outcomes import Outcomes
from shared_registry.policy import priority
from shared_registry.probe import HttpProbe
from shared_registry.probe.text import one_line
from shared_registry.reader import Reader
from shared_registry.restoration import restore_view
from shared_registry.shared_state import SharedState
from shared_registry.store import Store, new_token
from shared_registry.supervise import keep_running
from shared_registry.urls import canonical_url
from shared_registry.view import View

logger = logging.getLogger(__name__)


class SharedReplicaRegistry:
    """Which replica takes this session? Asked by several routers of one shared state.

    Built synchronously, outside any event loop; `start()` or `async with` connects it. Before that it shows the
    configured replicas, all unknown. `select()` and the other synchronous members do no I/O: they read this router's
    mirror of the shared state, which is kept current in the background and outlives an outage of Redis.

    Not thread-safe: use it from one event loop. The asynchronous verbs raise `StoreUnavailable` when Redis does not
    answer within `redis_timeout_seconds`; except for `record_*` they may be repeated then.
    """

    def __init__(
        self,
        config: object,
        *,
        redis: Client | None = None,
        http_get: HttpProbe | None = None,
        health_checks: bool = True,
        clock: Clock | None = None,
        url: str = "",
    ) -> None:
        """Set up; nothing connects before `start`.

        Args:
            config: A `RouterConfig`, or any object with the attributes of the original's.
            redis: A client of yours, with `decode_responses=True`; it is not closed here. Default: built from
                `redis_url`.
            http_get: Replaces the HTTP probe.
            health_checks: Whether this router may lead, and then probes for all.
            clock: Replaces the monotonic clock.
            url: Where this router serves, for operators to see.

        Raises:
            ConfigError: A setting is wrong; the message lists everything that is.
        """
        self.config = settings = RouterConfig.adopt(config)
        self.health_checks = health_checks
        self.router_key = f"{settings.router_id}~{new_token()}"
        self._http_get = http_get
        self._clock = clock or SystemClock()
        self._rng = random.Random()
        self._keys = Keys(settings.namespace)
        self._clients = self._connect(redis)
        self._store = Store(
            self._clients.commands, self._keys, router=self.router_key, timeout_seconds=settings.redis_timeout_seconds
        )
        self._reader = Reader(self._clients, self._keys, timeout_seconds=settings.redis_timeout_seconds)
        self._view = View(priority)
        self._view.show_configured(settings.replicas)
        self._mirror = Mirror(
            self._reader,
            self._view,
            refresh_seconds=settings.refresh_seconds,
            max_staleness_seconds=settings.max_staleness_seconds,
            clock=self._clock,
            rng=self._rng,
            on_lost_history=self._contribute_view,
        )
        self._state = SharedState(self._store, self._reader, self._mirror)
        self._membership = Membership(
            self._store,
            self._router_info(url),
            heartbeat_seconds=settings.heartbeat_seconds,
            expiry_seconds=settings.router_expiry_seconds,
            clock=self._clock,
            rng=self._rng,
        )
        self._leadership = Leadership(
            self._store, self._mirror, self._state, router=self.router_key, clock=self._clock, rng=self._rng
        )
        self._tasks: asyncio.Task[None] | None = None
        self._outcomes = Outcomes(self._state, self._view)

    async def start(self, *, timeout_seconds: float | None = None) -> None:
        """Join the routers, read the shared state, register the configured replicas that are new to it.

        Keeps trying while Redis is away. On return the view is current, and is kept so until `stop`.

        Args:
            timeout_seconds: Give up after that long; `None` tries forever.

        Raises:
            StoreUnavailable: Redis could not be reached in that time. Nothing is left running.
            StoreRefused: Wrong credentials, or a server older than Redis 6.2. Nothing is left running.
            KeyConflict: A key of the namespace is of another type. Nothing is left running.
            UsageError: It was started already.
        """
        if self._tasks is not None:
            raise UsageError("the registry was started already; call stop() first")
        try:
            async with asyncio.timeout(timeout_seconds) as scope:
                await self._open()
        except BaseException as error:
            await self._close()
            if isinstance(error, TimeoutError) and scope.expired():
                where = client.redacted(self.config.redis_url)
                raise StoreUnavailable(f"Redis at {where} could not be used within {timeout_seconds:g} s") from error
            raise
        self._tasks = asyncio.create_task(self._run_tasks(), name=f"shared_registry {self.router_key}")
        self._tasks.add_done_callback(_log_death)
        self._outcomes.is_shared = True

    async def stop(self) -> None:
        """Resign if leading, leave the routers, close what was opened. Harmless when not started. Bounded in time."""
        tasks, self._tasks = self._tasks, None
        if tasks is None:
            return
        self._outcomes.is_shared = False
        tasks.cancel()
        await asyncio.gather(tasks, return_exceptions=True)
        await self._close()

    async def __aenter__(self) -> Self:
        """Start."""
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        await self.stop()

    def select(self, *, key: str | None = None, exclude: Collection[Replica | str] = ()) -> Replica | None:  # noqa: ARG002
        """Return the replica that the next session should go to; `None` if there is none.

        Synchronous and without I/O: the first healthy, active primary in order, else the first such other.

        Args:
            key: What a policy that places by key goes by; the priority policy has no use for it.
            exclude: Replicas, or urls, that were tried in vain.
        """
        if not exclude:
            return self._view.first
        return self._view.first_except({_key_of(one) for one in exclude})

    def all(self) -> list[Replica]:
        """Return all registered replicas in order."""
        return list(self._view.all())

    def get(self, url: str) -> Replica | None:
        """Return the replica with this url, in any spelling of it."""
        return self._view.get(_key_of(url))

    def primaries(self) -> list[Replica]:
        """Return the replicas of the first tier in order, whatever their health."""
        return [replica for replica in self._view.all() if replica.primary]

    @property
    def is_started(self) -> bool:
        """Whether it follows the shared state: from the end of `start` to `stop`."""
        return self._tasks is not None

    @property
    def is_leader(self) -> bool:
        """Whether this router leads, by its own clock: past its lease it says no, whatever Redis says."""
        return self._leadership.is_leader

    @property
    def leader(self) -> Leader | None:
        """Who leads, as last heard of: a leader that died is shown until the next one is elected."""
        return self._mirror.leader

    @property
    def revision(self) -> str:
        """Id of the last event that the view has taken in."""
        return self._mirror.revision

    @property
    def birth(self) -> str | None:
        """Id of the history that the view shows; `None` before `start`."""
        return self._mirror.birth

    @property
    def age_seconds(self) -> float | None:
        """How long ago the view was known to be current: at rest up to `refresh_seconds`; `None` before `start`."""
        return self._mirror.age_seconds

    @property
    def is_stale(self) -> bool:
        """Whether the view is older than `max_staleness_seconds`, so that nothing is selected."""
        return self._mirror.is_stale

    async def record_success(self, replica: Replica, *, recovery_threshold: int, latency_ms: float) -> None:
        """Count a success that this router saw itself. Never raises; while Redis is away it is dropped.

        Before `start` it counts on this router alone.
        """
        thresholds = Thresholds(self.config.failure_threshold, recovery_threshold)
        await self._outcomes.success(replica, thresholds, latency_ms=latency_ms)

    async def record_failure(self, replica: Replica, *, failure_threshold: int, reason: str) -> None:
        """Count a failure that this router saw itself. Never raises; while Redis is away it is dropped.

        Before `start` it counts on this router alone.
        """
        thresholds = Thresholds(failure_threshold, self.config.recovery_threshold)
        await self._outcomes.failure(replica, thresholds, reason=one_line(str(reason)))

    async def register(self, endpoint: ReplicaEndpoint | str, *, by: str = "") -> Replica:
        """Add a replica, or change the spec of one that is there; its health and load stay.

        Raises:
            ConfigError: The endpoint is wrong.
        """
        spec = validate_endpoint(ReplicaEndpoint(endpoint) if isinstance(endpoint, str) else endpoint)
        replica = await self._state.register(spec, mode=Source.EXPLICIT, by=by)
        return replica or self._view.handle(Replica(spec).record)

    async def deregister(self, replica: Replica | str, *, by: str = "", reason: str = "") -> None:
        """Remove a replica, named by handle, url or name. Config files do not bring it back.

        Raises:
            UnknownReplica: It is not registered.
        """
        await self._state.deregister(self._state.key_of(replica), by=by, reason=reason)

    async def drain(self, replica: Replica | str, *, by: str = "", reason: str = "") -> None:
        """Let a replica finish its sessions and take no new one; it is still probed.

        Raises:
            UnknownReplica: It is not registered.
        """
        await self._state.set_admin(self._state.key_of(replica), AdminState.DRAINING, by=by, reason=reason)

    async def disable(self, replica: Replica | str, *, by: str = "", reason: str = "") -> None:
        """Take a replica out: no new sessions, no probes.

        Raises:
            UnknownReplica: It is not registered.
        """
        await self._state.set_admin(self._state.key_of(replica), AdminState.DISABLED, by=by, reason=reason)

    async def enable(self, replica: Replica | str, *, by: str = "", reason: str = "") -> None:
        """Undo `drain` or `disable`.

        Raises:
            UnknownReplica: It is not registered.
        """
        await self._state.set_admin(self._state.key_of(replica), AdminState.ACTIVE, by=by, reason=reason)

    async def events(self, *, after: str | None = None, count: int = 100) -> list[Event]:
        """Return up to that many events, oldest first: those that follow a revision, or the latest ones."""
        if after is None:
            return await self._reader.last_events(count)
        return await self._reader.events(after=after, count=count)

    async def check(self) -> list[Violation]:
        """Verify the invariants of the namespace live; return what does not hold."""
        return await find_violations(self._reader, self._keys)

    async def refresh(self, *, at_once: bool = False) -> None:
        """Read again what the feed does not carry: probe times, latencies, counters, load.

        At most once per `refresh_seconds`, unless `at_once`; calls in between return without reading.
        """
        await self._mirror.refresh(at_once=at_once)

    async def run_health_checks(self, config: object | None = None, *, http_get: HttpProbe | None = None) -> None:
        """Stand for leader, and probe for all while leading, until cancelled; then report, and resign.

        For a registry with `health_checks=False` whose owner runs the loop. The registry must be started.

        Args:
            config: Whose health check settings to use; default: the registry's own.
            http_get: Replaces the HTTP probe.

        Raises:
            UsageError: Health checks run already, or the registry is not started.
        """
        if self.health_checks:
            raise UsageError(
                "this registry runs its own health checks; build it with health_checks=False to run the loop yourself"
            )
        if self._leadership.is_running:
            raise UsageError("a health check loop runs on this registry already; end it before you run another")
        if not self.is_started:
            raise UsageError("the registry is not started; await start() first")
        settings, probe = RouterConfig.adopt(config or self.config), http_get or self._http_get
        work = functools.partial(self._leadership.run, settings, probe)
        await keep_running("health checks", work, clock=self._clock, rng=self._rng)

    async def _run_tasks(self) -> None:
        async with asyncio.TaskGroup() as group:
            works = {"mirror": self._mirror.run, "heartbeat": self._membership.run}
            if self.health_checks:
                works["health checks"] = lambda: self._leadership.run(self.config, self._http_get)
            for name, work in works.items():
                group.create_task(keep_running(name, work, clock=self._clock, rng=self._rng), name=name)

    async def _open(self) -> None:
        backoff = Backoff(rng=self._rng)
        is_in_trouble = False
        while True:
            try:
                await client.verify_server(self._clients.commands, timeout_seconds=self.config.redis_timeout_seconds)
                await self._membership.beat()
                await self._seed()
                await self._mirror.load()
            except StoreUnavailable as error:
                if not is_in_trouble:
                    is_in_trouble = True
                    logger.warning("redis: waiting for %s: %s", client.redacted(self.config.redis_url), error)
                await self._clock.sleep(backoff.next_seconds())
            else:
                return

    async def _close(self) -> None:
        with contextlib.suppress(StoreError):
            await self._store.leave()
        await self._clients.close()

    async def _seed(self) -> None:
        """Register the configured replicas that are not registered as configured.

        Comes before the first read of all, or the view would show none of them for a moment.
        """
        registered = await self._reader.records([canonical_url(endpoint.url) for endpoint in self.config.replicas])
        for endpoint in self.config.replicas:
            known = registered.get(canonical_url(endpoint.url))
            if known is None or not _is_spec_of(known.endpoint, endpoint):
                await self._state.register(endpoint, mode=Source.SEED, by="config")

    async def _contribute_view(self) -> None:
        if self.birth is not None:
            await restore_view(self._store, self._reader, self._view, birth=self.birth, revision=self.revision)

    def _connect(self, redis: Client | None) -> Clients:
        if redis is not None:
            return client.adopt(redis)
        return client.connect(
            self.config.redis_url,
            timeout_seconds=self.config.redis_timeout_seconds,
            block_seconds=self.config.refresh_seconds,
        )

    def _router_info(self, url: str) -> RouterInfo:
        return RouterInfo(
            key=self.router_key,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=__version__,
            started_at=time.time(),
            url=url,
            config_fingerprint=self.config.fingerprint(),
        )


def _key_of(replica: Replica | str) -> str:
    """Return the canonical url; a text that is no url names no replica, and stays as it is."""
    if isinstance(replica, Replica):
        return replica.key
    try:
        return canonical_url(replica)
    except ConfigError:
        return replica


def _is_spec_of(known: ReplicaEndpoint, configured: ReplicaEndpoint) -> bool:
    order = known.order if configured.order is None else configured.order
    return known == dataclasses.replace(configured, order=order)


def _log_death(tasks: asyncio.Task[None]) -> None:
    if not tasks.cancelled() and (error := tasks.exception()) is not None:
        logger.critical("the registry's background tasks have died; stop() and start() it again", exc_info=error)
