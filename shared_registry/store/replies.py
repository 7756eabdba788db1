"""The results of the store's verbs. Pure data. Replicas, events and leaders are those of `model`."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shared_registry.model import Event, Leader, Plan, ProberInfo


@dataclass(frozen=True, slots=True)
class Elected:
    """This candidate is the leader, in that epoch."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Held:
    """Another router is the leader. Its lease ends after that time unless the router renews it."""

    leader: Leader
    remaining_seconds: float


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a batch of probe results.

    Attributes:
        events: The events of the status changes.
        done: How many results of the batch were applied or dropped. The others are not, because too many replicas
            changed their status at once.
        dropped: The number of results that were dropped because the replica was removed, or removed and registered
            again, meanwhile.
        is_duplicate: The batch had been applied before. The event stream carries its events.
    """

    events: Sequence[Event] = ()
    done: int = 0
    dropped: int = 0
    is_duplicate: bool = False


@dataclass(frozen=True, slots=True)
class Participants:
    """The routers that can share the probing.

    Attributes:
        routers: Their keys, sorted.
        plan: The present plan; `None` if there is none.
        next_expiry_seconds: In how many seconds the first of them expires unless it sends a heartbeat; `None` if nobody
            expires now.
    """

    routers: Sequence[str]
    plan: Plan | None
    next_expiry_seconds: float | None = None


class Resignation(enum.Enum):
    """The result of a leader's resignation: done, not the leader any more, or needed as long as no other can lead."""

    RESIGNED = "resigned"
    LOST = "lost"
    NEEDED = "needed"


@dataclass(frozen=True, slots=True)
class Opinions:
    """The result of what a router knows about replicas.

    Attributes:
        events: The events of the changes.
        done: How many of the words were handled. The others are not, because too many replicas changed at once.
        stale: How many changed nothing: the question was answered, or the replica is another incarnation by now.
    """

    events: Sequence[Event] = ()
    done: int = 0
    stale: int = 0


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The reply to a heartbeat.

    Attributes:
        history_id: The history of the namespace.
        revision: The id of the last event.
        joined: The router was not registered before.
        expired: The keys of routers that may be reaped.
        leases: The number of leases that Redis has for the router.
        probers_version: Changes with the list of routers that can probe.
        probers: These routers; `None` if the router knew this version already.
        is_partial: Sessions may be waiting beside room, or more ejections may be over. Another heartbeat at once goes
            on.
        settling: After a loss, the word to say by a heartbeat once this router has nothing left to bring back; empty if
            nobody waits for that.
        next_expiry_seconds: In how many seconds the next announced replica expires unless its instance sends a
            heartbeat; `None` if none is announced.
        leader_lease_seconds: How much time the lease of the leader has left; `None` if there is no leader.
        mark: The mark of the last event; empty if that has none.
    """

    history_id: str
    revision: str
    joined: bool
    expired: Sequence[str]
    leases: int = 0
    probers_version: str = ""
    probers: Sequence[ProberInfo] | None = None
    is_partial: bool = False
    settling: str = ""
    next_expiry_seconds: float | None = None
    leader_lease_seconds: float | None = None
    mark: str = ""


class Departure(enum.Enum):
    """The progress of a router's removal: done, to be called again, or refused."""

    DONE = "done"
    PARTIAL = "partial"
    REFUSED = "refused"


class Denial(enum.Enum):
    """The reason why a session gets no slot and does not wait for one."""

    SATURATED = "saturated"
    NO_HEALTHY = "no_healthy"
    EXCLUDED = "excluded"
    NOT_REGISTERED = "not_registered"
    SETTLING = "settling"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Denied:
    """A session gets no slot and does not wait.

    Attributes:
        reason: The reason. `EXCLUDED` means that the session may wait, but all replicas with a free slot are excluded;
            `SETTLING` that sessions which run are being put back after a loss; `ENDED` that the lease has moved to
            another router and ended there.
        depth: The number of waiting sessions.
    """

    reason: Denial
    depth: int = 0


@dataclass(frozen=True, slots=True)
class Queued:
    """A session waits in the queue.

    Attributes:
        sequence: The session's sequence, which orders the queue. With it, the session gets its position back if the
            server has lost the queue.
        position: The session's position in the queue, counted from 1, over all routers.
        depth: The number of waiting sessions.
    """

    sequence: str
    position: int
    depth: int


@dataclass(frozen=True, slots=True)
class Restored:
    """The result of restoring leases.

    Attributes:
        count: The number of leases that Redis did not have, or had on another replica.
        over_capacity: Canonical urls of replicas that now have more sessions than their capacity.
        not_there: Canonical urls of replicas that Redis does not have. Leases on these were not restored.
        moved: Ids of leases that were not restored, because they have moved to another router.
    """

    count: int
    over_capacity: Sequence[str]
    not_there: Sequence[str]
    moved: Sequence[str] = ()


class UpgradeOutcome(enum.Enum):
    """What an upgrade has done."""

    UPGRADED = "upgraded"
    POSSIBLE = "possible"
    CURRENT = "current"
    EARLY = "early"
    OLDER = "older"


@dataclass(frozen=True, slots=True)
class Upgrade:
    """The result of an upgrade of the namespace.

    Attributes:
        outcome: `POSSIBLE` means that a dry run found nothing in the way, `EARLY` that a router of an older version
            lived too lately, `OLDER` that one lives.
        before: The schema before.
        now: The schema afterwards, or that it would have.
        older: The keys of the routers that know no such schema.
    """

    outcome: UpgradeOutcome
    before: str
    now: str
    older: Sequence[str] = ()


@dataclass(slots=True)
class Grant:
    """A slot that a session got. It is not frozen, because that would triple what making it costs each session.

    Attributes:
        key: The replica's canonical url.
        revision: The id of the last event about the replica before the slot was taken.
        is_spare: Whether the replica is not healthy: there is a panic, and no healthy replica had a free slot.
        sequence: The sequence in the queue with which the session would have waited instead; empty if it would not have
            waited, or knows its sequence already.
        has_returned: Whether the session was or is on the replica before. It is not known of a session that has waited.
    """

    key: str
    revision: str
    is_spare: bool = False
    sequence: str = ""
    has_returned: bool = False


@dataclass(frozen=True, slots=True)
class Affinity:
    """What Redis has of a session's affinity.

    Attributes:
        url: Canonical url of the replica to which the session returns; empty if there is none.
        has_end: Whether that has a time to live.
        several: The number of leases on each replica as it is noted for a session with several leases, as text.
    """

    url: str
    has_end: bool
    several: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class WrongAffinity:
    """A session whose affinity does not agree with its leases.

    Attributes:
        session: Digest of the session's name.
        affinity: What Redis has of it.
        leases: The number of its leases on each replica, by canonical url.
    """

    session: str
    affinity: Affinity
    leases: Mapping[str, int]


class AnnouncedAs(enum.Enum):
    """The result of an announcement. The last four are refusals.

    `TAKEN`: another instance holds the url and is alive. `CLAIMED`: the replica did not come by announcement.
    `REMOVED`: an operator removed this instance. `WITHDRAWN`: this instance has withdrawn it.
    """

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    TAKEN = "taken"
    CLAIMED = "claimed"
    REMOVED = "removed"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True)
class Announced:
    """The reply to an announcement.

    Attributes:
        result: What became of it.
        events: The event, if anything changed.
        holder: The owner of the instance that holds the url, if another does.
        source: The source of the registered replica, if it did not come by announcement.
    """

    result: AnnouncedAs
    events: Sequence[Event] = ()
    holder: str = ""
    source: str = ""

    @property
    def is_accepted(self) -> bool:
        """Whether the instance holds the replica now."""
        return self.result in (AnnouncedAs.CREATED, AnnouncedAs.UPDATED, AnnouncedAs.UNCHANGED)


class BeatWord(enum.Enum):
    """What a heartbeat of an instance met.

    `HELD` and `DRAINING`: it counts; the latter if the instance has withdrawn the replica and sessions are left.
    `UNKNOWN`: the replica is not there or has expired, and is to be announced again. `TAKEN`: another instance holds
    the url. `CLAIMED`: the url was registered otherwise. `REMOVED`: an operator removed this instance.
    `WITHDRAWN`: this instance withdrew the replica, and it is removed.
    """

    HELD = "held"
    DRAINING = "draining"
    UNKNOWN = "unknown"
    TAKEN = "taken"
    CLAIMED = "claimed"
    REMOVED = "removed"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True)
class Beat:
    """The reply to the heartbeat of an instance.

    Attributes:
        word: What the heartbeat met.
        in_flight: The number of sessions on the replica, if the heartbeat counts.
        holder: The owner of the instance that holds the url, if another does.
        source: The source of the registered replica, if it did not come by announcement.
    """

    word: BeatWord
    in_flight: int = 0
    holder: str = ""
    source: str = ""


class Withdrawn(enum.Enum):
    """The result of a withdrawal: removed, draining, not registered as announced, or held by another instance."""

    REMOVED = "removed"
    DRAINING = "draining"
    NOT_FOUND = "not_found"
    TAKEN = "taken"


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """The reply to a withdrawal.

    Attributes:
        result: What became of it.
        events: The event, if anything changed.
        holder: The owner of the instance that holds the url, if another does.
    """

    result: Withdrawn
    events: Sequence[Event] = ()
    holder: str = ""
