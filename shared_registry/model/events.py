"""The events of the event stream."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from shared_registry.model.makers import Maker
from shared_registry.model.plan import Plan
from shared_registry.model.probes import Question
from shared_registry.model.replicas import Doubt, ReplicaRecord, ReplicaStatus
from shared_registry.model.status_changes import StatusChange


class EventKind(enum.Enum):
    """The kinds of events in the event stream. `OTHER` stands for a kind that only a later version knows."""

    OTHER = "other"

    REPLICA_REGISTERED = "replica_registered"
    REPLICA_UPDATED = "replica_updated"
    REPLICA_DEREGISTERED = "replica_deregistered"
    REPLICA_HEALTHY = "replica_healthy"
    REPLICA_UNHEALTHY = "replica_unhealthy"
    REPLICA_ADMIN = "replica_admin"
    REPLICA_SUSPECTED = "replica_suspected"
    REPLICA_CLEARED = "replica_cleared"
    REPLICA_REPORTED = "replica_reported"
    REPLICA_EMPTIED = "replica_emptied"
    REPLICA_HANDED_BACK = "replica_handed_back"
    REPLICA_EJECTED = "replica_ejected"
    REPLICA_RETURNED = "replica_returned"
    REPLICA_EXPIRED = "replica_expired"
    LEADER_ELECTED = "leader_elected"
    LEADER_RESIGNED = "leader_resigned"
    PLAN_CHANGED = "plan_changed"
    ROUTER_JOINED = "router_joined"
    ROUTER_IN_TROUBLE = "router_in_trouble"
    ROUTER_RECOVERED = "router_recovered"
    SETTINGS_DIFFER = "settings_differ"
    ROUTER_LEFT = "router_left"
    ROUTER_EXPIRED = "router_expired"
    VIEW_RESTORED = "view_restored"
    NAMESPACE_REPAIRED = "namespace_repaired"
    NAMESPACE_UPGRADED = "namespace_upgraded"
    SETTLING_BEGAN = "settling_began"
    SETTLING_ENDED = "settling_ended"
    PANIC_BEGAN = "panic_began"
    PANIC_ENDED = "panic_ended"


@dataclass(frozen=True, slots=True)
class Event:
    """One change of the shared state. Event ids order all changes.

    Attributes:
        id: The event's id, which is the revision after the change.
        previous: The id of the event before it. If it differs from the reader's revision, the reader has a gap.
        at: The time of the change, in seconds since the Unix epoch on the Redis server's clock.
        router: The key of the router that made the change; for router events, the router that the event is about.
        epoch: The highest epoch at that time.
        by: The person, program or router that requested the change; empty if there is none.
        reason: The reason that was given with the request, or the error of the failed probe.
        record: The replica after the change, for replica events that do not carry `changes` or `questions`.
        unreadable: The canonical url of the replica if its hash is damaged and there is no record, or `*` if the event
            carries `changes` that cannot be read; otherwise empty.
        sit_out_seconds: For how long a leader that an operator deposed must not campaign; `None` for other events.
        history_id: The history that the change belongs to; empty if that is not known.
        reported: The canonical url of a replica on which a session failed, or the last one has ended; empty for other
            events.
        questions: The questions about replicas that a prober does not reach.
        changes: The replicas whose status has changed, if there are several.
        changed: These replicas after the event, as far as a mirror has them. Only events that a mirror passes to its
            listeners have them.
        slow_start_seconds: How long the replicas in `changes` ramp up; `None` if they do not.
        plan: How routers share the probing from now on; `None` for other events, and if the leader probes all replicas.
        mark: With the id, tells this event from one of another course of the history; empty if a program of an earlier
            version wrote it.
        previous_mark: The mark of the event before it; empty if that has none.
    """

    id: str
    kind: EventKind
    at: float
    previous: str
    router: str
    epoch: int
    by: str = ""
    reason: str = ""
    record: ReplicaRecord | None = None
    sit_out_seconds: float | None = None
    history_id: str = ""
    reported: str = ""
    questions: tuple[Question, ...] = ()
    plan: Plan | None = None
    mark: str = ""
    previous_mark: str = ""
    unreadable: str = ""
    changes: tuple[StatusChange, ...] = ()
    changed: tuple[ReplicaRecord, ...] = ()
    slow_start_seconds: float | None = None

    def follows(self, revision: str, mark: str) -> bool:
        """Return whether this is the next event after the one with that id and mark; an empty mark may be any."""
        return self.previous == revision and (not mark or self.previous_mark in ("", mark))

    @property
    def carried(self) -> Sequence[ReplicaRecord]:
        """The replicas after the event that come with it: `record`, or `changed`."""
        return self.changed if self.record is None else (self.record,)

    def records(self, known: Callable[[str], ReplicaRecord | None]) -> Iterator[ReplicaRecord]:
        """Return the replicas after the event.

        Args:
            known: Returns a replica before the event. An event with changes or questions does not carry the rest of the
                replica. If the known one is not the one before a change, the replica is left out.
        """
        if self.record is not None:
            yield self.record
        for change in self.changes:
            record = known(change.key)
            if record is not None and change.follows(record):
                yield self.after(change, record)
        for question in self.questions:
            record = known(question.key)
            if record is not None and record.incarnation == question.incarnation:
                yield replace(record, doubt=self._doubt(question, record.doubt), revision=self.id)

    def after(self, change: StatusChange, known: ReplicaRecord) -> ReplicaRecord:
        """Return a replica after one of the changes."""
        status = _HEALTHY if self.kind is _TURNS_HEALTHY else _UNHEALTHY
        return change.after(known, status, self.at, self.id, self.slow_start_seconds)

    def with_changed(self, records: Iterable[ReplicaRecord]) -> Event:
        """Return the event with these replicas as `changed`."""
        return _make_event.replaced(self, changed=tuple(records))

    def apart(self) -> Sequence[Event]:
        """Return an event for each of the changes, without records; the event itself if it has none."""
        if not self.changes:
            return (self,)
        return [_make_event.replaced(self, reason=one.reason, changes=(one,)) for one in self.changes]

    def _doubt(self, question: Question, before: Doubt) -> Doubt:
        return Doubt(
            suspicion=question.suspicion,
            suspected_by=self.router,
            suspected_at=self.at,
            suspected_until=question.until,
            suspected_address=question.address,
            asked=question.asked,
            refuted_prober=before.refuted_prober,
        )


_make_event = Maker(Event)
_HEALTHY, _UNHEALTHY, _TURNS_HEALTHY = ReplicaStatus.HEALTHY, ReplicaStatus.UNHEALTHY, EventKind.REPLICA_HEALTHY
"""Named once, because it takes long to read a member of an enum."""
