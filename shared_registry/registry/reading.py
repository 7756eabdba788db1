"""The methods and properties of a registry that only read.

The synchronous ones read this router's mirror without I/O. `wait_ready` and `wait_judged` wait for changes of the
mirror. The other asynchronous ones read Redis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping

from shared_registry.admin.check import Violation, find_violations
from shared_registry.admin.fleet_reads import FleetReads
from shared_registry.aio.breath import Breath
from shared_registry.discovery import FollowedSource
from shared_registry.mirror.stream_lag import ClockReading
from shared_registry.model import AdminState, Event, Leader, Plan, Replica
from shared_registry.probing.probe_counts import ProbeCounts
from shared_registry.registry import readiness
from shared_registry.registry.draining import until_drained
from shared_registry.registry.state import RegistryState, unknown_replica
from shared_registry.selection import Panic
from shared_registry.selection.view import View
from shared_registry.store.call_counts import CallCounts
from shared_registry.store.figure_reader import Figures
from shared_registry.tallies import Distribution


class RegistryReads(RegistryState):
    """The methods and properties that change nothing."""

    def select(
        self, *, key: str | None = None, exclude: Collection[Replica | str] = (), policy: str | None = None
    ) -> Replica | None:
        """Return the replica for the next session; `None` if no replica can be selected.

        Synchronous and without I/O. The default policy returns the first healthy, active primary in order, or else the
        first healthy, active replica that is not a primary. Other policies spread sessions over that tier. `select`
        does not know capacity; `acquire` does.

        Args:
            key: The key of the session. The `hash` policy sends equal keys to the same replica.
            exclude: Replicas that were tried without success, by handle, url or name.
            policy: Replaces the configured policy for this call. The first such call prepares the policy, which takes a
                moment with thousands of replicas.

        Raises:
            UsageError: There is no such policy.
            UnknownReplica: A url or name in `exclude` belongs to no replica that this router knows or has known.
            ConfigError: A url in `exclude` is not valid.
        """
        view = self._view
        if policy is None and not exclude:
            choose = view.choose
            return view.first if choose is None else choose(key)
        return view.selection.select(policy, key, view.known_keys_of(exclude))

    async def wait_ready(self, *, timeout_seconds: float | None = None) -> bool:
        """Wait until `select()` has a replica to return; return whether it has. Returns at once if it has one already.

        This is for the first moments of a new registry: its replicas take no sessions before the leader has probed
        them.

        Args:
            timeout_seconds: How long to wait; `None` waits forever.

        Raises:
            UsageError: The registry is not started, or was stopped during the call.
        """
        return await self._until(readiness.is_selectable, timeout_seconds)

    async def wait_judged(self, *, timeout_seconds: float | None = None) -> bool:
        """Wait until a replica is healthy, or every active replica has its first verdict; return whether that holds.

        Args:
            timeout_seconds: How long to wait; `None` waits forever.

        Raises:
            UsageError: The registry is not started, or was stopped during the call.
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
            ConfigError: The url is not valid.
            UnknownReplica: No replica has that name, or several replicas have it.
        """
        return self._view.get(self._view.key_of(replica))

    def primaries(self) -> list[Replica]:
        """Return the replicas of the first tier in order, whatever their health."""
        return [replica for replica in self._view.all() if replica.primary]

    @property
    def is_leader(self) -> bool:
        """Whether this router is the leader, by its own clock.

        False after the end of its lease, even if Redis still names this router.
        """
        return self._parts.health_checks.is_leader

    @property
    def leader(self) -> Leader | None:
        """The leader, as last received. A leader that died is shown until the next one is elected."""
        return self._mirror.leader

    @property
    def plan(self) -> Plan | None:
        """How routers share the probing, as last received; `None` if the leader probes all replicas."""
        return self._mirror.plan

    @property
    def revision(self) -> str:
        """Id of the last event that the view shows."""
        return self._mirror.revision

    @property
    def history_id(self) -> str | None:
        """Id of the history that the view shows; `None` before `start`."""
        return self._mirror.history_id

    @property
    def age_seconds(self) -> float | None:
        """How long ago the view was known to be current; `None` before `start`. At rest up to `refresh_seconds`."""
        return self._mirror.age_seconds

    @property
    def read_age_seconds(self) -> float | None:
        """How long ago `refresh`, or a full read, has read the data that the event stream does not carry.

        `None` before `start`. This is the age of loads, probe times, latencies and counters.
        """
        return self._mirror.read_age_seconds

    @property
    def writable_age_seconds(self) -> float | None:
        """How long ago Redis last accepted a heartbeat, which is a write. At rest up to `heartbeat_seconds`."""
        return self._parts.writability.age_seconds

    @property
    def write_failure(self) -> str | None:
        """Why Redis refuses this router's writes although it answers reads; `None` if it accepts writes, or is away."""
        return self._parts.writability.failure

    @property
    def panic(self) -> Panic | None:
        """Why sessions may use replicas that are not healthy; `None` if there is no panic. See `panic_percent`."""
        return self._view.panic

    @property
    def is_in_trouble(self) -> bool:
        """Whether this router lately lacked a file descriptor, port, memory or route to connect to replicas."""
        return self._outcomes.is_in_trouble

    @property
    def is_stale(self) -> bool:
        """Whether the view is older than `max_staleness_seconds`, so that nothing is selected."""
        return self._mirror.is_stale

    @property
    def is_settling(self) -> bool:
        """Whether Redis has lost data, so that new sessions get no slot before what runs is back."""
        return self._mirror.is_settling

    async def queue_depth(self) -> int:
        """Return how many sessions wait for a slot, over all routers."""
        return await self._reader.queue_depth()

    async def figures(self) -> Figures:
        """Read from Redis the numbers that the event stream does not carry: loads, live routers, the queue.

        It reads in pieces, between which other tasks run, and nothing of replicas but their loads.
        """
        breath, weights = Breath(), {}
        for replica in self._view.all():
            record = replica.record
            weights[record.key] = record.endpoint.weight
            await breath.pause()
        found = await self._reader.figures(weights, now=self._clock.monotonic, ramping=self._view.ramping)
        self._mirror.stream_lag.compare(ClockReading(found.server_time, found.asked_at, found.answered_at))
        return found

    @property
    def stream_lags(self) -> Distribution:
        """How long after their writing events have reached this router, in seconds, since `figures` was first read."""
        return self._mirror.stream_lag.lags

    @property
    def local_health(self) -> float | None:
        """The share of the replicas that this router probes for all, and can judge: 1 is well.

        Not judged are those that its last probe could not try for a reason of its own, and those that another router
        has lately reached and it has not. `None` if it probes none for all.
        """
        return self._parts.health_checks.local_health

    @property
    def discovery_sources(self) -> Mapping[str, FollowedSource]:
        """What is known of each source of discovery, by its name; empty while this router is not the leader."""
        return self._parts.health_checks.discovery_sources

    @property
    def reaped_lease_count(self) -> int:
        """How many leases of routers that have expired this router has ended since `start`."""
        return self._parts.membership.reaped_leases

    @property
    def call_counts(self) -> CallCounts:
        """Counts the commands that this router has sent to Redis since `start`."""
        return self._parts.clients.failover.calls

    @property
    def probe_counts(self) -> ProbeCounts:
        """Counts the probes that this router has made since `start`."""
        return self._parts.health_checks.counts

    @property
    def reconnect_count(self) -> int:
        """How often this router has given up its connections to Redis, because the server was lost or demoted."""
        return self._parts.clients.failover.generation

    @property
    def lease_count(self) -> int:
        """How many leases this router holds."""
        return len(self._parts.placement.ledger.held)

    @property
    def released_count(self) -> int:
        """How many leases this router has released since `start`."""
        return self._parts.placement.holder.released

    @property
    def cooling_count(self) -> int:
        """How many replicas this router leaves alone for a while, because sessions could not connect to them."""
        return len(self._view.cooling)

    async def wait_drained(self, replica: Replica | str, *, timeout_seconds: float | None = None) -> bool:
        """Wait until a replica has no sessions; return whether it has none.

        A removed replica keeps its sessions until they end. On a replica that is drained, disabled or removed, the end
        of the last session is noticed at once, or within five seconds if its router is of an earlier version.
        On an active replica the end of a session of this router is noticed at once, and of another one within half a
        second.

        Args:
            replica: The replica, by handle, url or name.
            timeout_seconds: How long to wait; `None` waits forever.

        Raises:
            UnknownReplica: The replica is not registered and has no sessions.
        """
        key = self._view.key_of(replica)
        deadline = math.inf if timeout_seconds is None else self._clock.monotonic() + timeout_seconds
        if await self._reader.in_flight(key) is None:
            raise unknown_replica(key)

        def is_reported() -> bool:
            record = self._mirror.record(key)
            return self.is_started and (record is None or record.admin is not AdminState.ACTIVE)

        return await until_drained(
            lambda: self._reader.in_flight(key),
            key,
            self.subscribe,
            is_reported=is_reported,
            deadline=deadline,
            clock=self._clock,
        )

    async def events(self, *, after: str | None = None, count: int = 100) -> list[Event]:
        """Return up to `count` events, oldest first: those after the revision `after`, or else the latest ones.

        An event may be about several replicas, in `changes` or `questions`; it has no `record` then.
        """
        if after is None:
            return await self._reader.last_events(count)
        return await self._reader.events(after=after, count=count)

    async def check(self) -> list[Violation]:
        """Verify the invariants of the namespace while routers work on it; return the violations."""
        return await find_violations(self._reader, self._parts.keys)

    @property
    def fleet(self) -> FleetReads:
        """Reads the routers and the queue from Redis."""
        parts = self._parts
        return FleetReads(parts.clients, parts.keys, parts.reader, timeout_seconds=self.config.redis_timeout_seconds)

    async def refresh(self, *, at_once: bool = False) -> None:
        """Read from Redis the data that the event stream does not carry: probe times, latencies, counters, loads.

        Reads at most once per `refresh_seconds`, and a large fleet less often, so that no more than 2,000 replicas are
        read a second; unless `at_once` is true. Calls in between return without reading.
        """
        await self._mirror.refresh(at_once=at_once)
