"""The facade: one router's registry of replicas, shared over Redis with the other routers. Owns the tasks' lives."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import random
from collections.abc import Callable, Collection
from types import TracebackType
from typing import Any, Self

from shared_registry.admin.check import Violation, find_violations
from shared_registry.aio.clock import Clock, SystemClock
from shared_registry.aio.supervise import keep_running
from shared_registry.config import RouterConfig, validate_endpoint
from shared_registry.errors import StoreError, StoreUnavailable, UnknownReplica, UsageError
from shared_registry.leases import Lease, OnPosition
from shared_registry.model import AdminState, Event, Leader, Replica, ReplicaEndpoint, Source, Thresholds
from shared_registry.probing import HttpProbe
from shared_registry.registry import forks, readiness
from shared_registry.registry.joining import join
from shared_registry.registry.wiring import Parts, build_parts, clients_of, configured_view, reset_view
from shared_registry.selection import Panic
from shared_registry.selection.view import View
from shared_registry.store import client
from shared_registry.store.client import Client, Clients
from shared_registry.store.commands import new_token
from shared_registry.urls import canonical_url

DRAIN_POLL_SECONDS = 0.1
logger = logging.getLogger(__name__)


class SharedReplicaRegistry:
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

    def select(
        self, *, key: str | None = None, exclude: Collection[Replica | str] = (), policy: str | None = None
    ) -> Replica | None:
        """Return the replica that the next session should go to; `None` if there is none.

        Synchronous and without I/O. By default the first healthy, active primary in order, else the first such other;
        other policies spread sessions over that tier. Knows nothing of capacity; `acquire` does.

        Args:
            key: What the session belongs to: the `hash` policy takes equal keys to the same replica.
            exclude: Replicas that were tried without success, by handle, url or name.
            policy: Replaces the configured one for this call. The first such call prepares it, which with thousands of
                replicas takes a moment.

        Raises:
            UsageError: There is no such policy.
            UnknownReplica: A url or name in `exclude` is no replica's, and never was as far as this router knows.
            ConfigError: A url in `exclude` is none.
        """
        view = self._view
        if policy is None and not exclude:
            choose = view.choose
            return view.first if choose is None else choose(key)
        return view.selection.select(policy, key, view.known_keys_of(exclude))

    async def wait_ready(self, *, timeout_seconds: float | None = None) -> bool:
        """Return whether `select()` came to have a replica in time; at once where it has one.

        For the first moments of a new registry: its replicas take no sessions before the leader has probed them.

        Args:
            timeout_seconds: How long to wait; `None` waits for ever.

        Raises:
            UsageError: The registry is not started, or was stopped meanwhile.
        """
        return await self._until(readiness.is_selectable, timeout_seconds)

    async def wait_judged(self, *, timeout_seconds: float | None = None) -> bool:
        """Return whether a replica came to be healthy, or every active one to have its first verdict, in time.

        Args:
            timeout_seconds: How long to wait; `None` waits for ever.

        Raises:
            UsageError: The registry is not started, or was stopped meanwhile.
        """
        return await self._until(readiness.is_judged, timeout_seconds)

    async def _until(self, condition: Callable[[View], bool], timeout_seconds: float | None) -> bool:
        def holds(view: View) -> bool:
            self._expect_started()
            return condition(view)

        return await readiness.until(self._mirror, holds, timeout_seconds=timeout_seconds)

    def all(self) -> list[Replica]:
        """Return all registered replicas in order."""
        return list(self._view.all())

    def get(self, replica: Replica | str) -> Replica | None:
        """Return the replica given by handle, url in any spelling, or name; `None` for a url that is not registered.

        Raises:
            ConfigError: A url that is none.
            UnknownReplica: No replica has that name, or several have.
        """
        return self._view.get(self._view.key_of(replica))

    def primaries(self) -> list[Replica]:
        """Return the replicas of the first tier in order, whatever their health."""
        return [replica for replica in self._view.all() if replica.primary]

    @property
    def router_key(self) -> str:
        """Names this router in Redis: the router id and a random part, new at each `start`; empty before."""
        return self._router_key

    @property
    def is_started(self) -> bool:
        """Whether it follows the shared state: from the end of `start` to `stop`."""
        return self._tasks is not None

    @property
    def is_leader(self) -> bool:
        """Whether this router leads, by its own clock: past its lease it says no, whatever Redis says."""
        return self._parts.leadership.is_leader

    @property
    def leader(self) -> Leader | None:
        """Who leads, as last heard of: a leader that died is shown until the next one is elected."""
        return self._mirror.leader

    @property
    def revision(self) -> str:
        """Id of the last event that the view has taken in."""
        return self._mirror.revision

    @property
    def history_id(self) -> str | None:
        """Id of the history that the view shows; `None` before `start`."""
        return self._mirror.history_id

    @property
    def age_seconds(self) -> float | None:
        """How long ago the view was known to be current: at rest up to `refresh_seconds`; `None` before `start`."""
        return self._mirror.age_seconds

    @property
    def writable_age_seconds(self) -> float | None:
        """How long ago Redis last accepted a heartbeat, which writes: at rest up to `heartbeat_seconds`."""
        return self._parts.writability.age_seconds

    @property
    def write_failure(self) -> str | None:
        """Why Redis refuses this router's writes although it can be read; `None` while it does not, or is away."""
        return self._parts.writability.failure

    @property
    def panic(self) -> Panic | None:
        """Why `select()` spreads sessions over all active replicas; `None` while it does not. See `panic_percent`."""
        return self._view.panic

    @property
    def is_in_trouble(self) -> bool:
        """Whether this router lately had no descriptor, port, memory or route with which to connect to replicas."""
        return self._outcomes.is_in_trouble

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

    async def record_failure(self, replica: Replica, *, failure_threshold: int, reason: str | BaseException) -> None:
        """Count a failure that this router saw itself. Never raises; while Redis is away it is dropped.

        Before `start` it counts on this router alone. A reason that is this router's own trouble, such as
        "[Errno 24] Too many open files", says nothing about the replica and is not counted; see `report_outcome`.
        """
        thresholds = Thresholds(failure_threshold, self.config.recovery_threshold)
        await self._outcomes.failure(replica, thresholds, reason=reason)

    async def report_outcome(
        self,
        replica: Replica,
        ok: bool,  # noqa: FBT001  a claim
        reason: str | BaseException = "",
    ) -> None:
        """Tell how connecting a session to a replica went. Never raises; while Redis is away it is dropped.

        A failure puts the replica last in this router's own choices for `local_cooldown_seconds`. As evidence for all
        it counts towards `failure_threshold`, but among several live routers one alone does not bring a replica over
        it; a later success takes the own failures back.

        A router that is out of file descriptors, memory, local ports or routes has not asked the replica: such a
        failure does nothing of all that, and is logged once. It is recognized by the exception, however wrapped, or by
        its text.

        Args:
            replica: Where the session went.
            ok: Whether it could be connected.
            reason: Why not, for the operator; best the exception itself.
        """
        thresholds = Thresholds(self.config.failure_threshold, self.config.recovery_threshold)
        await self._outcomes.passive(replica, thresholds, ok=ok, reason=reason)

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

    async def queue_depth(self) -> int:
        """Return how many sessions wait for a slot, over all routers."""
        return await self._reader.queue_depth()

    async def wait_drained(self, replica: Replica | str, *, timeout_seconds: float | None = None) -> bool:
        """Return whether a replica came to have no sessions in time; a removed one has none once they have ended.

        Args:
            replica: Named by handle, url or name.
            timeout_seconds: How long to wait; `None` waits for ever.

        Raises:
            UnknownReplica: It is not registered, and no session is on it.
        """
        key = self._view.key_of(replica)
        deadline = math.inf if timeout_seconds is None else self._clock.monotonic() + timeout_seconds
        if await self._reader.in_flight(key) is None:
            raise _unknown(key)
        while await self._reader.in_flight(key):
            if self._clock.monotonic() >= deadline:
                return False
            await self._clock.sleep(min(DRAIN_POLL_SECONDS, deadline - self._clock.monotonic()))
        return True

    async def register(self, endpoint: ReplicaEndpoint | str, *, by: str = "", **attributes: Any) -> Replica:
        """Add a replica, or change the spec of one that is there; its health and load stay.

        Args:
            endpoint: The whole spec, or a url.
            by: Who asked.
            attributes: Of the `ReplicaEndpoint`, such as `capacity=4`, instead of its own.

        Raises:
            ConfigError: The endpoint is wrong.
        """
        whole = ReplicaEndpoint(endpoint) if isinstance(endpoint, str) else endpoint
        spec = validate_endpoint(whole, changes=attributes)
        key = canonical_url(spec.url)
        await self._parts.store.register(key, spec, mode=Source.EXPLICIT, request=new_token(), by=by)
        return self._view.get(key) or self._view.handle(Replica(spec).record)

    async def deregister(
        self, replica: Replica | str, *, by: str = "", reason: str = "", when_drained: bool = False
    ) -> None:
        """Remove a replica, named by handle, url or name. Config files do not bring it back.

        Args:
            replica: Which.
            by: Who asked.
            reason: Why, for the operator.
            when_drained: Let it drain first; whatever ends the last session on it removes it. `enable` calls it off.

        Raises:
            UnknownReplica: It is not registered.
        """
        key = self._view.key_of(replica)
        record = self._mirror.record(key) or (await self._reader.records([key])).get(key)
        if record is None:
            raise _unknown(key)
        events = await self._parts.store.deregister(
            key, record.incarnation, by=by, reason=reason, when_drained=when_drained
        )
        if events is None:
            raise _unknown(key)

    async def drain(self, replica: Replica | str, *, by: str = "", reason: str = "") -> None:
        """Let a replica finish its sessions and take no new one; it is still probed.

        Raises:
            UnknownReplica: It is not registered.
        """
        await self._set_admin(replica, AdminState.DRAINING, by, reason)

    async def disable(self, replica: Replica | str, *, by: str = "", reason: str = "") -> None:
        """Take a replica out: no new sessions, no probes.

        Raises:
            UnknownReplica: It is not registered.
        """
        await self._set_admin(replica, AdminState.DISABLED, by, reason)

    async def enable(self, replica: Replica | str, *, by: str = "", reason: str = "") -> None:
        """Undo `drain` or `disable`.

        Raises:
            UnknownReplica: It is not registered.
        """
        await self._set_admin(replica, AdminState.ACTIVE, by, reason)

    async def _set_admin(self, replica: Replica | str, state: AdminState, by: str, reason: str) -> None:
        key = self._view.key_of(replica)
        if await self._parts.store.set_admin(key, state, by=by, reason=reason) is None:
            raise _unknown(key)

    async def events(self, *, after: str | None = None, count: int = 100) -> list[Event]:
        """Return up to that many events, oldest first: those that follow a revision, or the latest ones."""
        if after is None:
            return await self._reader.last_events(count)
        return await self._reader.events(after=after, count=count)

    async def check(self) -> list[Violation]:
        """Verify the invariants of the namespace live; return what does not hold."""
        return await find_violations(self._reader, self._parts.keys)

    async def refresh(self, *, at_once: bool = False) -> None:
        """Read again what the event stream does not carry: probe times, latencies, counters, load.

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


def _unknown(key: str) -> UnknownReplica:
    return UnknownReplica(f"no replica {key} is registered")


def _log_death(tasks: asyncio.Task[None]) -> None:
    if not tasks.cancelled() and (error := tasks.exception()) is not None:
        logger.critical("the registry's background tasks have died; stop() and start() it again", exc_info=error)
