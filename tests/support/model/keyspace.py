"""The keys of a namespace as they must be, what follows from them, and the event stream that every rule writes to.

The keys are attributes; what follows from others (the ready sets, the order in which to select) is derived from them
anew each time, so that it cannot go astray here.

What a command alone can know is given to it with `command`: the range in which the server's clock lies, the events that
appeared, and what is there now where a rule leaves a choice. A command that emits another number of events than there
are fails.
"""

from __future__ import annotations

import contextlib
import copy
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.support.model.values import Anything, AnyTime, Fields, Number, Sum, Value, exact, session_of

ORIGIN = "0-0"
OPTIONAL = ("health_check_path", "health_check_port")
SPEC = ("url", "name", "primary", "weight", "capacity", "order", "labels", *OPTIONAL, "source")
AUTHOR = ("admin_by", "admin_by_at_ms")
OPERATOR = ("incarnation", "registered_at_ms", "admin_since_ms", "admin", "admin_reason", *AUTHOR)
PROBED = ("last_ok_at_ms", "last_failure_at_ms", "last_latency_ms", "last_error")
HEALTH = ("status", "status_since_ms", "consecutive_failures", "consecutive_successes", *PROBED)
NOT_IN_EVENTS = {
    "in_flight",
    "revision",
    "spec_request",
    "failing_witness",
    "prober_report",
    "reported_at_ms",
    "removed_by",
}


@dataclass(frozen=True)
class Spec:
    """A replica as it is asked for; `order` empty where it is to be appended."""

    url: str
    name: str = ""
    primary: bool = False
    weight: float = 1.0
    capacity: int = 0
    order: str = ""
    labels: str = ""
    health_check_path: str = ""
    health_check_port: str = ""

    def fields(self, order: int, source: str) -> Fields:
        optional: Fields = {"health_check_path": self.health_check_path, "health_check_port": self.health_check_port}
        return {
            "url": self.url,
            "name": self.name,
            "primary": "1" if self.primary else "0",
            "weight": repr(self.weight),
            "capacity": str(self.capacity),
            "order": str(order),
            "labels": self.labels,
            "source": source,
            **{name: text for name, text in optional.items() if text},
        }


@dataclass(frozen=True)
class KnownView:
    """What a router knew of a history up to a revision: a copy of the hashes, and which urls are removed.

    Attributes:
        removed: Url to its `restored_from`, empty for none.
    """

    history_id: str
    revision: str
    hashes: dict[str, Fields]
    removed: dict[str, str]

    @classmethod
    def of_nothing(cls) -> KnownView:
        """Return what a router knows that has read nothing yet."""
        return cls("", ORIGIN, {}, {})

    @property
    def preference(self) -> list[str]:
        return preference_of(self.hashes)

    def known_as_of(self, url: str) -> tuple[str, str]:
        """Return as of which revision, and of which history, it knows of a replica or of its removal."""
        text = self.hashes[url].get("restored_from", "") if url in self.hashes else self.removed.get(url, "")
        revision, history_id, *_ = [*str(text).split(), self.history_id] if text else [self.revision, self.history_id]
        return revision, history_id


@dataclass(frozen=True)
class Ready:
    """Who may take a session now, with its load, and who could but for its capacity; and who may in a panic.

    No hour passes here.
    """

    primary: dict[str, float]
    secondary: dict[str, float]
    full: set[str]
    spare_primary: dict[str, float]
    spare_secondary: dict[str, float]
    answered: dict[str, Value]


def score_of(fields: Fields, in_flight: int) -> float:
    """Return what orders a ready replica. Ramps are so long here that no time has passed in them."""
    weight = float(str(fields["weight"]))
    if "slow_start_ms" in fields and "status_since_ms" in fields:
        return (in_flight + 1) / (weight * 0.1) - 1 / weight
    return in_flight / weight


class Keyspace:
    """The keys of one namespace."""

    def __init__(self) -> None:
        self.lose()
        self._now = Number(0, 0)
        self._appeared: list[Mapping[str, str]] = []
        self._found: Mapping[str, object] = {}

    def lose(self) -> None:
        """All keys are gone."""
        self.meta: Fields = {}
        self.replicas: dict[str, int] = {}
        self.removed: dict[str, Sum] = {}
        self.names: dict[str, str] = {}
        self.hashes: dict[str, Fields] = {}
        self.leader: Fields = {}
        self.routers: dict[str, Value] = {}
        self.router: dict[str, Fields] = {}
        self.leases: dict[str, dict[str, str]] = {}  # of each router, by id
        self.moved: set[str] = set()  # router/lease id of leases that have left that router
        self.affinity: dict[str, str] = {}
        self.fading: set[str] = set()  # sessions whose affinity has a time to live
        self.queue: dict[str, Sum] = {}  # router/lease id to sequence
        self.inboxes: dict[str, list[Fields]] = {}
        self.places: dict[str, Sum] = {}  # of sessions whose router died, with a time to live
        self.events: list[tuple[str, Fields]] = []

    @contextlib.contextmanager
    def command(
        self, clock: tuple[int, int], appeared: Sequence[Mapping[str, str]], found: Mapping[str, object]
    ) -> Iterator[None]:
        """Let one command, or several, run here as they ran on the server.

        Args:
            clock: The range in which the server's clock was.
            appeared: The events that are there since, with their ids.
            found: Every key that is there now.
        """
        self._clock, self._appeared, self._found = clock, list(appeared), found
        self._tick()
        yield
        assert not self._appeared, f"the server has events that no rule explains: {self._appeared}"

    # --- what follows from the rest ---

    @property
    def revision(self) -> str:
        revision = self.meta.get("revision", ORIGIN)
        assert isinstance(revision, str)
        return revision

    @property
    def _mark(self) -> str:
        """The mark of the last event; empty if a repair made another event the last one."""
        marked, _, mark = str(self.meta.get("mark", "")).partition(" ")
        return mark if marked == self.revision else ""

    @property
    def history_id(self) -> str | None:
        history_id = self.meta.get("history_id")
        return history_id.text if isinstance(history_id, Anything) else None

    def alive(self) -> dict[str, Fields]:
        """Return the hashes of the registered replicas."""
        return {url: fields for url, fields in self.hashes.items() if fields["admin"] != "removed"}

    def incarnation(self, url: str) -> str:
        return str(self.hashes.get(url, {}).get("incarnation", ""))

    def view(self) -> KnownView:
        """Return what a router knows that has taken in all of it."""
        assert self.history_id is not None
        removed = {url: str(self.hashes.get(url, {}).get("restored_from", "")) for url in self.removed}
        return KnownView(self.history_id, self.revision, copy_of(self.alive()), removed)

    @property
    def preference(self) -> list[str]:
        return preference_of(self.alive())

    def in_flight(self, url: str) -> int:
        """Return how many sessions are counted on a replica, removed or not."""
        return int(str(self.hashes[url]["in_flight"]))

    def ready(self) -> Ready:
        ready = Ready({}, {}, set(), {}, {}, {})
        for url, fields in self.alive().items():
            in_flight, capacity = self.in_flight(url), int(str(fields["capacity"]))
            if fields["status"] == "healthy" and fields["admin"] == "active":
                if 0 < capacity <= in_flight:
                    ready.full.add(url)
                else:
                    tier = ready.primary if fields["primary"] == "1" else ready.secondary
                    tier[url] = score_of(fields, in_flight)
            elif fields["admin"] == "active" and "last_ok_at_ms" in fields:
                ready.answered[url] = fields["last_ok_at_ms"]
                if not 0 < capacity <= in_flight:
                    spares = ready.spare_primary if fields["primary"] == "1" else ready.spare_secondary
                    spares[url] = in_flight / float(str(fields["weight"]))
        return ready

    def expected(self) -> dict[str, object]:
        """Return every key, without the namespace's prefix, with its value."""
        ready = self.ready()
        keys: dict[str, object] = {
            "meta": self.meta,
            "replicas": {url: float(order) for url, order in self.replicas.items()},
            "removed": self.removed,
            "names": self.names,
            "ready:primary": ready.primary,
            "ready:secondary": ready.secondary,
            "full": ready.full,
            "spare:primary": ready.spare_primary,
            "spare:secondary": ready.spare_secondary,
            "spare:answered": ready.answered,
            "leader": self.leader,
            "routers": self.routers,
            "moved": dict.fromkeys(self.moved, AnyTime()),
            "queue": self.queue,
            "events": [{"id": event_id, **fields} for event_id, fields in self.events],
            **{f"replica:{url}": fields for url, fields in self.hashes.items()},
            **{f"router:{key}": fields for key, fields in self.router.items()},
            **{f"leases:{key}": leases for key, leases in self.leases.items()},
            **{f"affinity:{session}": url for session, url in self.affinity.items()},
            **{f"several:{session}": counts for session, counts in self._several().items()},
            **{f"inbox:{key}": entries for key, entries in self.inboxes.items()},
            **{f"sequence:{session}": sequence for session, sequence in self.places.items()},
        }
        return {key: value for key, value in keys.items() if value}

    def urls_of(self, session: str) -> Counter[str]:
        """Return on which replicas a session runs, and with how many leases."""
        return Counter(
            url
            for leases in self.leases.values()
            for lease_id, url in leases.items()
            if session_of(lease_id) == session
        )

    def _several(self) -> dict[str, dict[str, str]]:
        """Return the number of leases on each replica, of the sessions that have several leases."""
        counts = {session: self.urls_of(session) for session in self.affinity}
        return {
            session: {url: str(count) for url, count in urls.items()}
            for session, urls in counts.items()
            if urls.total() > 1
        }

    def expected_to_expire(self) -> set[str]:
        """Return the keys that must have a time to live, which no others may have."""
        return {
            *(f"affinity:{session}" for session in self.fading),
            *(f"sequence:{session}" for session in self.places),
            *(["leader"] if self.leader else []),
            *(["moved"] if self.moved else []),
        }

    # --- what several commands do ---

    def _set_order(self, key: str, order: int) -> None:
        self.replicas[key] = order
        self.meta["next_order"] = str(max(exact(self.meta.get("next_order", "0")), order + 1))

    def _put_tombstone(self, key: str, reason: Value) -> None:
        self.replicas.pop(key, None)
        replica = self.hashes[key]
        replica.pop("restored_from", None)
        for name in ("removes_when_drained", *AUTHOR):
            replica.pop(name, None)
        replica |= {"admin": "removed", "admin_since_ms": self._time(), "admin_reason": reason}
        self.removed[key] = self._time()

    # --- time, history and event stream ---

    def _tick(self) -> None:
        self._now = Number(*self._clock)

    def _time(self, plus: int = 0) -> Sum:
        return Sum(self._now, plus)

    def _begin_history(self) -> None:
        if "history_id" not in self.meta:
            self.meta |= {"history_id": Anything(), "schema": "2"}
            self.events = []

    def _emit(self, kind: str, **fields: Value) -> None:
        assert self._appeared, f"the server lacks an event: {kind} {fields}"
        entry: Fields = {
            "kind": kind,
            "at_ms": self._time(),
            "prev": self.revision,
            "epoch": self.meta.get("epoch", "0"),
            "history_id": self.meta.get("history_id", ""),
            "prev_mark": self._mark,
            **fields,
        }
        appeared = self._appeared.pop(0)
        event_id = appeared["id"]
        entry["mark"] = appeared["mark"]
        assert is_later(event_id, self.revision)
        self.events.append((event_id, entry))
        self.meta |= {"revision": event_id, "mark": f"{event_id} {entry['mark']}"}

    def _emit_replica(self, url: str, kind: str, *, router: Value, by: str, reason: Value = "") -> None:
        carried = {name: value for name, value in self.hashes[url].items() if name not in NOT_IN_EVENTS}
        self._emit(kind, router=router, by=by, reason=reason, replica=url, **carried)
        self.hashes[url]["revision"] = self.meta["revision"]

    def _as_they_appeared(self, urls: Iterable[str]) -> list[str]:
        """Return replicas in the order of their events, where a rule leaves the order open."""
        place = {
            event.get("replica", event.get("reported")): at for at, event in reversed(list(enumerate(self._appeared)))
        }
        return sorted(urls, key=lambda url: place.get(url, 0))


def preference_of(hashes: dict[str, Fields]) -> list[str]:
    """Return the urls that may be selected, best first: healthy and active, primaries before the others, in order."""

    def tier(url: str) -> int:
        return 0 if hashes[url]["primary"] == "1" else 1

    selectable = [url for url, fields in hashes.items() if (fields["status"], fields["admin"]) == ("healthy", "active")]
    return sorted(selectable, key=lambda url: (tier(url), *order_of(hashes, url)))


def order_of(hashes: dict[str, Fields], url: str) -> tuple[int, str]:
    return exact(hashes[url]["order"]), url


def is_later(revision: str, other: str) -> bool:
    def parts(text: str) -> tuple[int, int]:
        milliseconds, sequence = text.split("-")
        return int(milliseconds), int(sequence)

    return parts(revision) > parts(other)


def copy_of(hashes: dict[str, Fields]) -> dict[str, Fields]:
    """Return a copy that keeps the numbers shared, so that settling one settles both."""
    return {url: copy.copy(fields) for url, fields in hashes.items()}
