"""The registry's verbs over Redis. They take arguments and return results or raise errors; no status word leaves here.

Every call is bounded by the store's timeout and raises `StoreUnavailable` after it. Then every call except
`record_outcome` may be repeated, because the caller's tokens make the commands idempotent.

Calls use three lanes, so that the calls of sessions never delay a router's heartbeats. One lane is for sessions and
operators, one for heartbeats, leadership and reports, and one for calls that reconcile Redis with the router.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, Protocol

from shared_registry.errors import StoreError
from shared_registry.model import (
    NO_EJECTION,
    AdminState,
    ConnectedSessions,
    EjectionLimits,
    Event,
    Opinion,
    ProbeResult,
    RouterInfo,
    Thresholds,
)
from shared_registry.store.announcing import AnnouncementCommands
from shared_registry.store.answers import (
    BeginWrite,
    events_of,
    evidence_words,
    expect,
    flag,
    ignore_events,
    limit_words,
    new_token,
    outcome_words,
)
from shared_registry.store.channel import Channel, Reply
from shared_registry.store.client import Client, Clients
from shared_registry.store.codec import mark_of, milliseconds, parse_events, parse_probers
from shared_registry.store.discovering import DiscoveryCommands
from shared_registry.store.keys import Keys
from shared_registry.store.lane import Lane
from shared_registry.store.leading import LeaderCommands
from shared_registry.store.registering import RegistrationCommands
from shared_registry.store.replica_fields import HEALTH_NAMES
from shared_registry.store.replies import (
    Denial,
    Denied,
    Departure,
    Grant,
    Heartbeat,
    Opinions,
    Queued,
    Restored,
    Upgrade,
    UpgradeOutcome,
    WrongAffinity,
)
from shared_registry.store.writability import Writability

CALLS_AT_ONCE = 256
"""Enough for thousands of sessions a second with a Redis that is 10 ms away, and few enough that all of them are
answered in a small part of a call's time."""
CONTROL_CALLS_AT_ONCE = 8
"""More than the number of tasks that send such calls, so that none of them waits for another."""
RECOVERIES_AT_ONCE = 8
CONNECTIONS_BESIDE = 8
"""The connections kept for heartbeats, reads and blocking reads if all calls share a client with few connections."""


class Progress(Protocol):
    """Learns how far an `acquire` has come.

    Attributes:
        is_in_doubt: Set to false when Redis has replied, so that no slot is granted later. The caller may be cancelled
            by then.
    """

    is_in_doubt: bool

    def sent(self) -> None:
        """Handle that the call gets its turn. Before that, nothing can have happened in Redis."""


class Store(LeaderCommands, RegistrationCommands, AnnouncementCommands, DiscoveryCommands):
    """One router's commands on one namespace of one Redis. Safe for concurrent use within an event loop."""

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
        """Connect nothing yet.

        Args:
            clients: See `client.connect`. If they allow only few connections, fewer calls run at once, because a call
                without a connection would fail instead of waiting.
            keys: The namespace.
            router: This router's key, which its events carry.
            timeout_seconds: The maximum time of a call, from its turn on.
            writability: Records whether heartbeats are accepted.
            begin_write: Called before each command that may change mirrored state. The function that it returns is
                called with the events in the reply, so that a router reads its own writes.
        """
        self._router = router
        self._writability = writability
        self._begin_write = begin_write
        share = CALLS_AT_ONCE
        if clients.max_connections is not None:
            share = max(1, (clients.max_connections - CONNECTIONS_BESIDE) // 2)

        def channel(client: Client, size: int) -> Channel:
            lane = Lane(size, seconds=timeout_seconds)
            return Channel(client, keys, lane, timeout_seconds=timeout_seconds, failover=clients.failover)

        self._sessions = channel(clients.commands, min(CALLS_AT_ONCE, share))
        self._control = channel(clients.control, CONTROL_CALLS_AT_ONCE)
        self._recovery = channel(clients.control, min(RECOVERIES_AT_ONCE, share))
        self._acquire = self._sessions.command(
            "acquire_lease",
            _acquired,
            first=[router],
            together=self._sessions.together("acquire_leases", [router], _grants),
            repeats=True,
        )
        self._release = self._sessions.command(
            "release_lease",
            _whole_release,
            first=[router],
            together=self._sessions.together("release_leases", [router], _releases),
            repeats=True,
        )

    async def deregister(
        self, key: str, incarnation: str, *, by: str = "", reason: str = "", when_drained: bool = False
    ) -> list[Event] | None:
        """Remove a replica, or let it drain first. Return `None` if that incarnation is not registered."""
        take = self._begin_write()
        reply = await self._sessions.run(
            "deregister_replica", [key, incarnation, self._router, by, reason, flag(when_drained)]
        )
        status = expect(reply, "removed", "draining", "not_found")
        return None if status == "not_found" else events_of(reply.values, take)

    async def set_admin(self, key: str, state: AdminState, *, by: str = "", reason: str = "") -> list[Event] | None:
        """Set the admin state of a replica. Return `None` if the replica is not registered."""
        take = self._begin_write()
        reply = await self._sessions.run("set_admin", [key, state.value, self._router, by, reason])
        status = expect(reply, "set", "unchanged", "not_found")
        return None if status == "not_found" else events_of(reply.values, take)

    async def record_outcome(
        self,
        result: ProbeResult,
        thresholds: Thresholds,
        *,
        by: str = "",
        is_passive: bool = False,
        sessions: ConnectedSessions | None = None,
        failed_ago_seconds: float | None = 0.0,
        ejection: EjectionLimits = NO_EJECTION,
    ) -> list[Event]:
        """Count one outcome. Return the events of a report, a status change or an ejection, if there are any.

        Do not repeat this call: a repeated outcome counts twice. While several routers are alive, passive evidence of
        one router alone never changes a status.

        Args:
            result: The outcome.
            thresholds: Thresholds and times of probes.
            by: The person or program that reports it.
            is_passive: It is the outcome of a session.
            sessions: Which sessions it is the outcome of; `None` for the outcome of connecting, or of no session.
            failed_ago_seconds: How long ago a session could not connect, if a probe of this router has reached the
                replica since then; `None` if not. Without such a probe the failure does not count towards an ejection.
            ejection: When the replica is ejected. Not at all by default.
        """
        words = [*outcome_words(result), *limit_words(thresholds), self._router, by, flag(is_passive)]
        words += ["", ""] if sessions is None else [str(sessions.failures), sessions.client]
        words += ["" if failed_ago_seconds is None else milliseconds(failed_ago_seconds)]
        words += [f"{ejection.max_percent:g}", milliseconds(ejection.base_seconds), str(ejection.failures)]
        take = self._begin_write()
        reply = await self._sessions.run("record_outcome", [result.key, *words])
        return events_of(reply.values, take) if expect(reply, "applied", "not_found") == "applied" else []

    async def give_opinions(self, opinions: Sequence[Opinion], thresholds: Thresholds) -> Opinions:
        """Tell what this router knows about replicas that another router probes. Repeating the call is safe.

        Not all are handled if many replicas change; see `Opinions.done`.
        """
        args = [self._router, *limit_words(thresholds)]
        for opinion in opinions:
            result = opinion.result
            args += [result.key, result.incarnation, opinion.kind.value, opinion.id, *evidence_words(result)]
        take = self._begin_write()
        reply = await self._control.run("give_opinions", args)
        expect(reply, "applied")
        done, stale, *events = reply.values
        return Opinions(events_of(events, take), done=int(done), stale=int(stale))

    async def heartbeat(
        self,
        info: RouterInfo,
        *,
        expiry_seconds: float,
        panic_percent: float = 0.0,
        probers_version: str = "",
        known_history: str = "",
        settled: str = "",
        peers: Collection[str] = (),
        drains: Collection[str] = (),
    ) -> Heartbeat:
        """Send a router's heartbeat, which keeps it alive.

        Args:
            info: The data that the router publishes about itself.
            expiry_seconds: How long after this heartbeat other routers may reap the router.
            panic_percent: The share of healthy replicas below which sessions get replicas that are not healthy. It is
                used for all sessions until the next heartbeat of any router.
            probers_version: The version of the list of probers that the router knows.
            known_history: The history of the router's last heartbeat; empty for the first one.
            settled: `Heartbeat.settling`, if the router has nothing left to bring back.
            peers: The keys of the routers that lived lately, as far as the router knows.
            drains: Canonical urls of replicas to remove if they drain in order to be removed and have no session left;
                at most 10.

        Raises:
            StoreRefused: The namespace belongs to another cluster, and the router is not among its routers.
        """
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
                    info.machine,
                    info.probe_print,
                    probers_version,
                    f"{panic_percent:f}".rstrip("0").rstrip("."),
                    info.trouble,
                    info.probing,
                    known_history,
                    settled,
                    " ".join(peers),
                    info.cluster,
                    *map(_measured, (info.view_age_seconds, info.probe_age_seconds, info.probe_lag_seconds)),
                    *drains,
                ],
            )
            expect(reply, "alive")
        except StoreError as error:
            if self._writability is not None:
                self._writability.refused(error)
            raise
        if self._writability is not None:
            self._writability.accepted()
        history_id, revision, joined, leases, partial, settling, next_ms, version, lease_ms, mark = reply.values[:10]
        count, *names = reply.values[10:]
        probers = None if version == probers_version else parse_probers(names[: int(count)])
        expired = names[int(count) :]
        return Heartbeat(
            history_id,
            revision,
            joined=joined == "1",
            expired=expired,
            leases=int(leases),
            probers_version=version,
            probers=probers,
            is_partial=partial == "1",
            settling=settling,
            next_expiry_seconds=int(next_ms) / 1000 if next_ms else None,
            leader_lease_seconds=int(lease_ms) / 1000 if lease_ms else None,
            mark=mark_of(mark, revision),
        )

    async def reap(
        self,
        router: str,
        *,
        affinity_seconds: float = 0.0,
        moves: bool = False,
        on_ended: Callable[[int], object] = lambda _: None,
    ) -> Departure:
        """Reap an expired router: end its leases, and remove it with its last lease.

        One call ends some leases. If the result is `PARTIAL`, call again at once. The result is `REFUSED` if
        the router is alive again or is not there any more.

        Args:
            router: The router's key.
            affinity_seconds: How long the affinity of its sessions is kept.
            moves: Whether leases that may move go to this router, instead of ending.
            on_ended: Called with the number of leases that the call has ended.
        """
        args = [router, self._router, milliseconds(affinity_seconds), flag(moves)]
        reply = await self._control.run("reap_router", args)
        departure = _DEPARTURES[expect(reply, "reaped", "partial", "alive", "not_found")]
        if departure is not Departure.REFUSED:
            on_ended(int(reply.values[-1]))
        return departure

    async def leave(self, *, affinity_seconds: float = 0.0, moves: bool = False) -> Departure:
        """End this router's leases, and remove the router with its last lease.

        Like `reap`, one call ends some leases. The result is `REFUSED` if the router is not registered. With `moves`,
        leases that may move go to another live router, if there is one, instead of ending.
        """
        args = [self._router, milliseconds(affinity_seconds), flag(moves)]
        reply = await self._control.run("leave_cluster", args)
        return _DEPARTURES[expect(reply, "left", "partial", "not_found")]

    def acquire(
        self,
        lease_id: str,
        *,
        max_queue: int = 0,
        sequence: str = "",
        takes_spare: bool = True,
        avoided: Collection[str] = (),
        excluded: Collection[str] = (),
        patience_seconds: float | None = None,
        progress: Progress | None = None,
    ) -> Coroutine[Any, Any, Grant | Queued | Denied]:
        """Give a session a slot. If there is none and the session may wait, put it in the queue.

        A repeated call of a waiting session returns its position. With `max_queue` 0 the session does not wait, and a
        session that waits leaves the queue.

        Args:
            lease_id: An id from `leases.asking.new_lease_id`, the same for all repetitions.
            max_queue: The session joins the queue only if it is shorter than this.
            sequence: The session's sequence in the queue, if it has or had one, because the server may have lost it. A
                session with a sequence joins the queue even if that is full.
            takes_spare: Whether the session may get a replica that is not healthy if there is a panic and no healthy
                replica has a free slot.
            avoided: Canonical urls of replicas that are used only if no other has a free slot.
            excluded: Canonical urls of replicas that are not used at once. A waiting session may still be given one.
            patience_seconds: How long the call may wait for its turn; `None` for as long as Redis answers.
            progress: Learns how far the call has come. With it, a cancellation of a call that was sent takes effect
                when Redis has replied.

        Raises:
            Busy: The call did not get its turn in time.
        """
        is_usual = not avoided and not excluded and not has_name(lease_id)
        return self._sessions.call(
            self._acquire,
            (
                lease_id,
                str(max_queue),
                sequence,
                "1" if takes_spare else "0",
                str(len(avoided)),
                *avoided,
                *excluded,
            ),
            patience_seconds=patience_seconds,
            on_sent=None if progress is None else progress.sent,
            on_reply=None if progress is None else functools.partial(_settle, progress),
            usual=lease_id if is_usual else None,
        )

    async def release(
        self,
        lease_id: str,
        *,
        affinity_seconds: float = 0.0,
        is_recovery: bool = False,
        on_end: Callable[[str], None] | None = None,
    ) -> list[Event]:
        """End a lease, or take a waiter out of the queue, if there is one.

        Return the event if the replica was removed with the lease, which was its last.

        Args:
            lease_id: The id of the lease or the waiter.
            affinity_seconds: How long the session's affinity to its replica is kept.
            is_recovery: No session holds the lease any more. Such calls use a lane of their own, so that the slot does
                not wait behind the calls of sessions.
            on_end: Called with the id when Redis has received the end, also if the caller has been cancelled meanwhile.
                The cancellation takes effect then, not before.
        """
        channel = self._recovery if is_recovery else self._sessions
        take = self._begin_write()
        words = await channel.call(
            self._release,
            (lease_id, milliseconds(affinity_seconds)),
            on_reply=None if on_end is None else functools.partial(_end, on_end, lease_id),
            usual=None if is_recovery or has_name(lease_id) else lease_id,
        )
        return events_of(words[1:], take) if len(words) > 1 else []

    async def take_over(self, lease_id: str, *, on_sent: Callable[[], None] | None = None) -> Grant | Denied | None:
        """Move a lease that may move to this router, from whichever router has it. Return `None` if none has it.

        `Denial.ENDED` says that the lease has moved from this router, and has ended since.

        Args:
            lease_id: The lease's id.
            on_sent: Called when the call gets its turn. Before that, nothing can have happened in Redis.
        """
        reply = await self._sessions.run("take_over_lease", [self._router, lease_id], on_sent=on_sent)
        status = expect(reply, "held", "moved", "not_found", "ended", _NOT_REGISTERED)
        if status == "not_found":
            return None
        if status in ("ended", _NOT_REGISTERED):
            return Denied(Denial(status))
        key, revision = reply.values
        return Grant(key, revision)

    async def restore_leases(self, leases: Mapping[str, str], *, is_lost: bool = False) -> Restored | None:
        """Restore leases that this router holds. Return `None` if the router is not registered.

        Args:
            leases: Lease id to canonical url; at most about 40.
            is_lost: Redis had these leases and lost them, perhaps with leases of other routers.
        """
        args = [self._router, flag(is_lost), *(text for lease in leases.items() for text in lease)]
        reply = await self._recovery.run("restore_leases", args)
        if expect(reply, "restored", "not_registered") == "not_registered":
            return None
        count, over, moved, *names = reply.values
        first, last = int(over), int(over) + int(moved)
        return Restored(int(count), names[:first], names[last:], tuple(names[first:last]))

    async def restore(
        self, entries: Sequence[Sequence[str]], *, view_history_id: str, view_revision: str, is_complete: bool = False
    ) -> list[Event] | None:
        """Restore a part of a view after a loss of history. Return `None` if a later view has already been restored.

        Args:
            entries: See `codec.restored_entry`; at most about 20.
            view_history_id: The history that was lost.
            view_revision: The revision of the view in that history.
            is_complete: The whole view is restored now, so that earlier views of its history are refused from now on.
        """
        view = [new_token(), self._router, view_history_id, view_revision, flag(is_complete)]
        args = [*view, " ".join(HEALTH_NAMES), *(text for entry in entries for text in entry)]
        reply = await self._recovery.run("restore_view", args)
        return parse_events(reply.values) if expect(reply, "restored", "superseded") == "restored" else None

    async def repair(
        self, *, loads: Mapping[str, tuple[str, int] | None], routers: Collection[str], first_event: str, by: str
    ) -> int:
        """Repair derived data. Return how many values were wrong. See `repair.repair`.

        With routers, it makes several calls: each goes through a part of the queue.

        Args:
            loads: Canonical urls of replicas to repair, at most about 15. A load that is wrong comes with its text in
                Redis and the number of leases, by which it is replaced unless it has changed.
            routers: Keys of routers whose leases and waiters are ended if they are not registered.
            first_event: Delete events before this one; empty to delete none.
            by: The person or program that requested it.
        """
        words: list[str] = []
        for url, load in loads.items():
            words += [url, *(("", "") if load is None else (load[0], str(load[1])))]
        wrong, cursor = 0, "0" if routers else ""
        while True:
            head = [self._router, by, first_event, " ".join(routers), cursor]
            reply = await self._sessions.run("repair_namespace", [*head, *words])
            expect(reply, "repaired")
            count, cursor = reply.values
            wrong += int(count)
            if not cursor:
                return wrong
            first_event, words = "", []

    async def repair_affinities(self, wrong: Sequence[WrongAffinity], *, by: str) -> int:
        """Repair the affinities of sessions. Return how many were repaired. See `repair.repair`.

        Args:
            wrong: Sessions with their keys as they were read; a session whose keys have changed since is left alone.
                They should name at most about 200 urls.
            by: The person or program that requested it.
        """
        words = [self._router, by]
        for one in wrong:
            affinity, counts = one.affinity, {url: str(count) for url, count in one.leases.items()}
            words += [one.session, affinity.url, flag(affinity.has_end), str(len(affinity.several)), str(len(counts))]
            words += [text for pair in (*affinity.several.items(), *counts.items()) for text in pair]
        reply = await self._sessions.run("repair_affinities", words)
        expect(reply, "repaired")
        return int(reply.values[0])

    async def upgrade(self, *, by: str, quiet_seconds: float = 0.0, is_dry_run: bool = False) -> Upgrade:
        """Give the namespace the newest schema that this version knows, unless a router lives that does not know it.

        Args:
            by: The person or program that requested it.
            quiet_seconds: How long no such router may have lived.
            is_dry_run: Whether only to find out.
        """
        reply = await self._control.run(
            "upgrade_namespace", [self._router, by, milliseconds(quiet_seconds), flag(is_dry_run)]
        )
        outcome = UpgradeOutcome(expect(reply, *(one.value for one in UpgradeOutcome)))
        before, now, *rest = reply.values
        return Upgrade(outcome, before, now, rest if outcome is UpgradeOutcome.OLDER else ())

    def end_waits(self, reason: str) -> None:
        """End every session's wait for a turn with a `StoreUnavailable` that gives `reason` as the reason."""
        self._sessions.lane.end_waits(reason)


def has_name(lease_id: str) -> bool:
    """Return whether it is the lease of a named session; see `ledger.new_lease_id`."""
    return ":" in lease_id


def _measured(seconds: float | None) -> str:
    """Return a measured duration in milliseconds; an empty text if nothing was measured."""
    return "" if seconds is None else milliseconds(seconds)


def _acquired(words: list[str]) -> Grant | Queued | Denied:
    status = words[0]
    if status in _GRANTED:
        return Grant(words[1], words[2], has_returned=status == "returned")
    status, values = expect(Reply(status, words[1:]), "spare", "waiting", *_DENIALS), words[1:]
    if status == "spare":
        key, revision, sequence = values
        return Grant(key, revision, is_spare=True, sequence=sequence)
    if status == "waiting":
        sequence, position, depth = values
        return Queued(sequence, int(position), int(depth))
    return Denied(Denial(status), *map(int, values))


def _settle(progress: Progress, words: Sequence[str]) -> None:
    if words[0] != _NOT_REGISTERED:
        progress.is_in_doubt = False


def _whole_release(words: list[str]) -> list[str]:
    if words[0] not in _ENDINGS:
        expect(Reply(words[0], words[1:]), *_ENDINGS)
    return words


def _end(on_end: Callable[[str], None], lease_id: str, words: Sequence[str]) -> None:
    if words[0] in _ENDINGS:
        on_end(lease_id)


def _grants(reply: Sequence[str]) -> list[list[str]]:
    return [[reply[0], reply[at], reply[at + 1]] for at in range(1, len(reply), 2)]


def _releases(reply: Sequence[str]) -> list[list[str]]:
    return [[reply[0]]] * int(reply[1])


_DEPARTURES = {
    "reaped": Departure.DONE,
    "left": Departure.DONE,
    "partial": Departure.PARTIAL,
    "alive": Departure.REFUSED,
    "not_found": Departure.REFUSED,
}
_GRANTED = ("granted", "held", "returned")
_ENDINGS = ("released", "abandoned", "not_found")
_NOT_REGISTERED = Denial.NOT_REGISTERED.value
_DENIALS = tuple(denial.value for denial in Denial)
