"""The public class: one router's registry of replicas, shared with other routers over Redis. It owns the tasks."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import random
from collections.abc import Awaitable, Callable, Collection
from types import TracebackType
from typing import Any, Self

from shared_registry.aio.clock import Clock, SystemClock
from shared_registry.aio.supervise import keep_running
from shared_registry.config import RouterConfig
from shared_registry.errors import StoreError, StoreUnavailable, UsageError
from shared_registry.happenings import Emitter, Listener
from shared_registry.leases import Lease, OnPosition
from shared_registry.leases.attempts import NO_ATTEMPTS, attempts_of
from shared_registry.leases.movable import MovableLease, MovableLeases
from shared_registry.model import Replica
from shared_registry.probing import HttpProbe
from shared_registry.registry import forks
from shared_registry.registry.changing import RegistryChanges
from shared_registry.registry.joining import join
from shared_registry.registry.life import STOPPED_DURING_START, Life
from shared_registry.registry.reading import RegistryReads
from shared_registry.registry.reloading import RegistryReload
from shared_registry.registry.wiring import Parts, build_parts, clients_of, configured_view, reset_view
from shared_registry.store import client
from shared_registry.store.address_watch import watch_address
from shared_registry.store.answers import new_token
from shared_registry.store.client import Client, Clients

logger = logging.getLogger(__name__)

ELSEWHERE = (
    "the registry was started in another event loop, which still exists; use it there, or await stop() there before "
    "you start it here"
)


class SharedReplicaRegistry(RegistryReads, RegistryChanges, RegistryReload):
    """A registry of replicas that several routers share. It decides which replica takes a session.

    It is built synchronously, and needs no event loop for that. `start()` or `async with` connects it. Before that it
    shows the configured replicas, all of status unknown. `select()` and the other synchronous members do no I/O. They
    read this router's mirror of the shared state. A background task keeps the mirror current, and the mirror outlives
    an outage of Redis.

    A registry may be built before a fork. Each process that starts it is then a router of its own. If a registry was in
    use before the fork, its copy raises `UsageError` until it is started.

    After `stop` it shows its last view, and `acquire` raises `UsageError`. It may be started again, also in another
    event loop, and is then another router. Two starts at once are one start and one `UsageError`; a `stop` ends a
    `start` that is under way. At the end of `asyncio.run` or another cancellation of all tasks, a registry that was not
    stopped leaves as by `stop`. If the process or the event loop ends without that, it is reaped by the other routers
    after `router_expiry_seconds`, which frees its sessions' slots; or its next `start` or `stop` in another event loop
    leaves for it.

    A registry is not thread-safe: use it from one event loop. While it is started in one, `start`, `stop` and `acquire`
    raise `UsageError` in another. A Redis client that the caller passed in belongs to the event loop in which the
    registry was first started: it cannot be started in another. The asynchronous methods raise
    `StoreUnavailable` when Redis does not answer within `redis_timeout_seconds`. Except for `record_*`, a call may then
    be repeated.
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
            config: A `RouterConfig`, or any object with the attributes of FastVideo's router config.
            redis: The caller's own Redis client, with `decode_responses=True`. The registry does not close it. By
                default a client is built from `redis_url`.
            http_get: Replaces the HTTP probe.
            health_checks: Whether this router may become the leader, which probes for all routers.
            clock: Replaces the monotonic clock.
            url: The url at which this router serves, for operators.
            seed: Makes the random choices of the policies of `select` repeatable, for tests.

        Raises:
            ConfigError: A setting is wrong. The message lists all wrong settings.
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
        self._emitter = Emitter()
        self._shown = configured_view(self.config, self._selection_rng)
        self._router_key = ""
        self._parent: int | None = None
        self._life: Life | None = None
        self._use(self._assemble(self.config.router_id, clients_of(self.config, redis)))
        forks.watch(self)

    async def start(self, *, timeout_seconds: float | None = None, wait_healthy: float | None = None) -> None:
        """Join the routers, register the configured replicas that are new, and read the shared state.

        The call keeps trying while Redis is away. On return the view is current, and is kept current until `stop`. If a
        `stop` is under way, the call first waits for its end.

        Args:
            timeout_seconds: How long to try; `None` tries forever.
            wait_healthy: How many seconds to wait then until `select()` has a replica to return. A new registry has
                none before the leader has probed its replicas. If there is none in that time, a warning is logged and
                the registry is started all the same.

        Raises:
            StoreUnavailable: Redis could not be reached in that time. Nothing is left running.
            StoreRefused: The credentials are wrong, or the server is older than Redis 6.2. Nothing is left running.
            KeyConflict: A key of the namespace is of another type. Nothing is left running.
            UsageError: The registry was already started, or is being started; or it was stopped during the call. Or it
                runs in another event loop. Or its Redis client was in use before a fork, or in another event loop.
        """
        life = None
        try:
            async with asyncio.timeout(timeout_seconds) as scope:
                life = await self._begin_life()
                await life.joined()
        except BaseException as error:
            if life is not None:
                life.end()
                await life.over()
            if isinstance(error, TimeoutError) and scope.expired():
                where = client.redacted(self.config.redis_url)
                raise StoreUnavailable(f"Redis at {where} could not be used within {timeout_seconds:g} s") from error
            raise
        if wait_healthy is None:
            return
        try:
            has_selectable = await self.wait_ready(timeout_seconds=wait_healthy)
        except UsageError as error:
            if life.is_ending:
                raise UsageError(STOPPED_DURING_START) from error
            raise
        if not has_selectable:
            logger.warning("no replica can be selected %g s after the start", wait_healthy)

    async def stop(self) -> None:
        """Resign if this router is the leader, leave the routers, and close all connections. It is bounded in time.

        On return nothing of the registry is running, and Redis does not list this router. That holds for a call during
        `start` too, which ends that `start`. Calls at the same time wait for the same end. If a call is cancelled, the
        registry goes on stopping, and another call waits for the rest. The call does nothing if the registry is not
        started, except that it closes the connections of methods that were called without a start.

        Raises:
            UsageError: The registry runs in another event loop. Await `stop` there.
        """
        if self._parent is not None:
            return
        life = self._present_life()
        if life is None:
            await self._clients.close()
            return
        life.end()
        await life.over()

    async def __aenter__(self) -> Self:
        """Start the registry."""
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the registry."""
        await self.stop()

    @property
    def router_key(self) -> str:
        """This router's key in Redis: the router id and a random part, new at each `start`. Empty before `start`."""
        return self._router_key

    @property
    def is_started(self) -> bool:
        """Whether the registry follows the shared state: from the end of `start` to the beginning of `stop`."""
        return self._life is not None and self._life.is_running

    async def acquire(
        self,
        session: str | None = None,
        *,
        timeout: float = 0.0,
        exclude: Collection[Replica | str | Lease] = (),
        again_after: Collection[Lease] = (),
        on_position: OnPosition | None = None,
    ) -> Lease:
        """Acquire a lease on the least loaded replica of the first tier that has room. This takes one round trip.

        Healthy replicas come first. If none has room and fewer than `panic_percent` of the replicas are healthy, the
        session gets one of the others; then `Lease.is_spare` is true. A session that cannot use it asks again with that
        lease in `exclude`: it gets at most two such replicas, and then waits at the position in the queue that it would
        have had.

        No placement exceeds a replica's capacity, however many routers there are. The lease lives until it is released
        or this router ends, however long that is. A call that is cancelled at any point leaves no lease behind, at the
        latest after the next reconciliation.

        Args:
            session: The session's name. A session returns to the replica where a session of the same name is, or was
                within `affinity_seconds`, while that replica is ready. Only the digest of the name is sent to Redis.
            timeout: How long to wait, in seconds, if no slot is free. The session waits in one queue with the sessions
                of all routers, first come first served. The timeout also bounds how long a busy router may take to send
                the request. With 0 the call does not wait for a slot. It then still waits for its turn to send the
                request, however many other calls of this router come first.
            exclude: Replicas that were tried without success, by lease, handle, url or name. If the other replicas have
                no room, the session waits in the queue too. There it takes any slot of a healthy replica, also one on
                an excluded replica.
            again_after: Leases that the session had and could not use, on replicas that it may get again, because they
                were only busy. If it has to wait again, it does so at the position in the queue that it had.
            on_position: Called with the session's position in the queue and the depth of the queue, both from 1. It is
                called when the session begins to wait, and when these have changed, about once a second. It must not
                block. An exception that it raises ends the call.

        Raises:
            Saturated: Every healthy replica is full and no slot came free in time; or the queue has `max_queue`
                waiters; or this router was too busy to send the request in time.
            NoHealthyReplica: No replica was healthy and active in time.
            StoreUnavailable: Redis is away, and `degraded_placement` allows no replica.
            StoreRefused: The same, because Redis refuses this router's password or rights, which were changed.
            UsageError: The registry is not started, was stopped during the call, or the timeout is not usable.
        """
        self._expect_started()
        if not 0 <= timeout < math.inf:
            raise UsageError(f"timeout: must be 0 or more seconds, and finite, got {timeout!r}")
        avoided, attempts = self._view.cooling, NO_ATTEMPTS
        if exclude or again_after:
            attempts = attempts_of(exclude, self._view, again_after=again_after)
            avoided = avoided.difference(attempts.excluded)
        return await self._parts.placement.acquirer.acquire(
            session,
            avoided=avoided,
            attempts=attempts,
            timeout_seconds=timeout,
            on_position=on_position,
        )

    @property
    def movable_leases(self) -> MovableLeases:
        """The leases of this router whose sessions do not run through it; see `acquire_movable`.

        Raises:
            UsageError: The registry is not started.
        """
        self._expect_started()
        return self._parts.placement.movable

    async def acquire_movable(
        self,
        lease_id: str,
        session: str | None = None,
        *,
        timeout: float = 0.0,
        exclude: Collection[Replica | str | Lease] = (),
        on_position: OnPosition | None = None,
    ) -> MovableLease:
        """Return the lease of that id, which may be another router's so far; or acquire a new one, as `acquire` does.

        The lease has no holder, and a deadline in some seconds. The session gets healthy replicas only.

        Args:
            lease_id: An id from `movable_id`.
            session: See `acquire`.
            timeout: See `acquire`. While Redis is away, the call does not wait.
            exclude: See `acquire`.
            on_position: See `acquire`.

        Raises:
            RegistryError: See `acquire`.
            InUse: Another call for that id is under way at this router.
        """
        leases = self.movable_leases
        attempts = attempts_of(exclude, self._view) if exclude else NO_ATTEMPTS

        def acquire(new_id: str) -> Awaitable[Lease]:
            return self._parts.placement.acquirer.acquire(
                session,
                avoided=self._view.cooling.difference(attempts.excluded),
                attempts=attempts,
                timeout_seconds=timeout,
                on_position=on_position,
                lease_id=new_id,
            )

        return await leases.acquire(lease_id, acquire, session=session)

    def subscribe(self, listener: Listener, *, with_sessions: bool = True) -> Callable[[], None]:
        """Call a listener with everything that happens from now on; return the function that ends that.

        What can happen is in `shared_registry.happenings`; see `docs/events.md`. The listener is called in the event
        loop, in the middle of this registry's work: it must return soon and must not block. It may call everything
        here that is not asynchronous, and may end subscriptions. If it raises, that is logged with its traceback, and
        it is not called any more. A listener may be added at any time, also before `start`, and is kept over `stop`
        and `start`. A forked copy of a registry has copies of its listeners, which hear nothing before it is started.

        The present state is no news: read `all()`, `leader`, `panic` and `is_stale` after this call, and again at each
        `ViewLoaded` whose reason is `start`.

        Args:
            listener: A plain function or method with one parameter. A second subscription calls it twice.
            with_sessions: Whether it receives what happens with every session: `LeaseGranted`, and `LeaseEnded` for a
                release. If no listener does, they cost nothing.

        Raises:
            UsageError: The listener cannot be called, or is a coroutine function.
        """
        end = self._emitter.subscribe(listener, with_sessions=with_sessions)
        if self._parent is None:
            self._parts.news.begin()
        return end

    async def run_health_checks(self, config: object | None = None, *, http_get: HttpProbe | None = None) -> None:
        """Campaign for leader, and probe for all routers while leading, until cancelled; then report, and resign.

        This is for a registry with `health_checks=False` whose owner runs the loop. The registry must be started.

        Args:
            config: The config whose health check settings are used; by default the registry's own in force.
            http_get: Replaces the HTTP probe.

        Raises:
            UsageError: Health checks already run, or the registry is not started.
        """
        if self.health_checks:
            raise UsageError(
                "this registry runs its own health checks; build it with health_checks=False to run the loop yourself"
            )
        if self._parts.health_checks.is_running:
            raise UsageError("a health check loop runs on this registry already; end it before you run another")
        self._expect_started()
        own, probe = RouterConfig.adopt(config) if config else None, http_get or self._http_get
        work = functools.partial(self._parts.health_checks.run, lambda: own or self.config, probe)
        await keep_running("health checks", work, clock=self._clock, rng=self._rng)

    def _assemble(self, router_key: str, clients: Clients) -> Parts:
        return build_parts(
            self.config,
            router_key=router_key,
            url=self._url,
            clients=clients,
            view=self._shown,
            emitter=self._emitter,
            clock=self._clock,
            rng=self._rng,
        )

    def _use(self, parts: Parts) -> None:
        self._parts = parts
        self._clients, self._reader, self._view, self._mirror = parts.clients, parts.reader, parts.view, parts.mirror
        self._outcomes = parts.outcomes

    async def _begin_life(self) -> Life:
        """Begin a new life as soon as the one before is over.

        Raises:
            UsageError: The registry cannot be started here and now.
        """
        while (life := self._present_life()) is not None:
            if not life.is_ending:
                raise UsageError("the registry was started already; call stop() first")
            await life.over()
        if self._redis is not None and self._life and not self._life.is_here:
            # Even closed it may be bound to that loop: redis-py's pools have locks.
            raise UsageError(
                "the Redis client that this registry was given was used in another event loop; build client and "
                "registry in this one"
            )
        self._become_router()
        self._life = Life(
            f"shared_registry {self.router_key}",
            join=self._join,
            work=self._run_tasks,
            close=self._close,
            namespace=self.config.namespace,
        )
        return self._life

    def _present_life(self) -> Life | None:
        """Return the life that is not over.

        If the event loop was closed too early for its end, that is a life that does nothing but leave the routers.

        Raises:
            UsageError: The life belongs to another event loop.
        """
        if self._life is None or self._life.is_over:
            return None
        if self._life.is_abandoned:
            if self._redis is not None:
                return None  # its connections cannot be used here
            self._use(self._assemble(self._router_key, clients_of(self.config, None)))
            self._life = Life(
                f"shared_registry {self.router_key}, leaving", close=self._close, namespace=self.config.namespace
            )
            self._life.end()
        elif not self._life.is_here:
            raise UsageError(ELSEWHERE)
        return self._life

    def _become_router(self) -> None:
        """Make a router key, random seeds and parts for this process, because a forked copy is another router."""
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
        """Disable this copy of a registry, which belongs to the process with that id. See `forks`."""
        self._router_key = ""
        self._emitter.forget_delivery()
        if self._parent is not None:
            self._parent = parent
            return
        if (self._life is None or self._life.is_over) and not self._clients.are_connected():
            return
        self._parts.placement.ledger.clear()  # releasing a copy of a lease does nothing
        forks.keep(self._parts, self._life)
        self._life, self._parent = None, parent
        inherited: Any = forks.Inherited(parent)
        self._parts = self._clients = self._reader = self._view = self._mirror = inherited
        self._outcomes = inherited

    async def _join(self) -> None:
        await join(self._parts, self.config, clock=self._clock, rng=self._rng)

    async def _run_tasks(self) -> None:
        self._outcomes.is_shared = True
        try:
            self._parts.news.start()
            news, membership = self._parts.news, self._parts.membership
            listeners = (news.notice, self._outcomes.notice, membership.notice)
            with self._mirror.subscribed(*listeners, prepare=news.prepare):
                async with asyncio.TaskGroup() as group:
                    self._begin_tasks(group)
        finally:
            self._outcomes.is_shared = False

    def _begin_tasks(self, group: asyncio.TaskGroup) -> None:
        works = {
            "mirror": self._mirror.run,
            "heartbeat": self._parts.membership.run,
            "leases": self._parts.placement.run,
            "cooldown": self._parts.cooldown.run,
            "loads": self._parts.load_updates.run,
            "slow start": self._parts.slow_start.run,
            "ejections": self._parts.ejections.run,
            "policies": self._view.selection.later.run,
            "seeding": self._parts.seeding.run,
        }
        if self._clients.ask_address is not None:
            works["sentinels"] = functools.partial(
                watch_address,
                self._clients.ask_address,
                self._clients.failover,
                timeout_seconds=self.config.redis_timeout_seconds,
                clock=self._clock,
            )
        if self.health_checks:
            works["health checks"] = lambda: self._parts.health_checks.run(lambda: self.config, self._http_get)
        for name, work in works.items():
            group.create_task(keep_running(name, work, clock=self._clock, rng=self._rng), name=name)

    async def _close(self) -> None:
        self._parts.placement.close()
        try:
            with contextlib.suppress(StoreError):
                await self._parts.membership.leave()
        finally:
            await self._clients.close()

    def _expect_started(self) -> None:
        if self._parent is None and self._life is not None and self._life.is_usable:
            return
        if self._parent is not None:
            raise forks.refusal(self._parent)
        if self._life is None or not self._life.is_running or self._life.is_abandoned:
            raise UsageError("the registry is not started; await start() first")
        if not self._life.is_here:
            raise UsageError(ELSEWHERE)
