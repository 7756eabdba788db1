"""The registry's verbs over Redis: arguments in, results or errors out. Status words end here.

Every call is bounded by the store's timeout and raises `StoreUnavailable` past it. All but `record_outcome` may be
repeated after that: the commands are idempotent by tokens that the caller makes.

Calls go in three lanes, so that however much the sessions of a router ask, the router stays alive: what sessions and
operators ask; heartbeats, leadership and reports; and what brings Redis and the router in line again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from shared_registry.errors import StoreError
from shared_registry.model import (
    AdminState,
    Event,
    ProbeResult,
    ReplicaEndpoint,
    RouterInfo,
    Source,
    Thresholds,
)
from shared_registry.store.answers import BeginWrite, events_of, expect, flag, ignore_events, new_token, outcome_words
from shared_registry.store.channel import Channel
from shared_registry.store.client import Client, Clients
from shared_registry.store.codec import milliseconds, parse_events
from shared_registry.store.keys import Keys
from shared_registry.store.lane import Lane
from shared_registry.store.leading import LeaderCommands
from shared_registry.store.replica_fields import HEALTH_NAMES, spec_fields
from shared_registry.store.replies import Denial, Denied, Grant, Heartbeat, Parting, Queued, Restored
from shared_registry.store.writability import Writability

CALLS_AT_ONCE = 32
CONTROL_CALLS_AT_ONCE = 8
"""Some more than there are tasks that send them, so that none waits for another."""
RECOVERIES_AT_ONCE = 8
CONNECTIONS_BESIDE = 8
"""What heartbeats, reads and blocking reads take at most in practice, where all share few connections."""


class Store(LeaderCommands):
    """One namespace of one Redis, as seen by one router. Safe for concurrent use within an event loop."""

    def __init__(
        self,
        clients: Clients,
        keys: Keys,
        *,
        router: str,
        timeout_seconds: float = 1.0,
        writability: Writability | None = None,
        begin_write: BeginWrite = lambda: ignore_events,
    ) -> None:
        """Bind the verbs.

        Args:
            clients: See `client.connect`. Where they allow themselves few connections, few calls go out at once: more
                would fail, and not wait.
            keys: The namespace.
            router: This router's key, which goes into the events that it causes.
            timeout_seconds: The longest that a call may take, from its turn on.
            writability: Is told whether heartbeats are accepted.
            begin_write: Called before each command that may change what routers mirror; what it returns is called with
                the events in the reply, so that a router reads its own writes.
        """
        self._router = router
        self._writability = writability
        self._begin_write = begin_write
        share = max(1, (clients.max_connections - CONNECTIONS_BESIDE) // 2)

        def channel(client: Client, size: int) -> Channel:
            lane = Lane(size, seconds=timeout_seconds)
            return Channel(client, keys, lane, timeout_seconds=timeout_seconds, failover=clients.failover)

        self._sessions = channel(clients.commands, min(CALLS_AT_ONCE, share))
        self._control = channel(clients.control, CONTROL_CALLS_AT_ONCE)
        self._recovery = channel(clients.control, min(RECOVERIES_AT_ONCE, share))

    async def register(
        self, key: str, endpoint: ReplicaEndpoint, *, mode: Source, request: str, by: str = ""
    ) -> list[Event]:
        """Register a replica or change its spec; return the event, or nothing where nothing changed.

        Args:
            key: The canonical url.
            endpoint: A validated spec.
            mode: A seed yields to what operators did.
            request: Made by `new_token` once per request, and kept over its repetitions.
            by: Who asked.
        """
        order = "" if endpoint.order is None else str(endpoint.order)
        spec = [text for pair in spec_fields(endpoint).items() for text in pair]
        take = self._begin_write()
        reply = await self._sessions.run(
            "register_replica", [mode.value, request, new_token(), self._router, by, key, order, *spec]
        )
        expect(reply, "created", "updated", "unchanged", "tombstone", "overridden")
        return events_of(reply.values, take)

    async def deregister(
        self, key: str, incarnation: str, *, by: str = "", reason: str = "", when_drained: bool = False
    ) -> list[Event] | None:
        """Remove a replica, or let it drain first; `None` where that incarnation is not registered."""
        take = self._begin_write()
        reply = await self._sessions.run(
            "deregister_replica", [key, incarnation, self._router, by, reason, flag(when_drained)]
        )
        status = expect(reply, "removed", "draining", "not_found")
        return None if status == "not_found" else events_of(reply.values, take)

    async def set_admin(self, key: str, state: AdminState, *, by: str = "", reason: str = "") -> list[Event] | None:
        """Set the operator's word; `None` where the replica is not registered."""
        take = self._begin_write()
        reply = await self._sessions.run("set_admin", [key, state.value, self._router, by, reason])
        status = expect(reply, "set", "unchanged", "not_found")
        return None if status == "not_found" else events_of(reply.values, take)

    async def record_outcome(
        self, result: ProbeResult, thresholds: Thresholds, *, by: str = "", is_passive: bool = False
    ) -> list[Event]:
        """Count one outcome; return the status change, if it made one. Never repeated: it would count twice.

        Passive evidence of one router alone, among several live ones, changes no status.
        """
        limits = [str(thresholds.failure), str(thresholds.recovery)]
        take = self._begin_write()
        reply = await self._sessions.run(
            "record_outcome", [result.key, *outcome_words(result), *limits, self._router, by, flag(is_passive)]
        )
        return events_of(reply.values, take) if expect(reply, "applied", "not_found") == "applied" else []

    async def heartbeat(self, info: RouterInfo, *, expiry_seconds: float) -> Heartbeat:
        """Keep a router among the live ones."""
        try:
            reply = await self._control.run(
                "heartbeat",
                [
                    info.key,
                    milliseconds(expiry_seconds),
                    new_token(),
                    info.host,
                    str(info.pid),
                    info.version,
                    milliseconds(info.started_at),
                    info.url,
                    info.config_fingerprint,
                ],
            )
            expect(reply, "alive")
        except StoreError as error:
            if self._writability is not None:
                self._writability.refused(error)
            raise
        if self._writability is not None:
            self._writability.accepted()
        history_id, revision, joined, leases, *expired = reply.values
        return Heartbeat(history_id, revision, joined == "1", expired, int(leases))

    async def reap(self, router: str, *, affinity_seconds: float = 0.0) -> Parting:
        """End leases of a router that has expired, and remove it with the last; refused where it is back, or gone.

        One call ends some hundred leases; where it says partial, call again at once.

        Args:
            router: Its key.
            affinity_seconds: How long the sessions may find their replicas again.
        """
        reply = await self._control.run("reap_router", [router, self._router, milliseconds(affinity_seconds)])
        return _PARTINGS[expect(reply, "reaped", "partial", "alive", "not_found")]

    async def leave(self, *, affinity_seconds: float = 0.0) -> Parting:
        """End this router's leases, and take it out of the live ones with the last; refused where it is not one.

        Like `reap`, some at a time.
        """
        reply = await self._control.run("leave_cluster", [self._router, milliseconds(affinity_seconds)])
        return _PARTINGS[expect(reply, "left", "partial", "not_found")]

    async def acquire(
        self,
        lease_id: str,
        *,
        max_queue: int = 0,
        sequence: str = "",
        avoided: Collection[str] = (),
        excluded: Collection[str] = (),
        patience_seconds: float | None = None,
        on_sent: Callable[[], None] | None = None,
    ) -> Grant | Queued | Denied:
        """Give a session a slot or, if it may wait, a place in the queue; return which, or why there is neither.

        A session that waits asks again, and learns its position. Without `max_queue` it does not wait, or no longer.

        Args:
            lease_id: Made by the caller, and kept over repetitions. See `leases.asking.new_lease_id`.
            max_queue: Wait in the queue, unless that is so long already.
            sequence: Of the place that it has in the queue, if any: the server may have forgotten it.
            avoided: Canonical urls taken only where there is nothing else.
            excluded: Canonical urls not taken at once; what is given to a session that waits may be one of them.
            patience_seconds: How long the call may wait for its turn; `None` for as long as Redis answers.
            on_sent: Called when the turn has come: before, nothing can have happened.

        Raises:
            Busy: The turn did not come in time.
        """
        reply = await self._sessions.run(
            "acquire_lease",
            [self._router, lease_id, str(max_queue), sequence, str(len(avoided)), *avoided, *excluded],
            patience_seconds=patience_seconds,
            on_sent=on_sent,
        )
        status = expect(reply, "granted", "held", "waiting", *_DENIALS)
        if status == "waiting":
            sequence, position, depth = reply.values
            return Queued(sequence, int(position), int(depth))
        return Denied(Denial(status), *map(int, reply.values)) if status in _DENIALS else Grant(*reply.values)

    async def release(self, lease_id: str, *, affinity_seconds: float = 0.0, is_recovery: bool = False) -> list[Event]:
        """End a lease or a waiting, if there is one; return the event, if the lease's replica was removed with it.

        Args:
            lease_id: Whose.
            affinity_seconds: How long the session may find its replica again.
            is_recovery: Nobody holds it any more, so that its slot must not wait behind the sessions of now.
        """
        channel = self._recovery if is_recovery else self._sessions
        take = self._begin_write()
        reply = await channel.run("release_lease", [self._router, lease_id, milliseconds(affinity_seconds)])
        expect(reply, "released", "abandoned", "not_found")
        return events_of(reply.values, take)

    async def restore_leases(self, leases: Mapping[str, str]) -> Restored | None:
        """Put back leases that this router holds; `None` where it is not among the live ones.

        Args:
            leases: Lease id to canonical url; at most 500.
        """
        args = [self._router, *(text for lease in leases.items() for text in lease)]
        reply = await self._recovery.run("restore_leases", args)
        if expect(reply, "restored", "not_registered") == "not_registered":
            return None
        count, over, *urls = reply.values
        return Restored(int(count), urls[: int(over)], urls[int(over) :])

    async def restore(
        self, entries: Sequence[Sequence[str]], *, view_history_id: str, view_revision: str, is_complete: bool = False
    ) -> list[Event] | None:
        """Put back part of a view that outlived the history; `None` where a later view has been put back already.

        Args:
            entries: See `codec.restored_entry`; at most 200.
            view_history_id: The history that was lost.
            view_revision: How far the view had followed it.
            is_complete: All of the view is in now; earlier views come too late.
        """
        view = [new_token(), self._router, view_history_id, view_revision, flag(is_complete)]
        args = [*view, " ".join(HEALTH_NAMES), *(text for entry in entries for text in entry)]
        reply = await self._recovery.run("restore_view", args)
        return parse_events(reply.values) if expect(reply, "restored", "superseded") == "restored" else None

    async def repair(self, *, urls: Collection[str], routers: Collection[str], first_event: str, by: str) -> int:
        """Put in order what follows from the rest; return how many things were wrong. See `repair.repair`.

        Args:
            urls: Canonical urls to look at; at most 200.
            routers: Keys of routers whose leases end unless they are live.
            first_event: Cut the event stream so that it begins with this one; empty for not at all.
            by: Who asked.
        """
        reply = await self._sessions.run(
            "repair_namespace", [self._router, by, first_event, str(len(routers)), *routers, *urls]
        )
        expect(reply, "repaired")
        return int(reply.values[0])

    def turn_away(self, why: str) -> None:
        """Let no session wait any longer for its turn: it is told that Redis cannot be asked, and why."""
        self._sessions.lane.turn_away(why)


_PARTINGS = {
    "reaped": Parting.DONE,
    "left": Parting.DONE,
    "partial": Parting.PARTIAL,
    "alive": Parting.REFUSED,
    "not_found": Parting.REFUSED,
}
_DENIALS = tuple(denial.value for denial in Denial)
