"""Turns what the mirror takes over into happenings: each change once, however this router learned of it.

The mirror gets many changes twice: by the reply to a command of this router, and by the event stream. After a gap it
gets no events at all, but a full read. So what was reported of each replica last is compared with what comes next, and
only a difference is news. An event of which nothing else can be compared, such as that a router joined, is reported
when the event stream brings it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

from shared_registry.aio.breath import Breath
from shared_registry.happenings import (
    Emitter,
    FailureCause,
    LeaderChanged,
    PanicBegan,
    PanicEnded,
    ReplicaCleared,
    ReplicaDisabled,
    ReplicaDrained,
    ReplicaEjected,
    ReplicaEmptied,
    ReplicaEnabled,
    ReplicaExpired,
    ReplicaHappening,
    ReplicaHealthy,
    ReplicaRegistered,
    ReplicaRemoved,
    ReplicaReturned,
    ReplicaSuspected,
    ReplicaUnhealthy,
    ReplicaUnjudged,
    ReplicaUpdated,
    RouterExpired,
    RouterHappening,
    RouterJoined,
    RouterLeft,
    RouterRecovered,
    RouterTroubled,
    SettingsDiffer,
    SettlingBegan,
    SettlingEnded,
    ViewLoaded,
)
from shared_registry.mirror.mirror import Mirror
from shared_registry.model import ORIGIN, AdminState, Event, EventKind, Leader, ReplicaRecord, ReplicaStatus, is_later

START = "start"
_ROUTERS: Mapping[EventKind, type[RouterHappening]] = MappingProxyType(
    {
        EventKind.ROUTER_JOINED: RouterJoined,
        EventKind.ROUTER_LEFT: RouterLeft,
        EventKind.ROUTER_EXPIRED: RouterExpired,
        EventKind.ROUTER_IN_TROUBLE: RouterTroubled,
        EventKind.ROUTER_RECOVERED: RouterRecovered,
        EventKind.SETTINGS_DIFFER: SettingsDiffer,
    }
)
_ADMIN: Mapping[AdminState, type[ReplicaHappening]] = MappingProxyType(
    {
        AdminState.ACTIVE: ReplicaEnabled,
        AdminState.DRAINING: ReplicaDrained,
        AdminState.DISABLED: ReplicaDisabled,
    }
)
_CAUSES = (
    ("timeout", FailureCause.TIMEOUT),
    ("HTTP ", FailureCause.STATUS),
    ("body: ", FailureCause.BODY),
    ("session", FailureCause.SESSION),
    ("Connect", FailureCause.CONNECT),
    ("ReadError", FailureCause.CONNECT),
)


class News:
    """Reports what the mirror takes over. While nobody listens it remembers nothing, and does nothing."""

    def __init__(self, emitter: Emitter, mirror: Mirror, *, now: Callable[[], float] = time.time) -> None:
        """Set up; nothing is reported before `begin`.

        Args:
            emitter: Delivers the happenings.
            mirror: Shows the shared state.
            now: Returns the time of this machine, for what is found by comparing.
        """
        self._emitter = emitter
        self._mirror = mirror
        self._now = now
        self._reported: dict[str, ReplicaRecord] | None = None
        self._leader: Leader | None = None
        self._ended_epoch = 0
        self._removed: dict[str, str] = {}
        self._followed = ORIGIN
        self._generation = 0
        self._is_panic = self._is_settling = False
        self._has_begun = False

    def start(self) -> None:
        """Report that the view was loaded, and from now on each change of it."""
        self._has_begun = True
        self.begin()
        if self._emitter.has_listeners:
            self._report_load(START)

    def begin(self) -> None:
        """Take the present view as known, if nobody has listened so far."""
        if self._has_begun and self._reported is None and self._emitter.has_listeners:
            self._take_as_known()

    def notice(self, events: Sequence[Event]) -> None:
        """Report the changes by these events, or by a full read. For `Mirror.subscribed`."""
        if not self._emitter.has_listeners:
            self._reported = None
        elif self._reported is not None:
            self._report(events, self._reported)

    async def prepare(self, records: Mapping[str, ReplicaRecord]) -> None:
        """Compare the records of a full read in pieces, so that `notice` need not. For `Mirror.subscribed`.

        A record in which nothing happened counts as reported from then on. `notice` compares the others again.
        """
        reported, breath = self._reported, Breath()
        if reported is None:
            return
        for key, record in records.items():
            before = reported.get(key)
            if before is not None and before is not record and not any(_differences(before, record, at=0.0)):
                reported[key] = record
            if breath.is_over:
                await breath.pause()
                if self._reported is not reported:
                    return

    def _take_as_known(self) -> None:
        self._reported, self._removed = self._present()
        self._leader = self._mirror.leader
        self._followed = self._mirror.revision
        self._generation = self._mirror.generation
        self._is_panic = self._mirror.view.panic is not None
        self._is_settling = self._mirror.is_settling

    def _present(self) -> tuple[dict[str, ReplicaRecord], dict[str, str]]:
        """Return the records of the view, and the revisions of the removals that it knows."""
        view = self._mirror.view
        records = {(record := replica.record).key: record for replica in view.all()}
        return records, {key: removal.revision for key, removal in view.removed.items()}

    def _report(self, events: Sequence[Event], reported: dict[str, ReplicaRecord]) -> None:
        if self._generation != self._mirror.generation:
            self._report_full_read(reported)
        for event in events:
            self._report_event(event, reported)
        if not is_later(self._followed, self._mirror.revision):
            self._followed = self._mirror.revision
        self._report_panic()

    def _report_full_read(self, reported: dict[str, ReplicaRecord]) -> None:
        now = self._now()
        found, self._removed = self._present()
        self._generation, self._followed = self._mirror.generation, self._mirror.revision
        self._reported, self._ended_epoch = found, 0
        self._report_load(self._mirror.gap)
        for key in reported.keys() - found.keys():
            self._emitter.emit(ReplicaRemoved(at=now, record=reported[key]))
        for key, record in [(key, record) for key, record in found.items() if reported.get(key) is not record]:
            for happening in _differences(reported.get(key), record, at=now):
                self._emitter.emit(happening)
        self._report_leader(self._mirror.leader, at=now)
        self._report_settling(is_settling=self._mirror.is_settling, at=now)

    def _report_load(self, reason: str) -> None:
        mirror = self._mirror
        self._emitter.emit(
            ViewLoaded(at=self._now(), reason=reason, revision=mirror.revision, history_id=mirror.history_id or "")
        )

    def _report_event(self, event: Event, reported: dict[str, ReplicaRecord]) -> None:
        for record in event.changed or event.records(reported.get):
            self._report_record(record, event, reported)
        if event.kind is EventKind.LEADER_ELECTED:
            if event.epoch > max(self._ended_epoch, self._leader.epoch if self._leader else 0):
                self._report_leader(Leader(event.router, event.epoch, event.at), at=event.at)
        elif event.kind is EventKind.LEADER_RESIGNED:
            if event.epoch > self._ended_epoch:
                self._ended_epoch = event.epoch
                if self._leader is None or self._leader.epoch <= event.epoch:
                    self._report_leader(None, at=event.at, by=event.by, reason=event.reason)
        elif self._is_new_in_the_stream(event):
            self._report_bare(event)

    def _is_new_in_the_stream(self, event: Event) -> bool:
        """Whether the event stream brings this event now; a reply to a command may bring it too."""
        return is_later(event.id, self._followed) and not is_later(event.id, self._mirror.revision)

    def _report_bare(self, event: Event) -> None:
        if made := _ROUTERS.get(event.kind):
            self._emitter.emit(made(at=event.at, router=event.router, by=event.by, reason=event.reason))
        elif event.kind is EventKind.REPLICA_EMPTIED:
            self._emitter.emit(ReplicaEmptied(at=event.at, key=event.reported, router=event.router))
        elif event.kind in (EventKind.SETTLING_BEGAN, EventKind.SETTLING_ENDED):
            is_settling = event.kind is EventKind.SETTLING_BEGAN
            self._report_settling(is_settling=is_settling, at=event.at, router=event.router)

    def _report_record(self, record: ReplicaRecord, event: Event, reported: dict[str, ReplicaRecord]) -> None:
        before = reported.get(record.key)
        if before is not None and not is_later(record.revision, before.revision):
            return
        if record.admin is AdminState.REMOVED:
            if is_later(record.revision, self._removed.get(record.key, ORIGIN)):
                self._removed[record.key] = record.revision
            if before is not None:
                del reported[record.key]
                self._emitter.emit(ReplicaRemoved(at=event.at, record=record, by=event.by, reason=event.reason))
            return
        if before is None and not is_later(record.revision, self._removed.get(record.key, ORIGIN)):
            return  # it was removed since
        self._removed.pop(record.key, None)
        reported[record.key] = record
        by = event.by or ("" if event.carried else event.router)
        reason = record.last_error if event.changed and not event.reason else event.reason  # each may have its own
        for happening in _differences(before, record, at=event.at, by=by, reason=reason):
            self._emitter.emit(happening)

    def _report_leader(self, leader: Leader | None, *, at: float, by: str = "", reason: str = "") -> None:
        former = self._leader
        if _term_of(leader) != _term_of(former):
            self._leader = leader
            self._emitter.emit(LeaderChanged(at=at, leader=leader, former=former, by=by, reason=reason))

    def _report_settling(self, *, is_settling: bool, at: float, router: str = "") -> None:
        if self._is_settling is not is_settling:
            self._is_settling = is_settling
            self._emitter.emit(SettlingBegan(at=at, router=router) if is_settling else SettlingEnded(at=at))

    def _report_panic(self) -> None:
        panic = self._mirror.view.panic
        if self._is_panic is not (panic is not None):
            self._is_panic = panic is not None
            now = self._now()
            self._emitter.emit(PanicEnded(at=now) if panic is None else PanicBegan(at=now, reason=str(panic)))


def _term_of(leader: Leader | None) -> tuple[str, int] | None:
    return None if leader is None else (leader.router, leader.epoch)


def _differences(
    before: ReplicaRecord | None, record: ReplicaRecord, *, at: float, by: str = "", reason: str = ""
) -> Iterator[ReplicaHappening]:
    """Return what happened to a replica between two records of it. A new incarnation is another replica."""
    if before is not None and before.incarnation and before.incarnation != record.incarnation:
        yield ReplicaRemoved(at=at, record=before)
        before = None
    if before is None:
        yield ReplicaRegistered(at=at, record=record, by=by, reason=reason)
        return
    if before.endpoint != record.endpoint:
        yield ReplicaUpdated(at=at, record=record, by=by, reason=reason, former=before.endpoint)
    if record.expired_at is not None and before.expired_at is None:
        yield ReplicaExpired(at=at, record=record, by=by, reason=record.admin_reason)
    elif before.admin is not record.admin:
        yield _ADMIN[record.admin](at=at, record=record, by=by, reason=record.admin_reason)
    if before.health.status is not record.health.status:
        yield _status(before.health.status, record, at=at, by=by)
    if before.doubt.suspicion != record.doubt.suspicion:
        yield from _suspicion(record, at=at, by=by)
    if before.ejected_until != record.ejected_until:
        made = ReplicaReturned if record.ejected_until is None else ReplicaEjected
        yield made(at=at, record=record, by=by, reason=reason)


def _suspicion(record: ReplicaRecord, *, at: float, by: str) -> Iterator[ReplicaHappening]:
    if record.doubt.suspicion:
        yield ReplicaSuspected(at=at, record=record, by=record.doubt.suspected_by)
    elif record.health.status is ReplicaStatus.HEALTHY:
        yield ReplicaCleared(at=at, record=record, by=by)


def _status(former: ReplicaStatus, record: ReplicaRecord, *, at: float, by: str) -> ReplicaHappening:
    if record.health.status is ReplicaStatus.HEALTHY:
        return ReplicaHealthy(at=at, record=record, by=by, former=former)
    if record.health.status is ReplicaStatus.UNHEALTHY:
        error = record.last_error
        return ReplicaUnhealthy(at=at, record=record, by=by, reason=error, former=former, cause=cause_of(error))
    return ReplicaUnjudged(at=at, record=record, by=by, former=former)


def cause_of(error: str) -> FailureCause:
    """Return the kind of an error of a probe or session, by its text."""
    return next((cause for begin, cause in _CAUSES if error.startswith(begin)), FailureCause.OTHER)
