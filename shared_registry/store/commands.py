"""The registry's verbs over Redis: arguments in, results or errors out. Status words end here.

Every call is bounded by the store's timeout and raises `StoreUnavailable` past it. All but `record_outcome` may be
repeated after that: the commands are idempotent by tokens that the caller makes.

Calls go in three lanes, so that however much the sessions of a router ask, the router stays alive: what sessions and
operators ask; heartbeats, leadership and reports; and what brings Redis and the router in line again.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping, Sequence

from shared_registry.aio.completion import completed
from shared_registry.errors import Fenced, KeyConflict, StoreError
from shared_registry.model import (
    AdminState,
    Event,
    Leader,
    ProbeResult,
    ReplicaEndpoint,
    RouterInfo,
    Source,
    Term,
    Thresholds,
)
from shared_registry.store.channel import Channel, Reply
from shared_registry.store.client import Client, Clients
from shared_registry.store.codec import milliseconds, parse_events
from shared_registry.store.keys import Keys, wrong_schema
from shared_registry.store.lane import Lane
from shared_registry.store.replica_fields import HEALTH_NAMES, spec_fields
from shared_registry.store.replies import (
    Denial,
    Denied,
    Elected,
    Grant,
    Heartbeat,
    Held,
    Parting,
    Queued,
    Report,
    Restored,
)
from shared_registry.store.writability import Writability

CALLS_AT_ONCE = 32
CONTROL_CALLS_AT_ONCE = 8
"""Some more than there are tasks that send them, so that none waits for another."""
RECOVERIES_AT_ONCE = 8
CONNECTIONS_BESIDE = 8
"""What heartbeats, reads and blocking reads take at most in practice, where all share few connections."""


def new_token() -> str:
    """Return a random id for an incarnation, a candidacy or a history."""
    return secrets.token_hex(8)


TakeEvents = Callable[[Sequence[Event]], None]
BeginWrite = Callable[[], TakeEvents]


class Store:
    """One namespace of one Redis, as seen by one router. Safe for concurrent use within an event loop."""

    def __init__(
        self,
        clients: Clients,
        keys: Keys,
        *,
        router: str,
        timeout_seconds: float = 1.0,
        writability: Writability | None = None,
        begin_write: BeginWrite = lambda: _ignore,
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
        _expect(reply, "created", "updated", "unchanged", "tombstone", "overridden")
        return _events(reply.values, take)

    async def deregister(
        self, key: str, incarnation: str, *, by: str = "", reason: str = "", when_drained: bool = False
    ) -> list[Event] | None:
        """Remove a replica, or let it drain first; `None` where that incarnation is not registered."""
        take = self._begin_write()
        reply = await self._sessions.run(
            "deregister_replica", [key, incarnation, self._router, by, reason, _flag(when_drained)]
        )
        status = _expect(reply, "removed", "draining", "not_found")
        return None if status == "not_found" else _events(reply.values, take)

    async def set_admin(self, key: str, state: AdminState, *, by: str = "", reason: str = "") -> list[Event] | None:
        """Set the operator's word; `None` where the replica is not registered."""
        take = self._begin_write()
        reply = await self._sessions.run("set_admin", [key, state.value, self._router, by, reason])
        status = _expect(reply, "set", "unchanged", "not_found")
        return None if status == "not_found" else _events(reply.values, take)

    async def campaign(self, token: str, *, lease_seconds: float, seen_epoch: int) -> Elected | Held:
        """Stand for leader. The same token again finds itself elected and begins its lease anew."""
        reply = await self._control.run(
            "campaign", [self._router, token, milliseconds(lease_seconds), str(seen_epoch), new_token()]
        )
        if _expect(reply, "elected", "held") == "elected":
            return Elected(int(reply.values[0]))
        router, epoch, elected_at_ms, remaining_ms = reply.values
        return Held(Leader(router, int(epoch), int(elected_at_ms) / 1000), int(remaining_ms) / 1000)

    async def renew(self, token: str, *, lease_seconds: float) -> bool:
        """Extend the lease; `False` where the token no longer leads."""
        reply = await self._control.run("renew", [token, milliseconds(lease_seconds)])
        return _expect(reply, "renewed", "lost") == "renewed"

    async def resign(self, token: str, *, reason: str = "") -> bool:
        """End the lease, for a reason that the event tells; `False` where the token did not lead."""
        reply = await self._control.run("resign", [token, reason])
        return _expect(reply, "resigned", "lost") == "resigned"

    async def step_down(self, epoch: int, *, sit_out_seconds: float, by: str = "", reason: str = "") -> str | None:
        """End the lease of whoever leads in that epoch, and return who it was; `None` where the epoch is over.

        Args:
            epoch: Names the term, so that repeating the call does not end the next one.
            sit_out_seconds: How long the deposed router is not to stand again.
            by: Who asked.
            reason: Why.
        """
        reply = await self._control.run("step_down", [str(epoch), milliseconds(sit_out_seconds), by, reason])
        return reply.values[0] if _expect(reply, "deposed", "over") == "deposed" else None

    async def _run_leading(self, name: str, args: Sequence[str]) -> Reply:
        """Call what a term's end may cancel, to its end: the leader resigns over the same connection.

        A call that is cut short closes it, and one that steps aside for want of descriptors could open no other.
        """
        return await completed(self._control.run(name, args))

    async def declare_panic(self, term: Term, why: str) -> bool:
        """Say why there is panic, or with an empty text that there is none; return whether that was news.

        Raises:
            Fenced: It is not the leader's term any more; nothing was written.
        """
        reply = await self._run_leading("declare_panic", [term.token, str(term.epoch), why])
        status = _expect(reply, "declared", "unchanged", "fenced")
        if status == "fenced":
            raise Fenced(f"epoch {term.epoch} is over; what it found about panic was refused")
        return status == "declared"

    async def advance_ramps(self, term: Term, urls: Sequence[str], *, slow_start_seconds: float) -> list[str]:
        """Bring the ready scores of these in line with the time, as far as they ramp up; return those that go on.

        Args:
            term: The leader's.
            urls: Canonical urls, some 200 at the most.
            slow_start_seconds: How long replicas ramp that turn healthy from now on.

        Raises:
            Fenced: It is not the leader's term any more; nothing was written.
        """
        reply = await self._run_leading(
            "advance_ramps", [term.token, str(term.epoch), milliseconds(slow_start_seconds), *urls]
        )
        if _expect(reply, "advanced", "fenced") == "fenced":
            raise Fenced(f"epoch {term.epoch} is over; it ramps no replica up any more")
        return list(reply.values)

    async def report(self, term: Term, batch: int, results: Sequence[ProbeResult], thresholds: Thresholds) -> Report:
        """Apply a batch of probe results, at most once whatever the number of calls.

        Raises:
            Fenced: It is not the leader's term any more; nothing was written.
        """
        args = [term.token, str(term.epoch), str(batch), str(thresholds.failure), str(thresholds.recovery)]
        for result in results:
            args += [result.key, *_outcome(result)]
        take = self._begin_write()
        reply = await self._run_leading("report_probes", args)
        status = _expect(reply, "applied", "duplicate", "fenced")
        if status == "fenced":
            raise Fenced(f"epoch {term.epoch} is over; its {len(results)} probe results were refused")
        if status == "duplicate":
            return Report(is_duplicate=True)
        return Report(_events(reply.values[1:], take), dropped=int(reply.values[0]))

    async def record_outcome(
        self, result: ProbeResult, thresholds: Thresholds, *, by: str = "", is_passive: bool = False
    ) -> list[Event]:
        """Count one outcome; return the status change, if it made one. Never repeated: it would count twice.

        Passive evidence of one router alone, among several live ones, changes no status.
        """
        limits = [str(thresholds.failure), str(thresholds.recovery)]
        take = self._begin_write()
        reply = await self._sessions.run(
            "record_outcome", [result.key, *_outcome(result), *limits, self._router, by, _flag(is_passive)]
        )
        return _events(reply.values, take) if _expect(reply, "applied", "not_found") == "applied" else []

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
            _expect(reply, "alive")
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
        return _PARTINGS[_expect(reply, "reaped", "partial", "alive", "not_found")]

    async def leave(self, *, affinity_seconds: float = 0.0) -> Parting:
        """End this router's leases, and take it out of the live ones with the last; refused where it is not one.

        Like `reap`, some at a time.
        """
        reply = await self._control.run("leave_cluster", [self._router, milliseconds(affinity_seconds)])
        return _PARTINGS[_expect(reply, "left", "partial", "not_found")]

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
        status = _expect(reply, "granted", "held", "waiting", *_DENIALS)
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
        _expect(reply, "released", "abandoned", "not_found")
        return _events(reply.values, take)

    async def restore_leases(self, leases: Mapping[str, str]) -> Restored | None:
        """Put back leases that this router holds; `None` where it is not among the live ones.

        Args:
            leases: Lease id to canonical url; at most 500.
        """
        args = [self._router, *(text for lease in leases.items() for text in lease)]
        reply = await self._recovery.run("restore_leases", args)
        if _expect(reply, "restored", "not_registered") == "not_registered":
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
        view = [new_token(), self._router, view_history_id, view_revision, _flag(is_complete)]
        args = [*view, " ".join(HEALTH_NAMES), *(text for entry in entries for text in entry)]
        reply = await self._recovery.run("restore_view", args)
        return parse_events(reply.values) if _expect(reply, "restored", "superseded") == "restored" else None

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
        _expect(reply, "repaired")
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


def _flag(is_so: bool) -> str:  # noqa: FBT001  a value
    return "1" if is_so else "0"


def _ignore(events: Sequence[Event]) -> None:
    """Take no events: nobody mirrors what this store writes."""


def _events(values: Sequence[str], take: TakeEvents) -> list[Event]:
    """Return the events that a reply carries, once they were taken."""
    events = parse_events(values)
    take(events)
    return events


def _outcome(result: ProbeResult) -> list[str]:
    return [result.incarnation, _flag(result.error is None), f"{result.latency_ms:.3f}", result.error or ""]


def _expect(reply: Reply, *words: str) -> str:
    """Return the status word if it is one of these; raise what it means otherwise."""
    if reply.status in words:
        return reply.status
    if reply.status == "wrong_type":
        key, found, wanted = reply.values
        raise KeyConflict(f"key {key} is a {found}, not a {wanted}; move or delete it, nothing was written")
    if reply.status == "wrong_schema":
        raise wrong_schema(reply.values[0])
    raise StoreError(f"a command answered {reply.status!r}, which this version does not know")
