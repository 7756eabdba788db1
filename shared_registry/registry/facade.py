"""The facade: one router's registry of replicas, shared over Redis with the other routers. Owns the tasks' lives."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import random
from collections.abc import Collection
from types import TracebackType
from typing import Any, Self

from shared_registry.aio.clock import Clock, SystemClock
from shared_registry.aio.supervise import keep_running
from shared_registry.config import RouterConfig
from shared_registry.errors import StoreError, StoreUnavailable, UsageError
from shared_registry.leases import Lease, OnPosition
from shared_registry.model import Replica
from shared_registry.probing import HttpProbe
from shared_registry.registry import forks
from shared_registry.registry.changing import RegistryChanges
from shared_registry.registry.joining import join
from shared_registry.registry.reading import RegistryReads
from shared_registry.registry.wiring import Parts, build_parts, clients_of, configured_view, reset_view
from shared_registry.store import client
from shared_registry.store.answers import new_token
from shared_registry.store.client import Client, Clients

logger = logging.getLogger(__name__)


class SharedReplicaRegistry(RegistryReads, RegistryChanges):
    """Which replica takes this session? Asked by several routers of one shared state.

    Built synchronously, outside any event loop; `start()` or `async with` connects it. Before that it shows the
    configured replicas, all unknown. `select()` and the other synchronous members do no I/O: they read this router's
    mirror of the shared state, which is kept current in the background and outlives an outage of Redis.

    May be built before a fork: each process that starts it is a router of its own. A copy of one that was in use before
    the fork raises `UsageError` until it is started.

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
        seed: int | None = None,
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
            seed: Makes what the policies of `select` leave to chance repeatable, for tests.

        Raises:
            ConfigError: A setting is wrong; the message lists everything that is.
        """
        self.config = RouterConfig.adopt(config)
        self.health_checks = health_checks
        self._url = url
        self._redis = redis
        self._http_get = http_get
        self._clock = clock or SystemClock()
        self._rng = random.Random()
        self._is_seeded = seed is not None
        self._selection_rng = random.Random(seed)
        self._shown = configured_view(self.config, self._selection_rng)
        self._router_key = ""
        self._parent: int | None = None
        self._is_starting = False
        self._tasks: asyncio.Task[None] | None = None
        self._use(self._assemble(self.config.router_id, clients_of(self.config, redis)))
        forks.watch(self)

    async def start(self, *, timeout_seconds: float | None = None) -> None:
        """Join the routers, read the shared state, register the configured replicas that are new to it.

        Keeps trying while Redis is away. On return the view is current, and is kept so until `stop`.

        Args:
            timeout_seconds: Give up after that long; `None` tries forever.

        Raises:
            StoreUnavailable: Redis could not be reached in that time. Nothing is left running.
            StoreRefused: Wrong credentials, or a server older than Redis 6.2. Nothing is left running.
            KeyConflict: A key of the namespace is of another type. Nothing is left running.
            UsageError: It was started already; or the Redis client that it was given was in use before a fork.
        """
        if self._tasks is not None or self._is_starting:
            raise UsageError("the registry was started already; call stop() first")
        self._become_router()
        self._is_starting = True
        try:
            async with asyncio.timeout(timeout_seconds) as scope:
                await join(self._parts, self.config, clock=self._clock, rng=self._rng)
        except BaseException as error:
            await self._close()
            if isinstance(error, TimeoutError) and scope.expired():
                where = client.redacted(self.config.redis_url)
                raise StoreUnavailable(f"Redis at {where} could not be used within {timeout_seconds:g} s") from error
            raise
        finally:
            self._is_starting = False
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

    @property
    def router_key(self) -> str:
        """Names this router in Redis: the router id and a random part, new at each `start`; empty before."""
        return self._router_key

    @property
    def is_started(self) -> bool:
        """Whether it follows the shared state: from the end of `start` to `stop`."""
        return self._tasks is not None

    async def acquire(
        self,
        session: str | None = None,
        *,
        timeout: float = 0.0,
        exclude: Collection[Replica | str] = (),
        on_position: OnPosition | None = None,
    ) -> Lease:
        """Take a slot for a session: on the least loaded replica of the first tier that has room. One round trip.

        No placement exceeds a replica's capacity, however many routers there are. The lease lives until it is released
        or this router ends, however long that is. Cancelled at any point the call leaves nothing behind, at the latest
        after the next reconciliation.

        Args:
            session: A name by which the session returns to the replica where it is, or was within `affinity_seconds`,
                while that one is ready. Only its digest goes to Redis.
            timeout: How long to wait for a slot, in seconds, if there is none: in one line with all who wait at any
                router, first come first. It also bounds how long a busy router may take to ask. 0 does not wait for a
                slot, but asks when it is the call's turn, however many other calls of this router come first.
            exclude: Replicas that were tried without success, by handle, url or name. While others have no room the
                session waits in the queue too; there it takes what comes.
            on_position: Called with the session's position in the line and the length of the line, both from 1: once
                it waits, and when that has changed, about once a second. Must not block; what it raises ends the call.

        Raises:
            Saturated: Every healthy replica is full, and no slot came free in time; or `max_queue` wait already; or
                this router was too busy to ask in time.
            NoHealthyReplica: None is healthy and active, or came to be in time.
            StoreUnavailable: Redis is away, and `degraded_placement` has nothing to offer.
            UsageError: The registry is not started, was stopped meanwhile, or the timeout is not usable.
        """
        self._expect_started()
        if not 0 <= timeout < math.inf:
            raise UsageError(f"timeout: must be 0 or more seconds, and finite, got {timeout!r}")
        excluded = self._view.known_keys_of(exclude) if exclude else ()
        return await self._parts.placement.acquirer.acquire(
            session,
            avoided=self._view.cooling.difference(excluded),
            excluded=excluded,
            timeout_seconds=timeout,
            on_position=on_position,
        )

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
        if self._parts.leadership.is_running:
            raise UsageError("a health check loop runs on this registry already; end it before you run another")
        self._expect_started()
        settings, probe = RouterConfig.adopt(config or self.config), http_get or self._http_get
        work = functools.partial(self._parts.leadership.run, settings, probe)
        await keep_running("health checks", work, clock=self._clock, rng=self._rng)

    def _assemble(self, router_key: str, clients: Clients) -> Parts:
        return build_parts(
            self.config,
            router_key=router_key,
            url=self._url,
            clients=clients,
            view=self._shown,
            clock=self._clock,
            rng=self._rng,
        )

    def _use(self, parts: Parts) -> None:
        self._parts = parts
        self._clients, self._reader, self._view, self._mirror = parts.clients, parts.reader, parts.view, parts.mirror
        self._outcomes = parts.outcomes

    def _become_router(self) -> None:
        """Make what this router alone has, in the process that starts it: a forked copy is another router."""
        clients = self._clients
        if self._parent is not None:
            if self._redis is not None:
                raise UsageError(
                    f"the Redis client that this registry was given was in use in process {self._parent} before this "
                    "process was forked from it; build client and registry in this process"
                )
            clients, self._parent = clients_of(self.config, None), None
        self._rng.seed()
        if not self._is_seeded:
            self._selection_rng.seed()
        self._router_key = f"{self.config.router_id}~{new_token()}"
        reset_view(self._shown)
        self._use(self._assemble(self._router_key, clients))

    def disown(self, parent: int) -> None:
        """See `forks`: this is a copy of a registry of the process with that id, and not a router."""
        self._router_key = ""
        if self._parent is not None:
            self._parent = parent
            return
        if self._tasks is None and not self._is_starting and not self._clients.are_connected():
            return
        forks.keep(self._parts, self._tasks)
        self._tasks, self._is_starting, self._parent = None, False, parent
        inherited: Any = forks.Inherited(parent)
        self._parts = self._clients = self._reader = self._view = self._mirror = inherited
        self._outcomes = inherited

    async def _run_tasks(self) -> None:
        async with asyncio.TaskGroup() as group:
            works = {
                "mirror": self._mirror.run,
                "heartbeat": self._parts.membership.run,
                "leases": self._parts.placement.run,
                "cooldown": self._parts.cooldown.run,
                "loads": self._parts.load_updates.run,
                "slow start": self._parts.slow_start.run,
            }
            if self.health_checks:
                works["health checks"] = lambda: self._parts.leadership.run(self.config, self._http_get)
            for name, work in works.items():
                group.create_task(keep_running(name, work, clock=self._clock, rng=self._rng), name=name)

    async def _close(self) -> None:
        self._parts.placement.close()
        with contextlib.suppress(StoreError):
            await self._parts.membership.leave()
        await self._clients.close()

    def _expect_started(self) -> None:
        if self._parent is not None:
            raise forks.refusal(self._parent)
        if not self.is_started:
            raise UsageError("the registry is not started; await start() first")


def _log_death(tasks: asyncio.Task[None]) -> None:
    if not tasks.cancelled() and (error := tasks.exception()) is not None:
        logger.critical("the registry's background tasks have died; stop() and start() it again", exc_info=error)
