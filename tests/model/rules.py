"""What every command does to a namespace: the rules in plain Python, without Redis, Lua or the code under test.

One method per command, named after it, which returns the status word that the command must answer with. The keys of
the namespace are attributes; what follows from others (the ready sets, the order in which to select) is derived from
them anew each time, so that it cannot go astray here.

What a command alone can know is given to it with `command`: the range in which the server's clock lies, and the ids of
the events that appeared. A command that emits another number of events than there are ids fails.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.model.values import Anything, Fields, Number, Sum, Value, agree, exact

ORIGIN = "0-0"
EXPIRY_MS = 5_000
LEASE_MS = 60_000
SPEC = ("url", "name", "primary", "weight", "capacity", "order", "source")
OPERATOR = ("incarnation", "registered_at_ms", "admin_since_ms", "admin", "admin_reason")
PROBED = ("last_ok_at_ms", "last_failure_at_ms", "last_latency_ms", "last_error")
HEALTH = ("status", "status_since_ms", "consecutive_failures", "consecutive_successes", *PROBED)
NOT_ON_THE_FEED = {"in_flight", "revision", "spec_request", "restored_from"}


@dataclass(frozen=True)
class Spec:
    """A replica as it is asked for; `order` empty where it is to be appended."""

    url: str
    name: str = ""
    primary: bool = False
    weight: float = 1.0
    capacity: int = 0
    order: str = ""

    def fields(self, order: int, source: str) -> Fields:
        return {
            "url": self.url,
            "name": self.name,
            "primary": "1" if self.primary else "0",
            "weight": repr(self.weight),
            "capacity": str(self.capacity),
            "order": str(order),
            "source": source,
        }


@dataclass(frozen=True)
class Outcome:
    """One probe's result; `error` empty for a success."""

    url: str
    incarnation: str
    latency_ms: float = 1.0
    error: str = ""


@dataclass(frozen=True)
class KnownView:
    """What a router knew of a history up to a revision: a copy of the hashes and of which urls are removed."""

    birth: str
    revision: str
    hashes: dict[str, Fields]
    removed: frozenset[str]

    @classmethod
    def of_nothing(cls) -> KnownView:
        """Return what a router knows that has read nothing yet."""
        return cls("", ORIGIN, {}, frozenset())

    @property
    def preference(self) -> list[str]:
        return preference_of(self.hashes)


class Namespace:
    """One namespace as it must be."""

    def __init__(self) -> None:
        self.lose()
        self._now = Number(0, 0)
        self._ids: list[str] = []

    def lose(self) -> None:
        """All keys are gone."""
        self.meta: Fields = {}
        self.replicas: dict[str, int] = {}
        self.removed: dict[str, Sum] = {}
        self.hashes: dict[str, Fields] = {}
        self.expiring: set[str] = set()  # urls whose hash has a time to live
        self.leader: Fields = {}
        self.routers: dict[str, Value] = {}
        self.router: dict[str, Fields] = {}
        self.events: list[tuple[str, Fields]] = []

    @contextlib.contextmanager
    def command(self, clock: tuple[int, int], ids: Sequence[str]) -> Iterator[None]:
        """Let one command, or several, run here as they ran on the server."""
        self._clock, self._ids = clock, list(ids)
        self._tick()
        yield
        assert not self._ids, f"the server has events that no rule explains: {self._ids}"

    # --- what follows from the rest ---

    @property
    def revision(self) -> str:
        revision = self.meta.get("revision", ORIGIN)
        assert isinstance(revision, str)
        return revision

    @property
    def birth(self) -> str | None:
        birth = self.meta.get("birth")
        return birth.text if isinstance(birth, Anything) else None

    def alive(self) -> dict[str, Fields]:
        """Return the hashes of the registered replicas."""
        return {url: fields for url, fields in self.hashes.items() if fields["admin"] != "removed"}

    def incarnation(self, url: str) -> str:
        return str(self.hashes.get(url, {}).get("incarnation", ""))

    def view(self) -> KnownView:
        """Return what a router knows that has taken in all of it."""
        assert self.birth is not None
        return KnownView(self.birth, self.revision, copy_of(self.alive()), frozenset(self.removed))

    @property
    def preference(self) -> list[str]:
        return preference_of(self.alive())

    def expected(self) -> dict[str, object]:
        """Return every key, without the namespace's prefix, with its value."""
        ready: dict[str, dict[str, float]] = {"primary": {}, "secondary": {}}
        full = set()
        for url, fields in self.alive().items():
            if fields["status"] == "healthy" and fields["admin"] == "active":
                in_flight, capacity = int(str(fields["in_flight"])), int(str(fields["capacity"]))
                if 0 < capacity <= in_flight:
                    full.add(url)
                else:
                    tier = ready["primary" if fields["primary"] == "1" else "secondary"]
                    tier[url] = in_flight / float(str(fields["weight"]))
        keys: dict[str, object] = {
            "meta": self.meta,
            "replicas": {url: float(order) for url, order in self.replicas.items()},
            "removed": self.removed,
            "ready:primary": ready["primary"],
            "ready:secondary": ready["secondary"],
            "full": full,
            "leader": self.leader,
            "routers": self.routers,
            "events": [{"id": event_id, **fields} for event_id, fields in self.events],
            **{f"replica:{url}": fields for url, fields in self.hashes.items()},
            **{f"router:{key}": fields for key, fields in self.router.items()},
        }
        return {key: value for key, value in keys.items() if value}

    def expected_to_expire(self) -> set[str]:
        """Return the keys that must have a time to live, which no others may have."""
        return {f"replica:{url}" for url in self.expiring} | ({"leader"} if self.leader else set())

    # --- replicas ---

    def register_replica(self, *, mode: str, request: str, router: str, by: str, key: str, spec: Spec) -> str:
        self._tick()
        stored = self.hashes.get(key, {})
        if request in (stored.get("incarnation"), stored.get("spec_request")):
            return "unchanged"
        is_new = stored.get("admin", "removed") == "removed"
        if mode == "seed" and stored and is_new:
            return "tombstone"
        if mode == "seed" and not is_new and stored["source"] == "explicit":
            return "overridden"
        order = self._position(key, spec)
        fields = spec.fields(order, mode)
        if not is_new and all(stored.get(name) == value for name, value in fields.items()):
            return "unchanged"
        self._begin_history()
        self._place(key, order)
        replica = self.hashes.setdefault(key, {})
        replica |= {**fields, "spec_request": request}
        if mode == "explicit":
            replica.pop("restored_from", None)
        elif is_new:
            replica["restored_from"] = ORIGIN
        if is_new:
            self.expiring.discard(key)
            self.removed.pop(key, None)
            for name in PROBED:
                replica.pop(name, None)
            replica |= {
                "incarnation": request,
                "registered_at_ms": self._time(),
                "status": "unknown",
                "status_since_ms": self._time(),
                "consecutive_failures": "0",
                "consecutive_successes": "0",
                "admin": "active",
                "admin_since_ms": self._time(),
                "admin_reason": "",
            }
            replica.setdefault("in_flight", "0")
        self._emit_replica(key, "replica_registered" if is_new else "replica_updated", router=router, by=by)
        return "created" if is_new else "updated"

    def deregister_replica(self, *, key: str, incarnation: str, router: str, by: str, reason: str) -> str:
        self._tick()
        stored = self.hashes.get(key, {})
        if stored.get("incarnation") != incarnation or stored.get("admin") == "removed":
            return "not_found"
        self._bury(key, reason)
        self._emit_replica(key, "replica_deregistered", router=router, by=by, reason=reason)
        return "removed"

    def set_admin(self, *, key: str, state: str, router: str, by: str, reason: str) -> str:
        self._tick()
        stored = self.alive().get(key)
        if stored is None:
            return "not_found"
        if (stored["admin"], stored["admin_reason"]) == (state, reason):
            return "unchanged"
        if stored["admin"] != state:
            stored["admin_since_ms"] = self._time()
        stored |= {"admin": state, "admin_reason": reason}
        stored.pop("restored_from", None)
        self._emit_replica(key, "replica_admin", router=router, by=by, reason=reason)
        return "set"

    def _position(self, key: str, spec: Spec) -> int:
        if spec.order:
            return int(spec.order)
        if key in self.replicas:
            return self.replicas[key]
        return max(exact(self.meta.get("next_order", "0")), *(order + 1 for order in self.replicas.values()), 0)

    def _place(self, key: str, order: int) -> None:
        self.replicas[key] = order
        self.meta["next_order"] = str(max(exact(self.meta.get("next_order", "0")), order + 1))

    def _bury(self, key: str, reason: str) -> None:
        self.replicas.pop(key, None)
        replica = self.hashes[key]
        replica.pop("restored_from", None)
        replica |= {"admin": "removed", "admin_since_ms": self._time(), "admin_reason": reason}
        self.removed[key] = self._time()
        if replica["in_flight"] == "0":
            self.expiring.add(key)

    # --- probes ---

    def report_probes(
        self, *, token: str, epoch: int, batch: int, thresholds: tuple[int, int], results: Sequence[Outcome]
    ) -> str:
        self._tick()
        if self.leader.get("token") != token or not agree(self.leader["epoch"], str(epoch)):
            return "fenced"
        if batch <= exact(self.leader["batch"]):
            return "duplicate"
        self.leader["batch"] = str(batch)
        for result in results:
            self._apply(result, thresholds, router=self.leader["router"], by="")
        return "applied"

    def record_outcome(self, *, result: Outcome, thresholds: tuple[int, int], router: str, by: str) -> str:
        self._tick()
        return "applied" if self._apply(result, thresholds, router=router, by=by) else "not_found"

    def _apply(self, result: Outcome, thresholds: tuple[int, int], *, router: Value, by: str) -> bool:
        replica = self.alive().get(result.url)
        if replica is None or replica["incarnation"] != result.incarnation:
            return False
        failure_threshold, recovery_threshold = thresholds
        failures, successes = exact(replica["consecutive_failures"]), exact(replica["consecutive_successes"])
        status = before = replica["status"]
        if result.error:
            failures, successes = failures + 1, 0
            if failures >= failure_threshold:
                status = "unhealthy"
            replica |= {"last_failure_at_ms": self._time(), "last_error": result.error}
        else:
            failures, successes = 0, successes + 1
            if before == "unknown" or (before == "unhealthy" and successes >= recovery_threshold):
                status, successes = "healthy", 0
            replica |= {"last_ok_at_ms": self._time(), "last_latency_ms": f"{result.latency_ms:.3f}"}
        replica |= {"consecutive_failures": str(failures), "consecutive_successes": str(successes)}
        if status != before:
            replica |= {"status": status, "status_since_ms": self._time()}
            self._emit_replica(result.url, f"replica_{status}", router=router, by=by, reason=result.error)
        return True

    # --- election ---

    def campaign(self, *, router: str, token: str, seen_epoch: int) -> str:
        self._tick()
        if self.leader.get("token") == token:
            return "elected"
        if self.leader:
            return "held"
        self._begin_history()
        floor = max(exact(self.meta.get("epoch", "0")), seen_epoch) + 1
        epoch = Sum(Number(max(floor, self._now.low), max(floor, self._now.high)))
        self.meta["epoch"] = epoch
        self.leader = {
            "router": router,
            "token": token,
            "epoch": epoch,
            "elected_at_ms": self._time(),
            "batch": "0",
        }
        self._emit("leader_elected", router=router)
        return "elected"

    def renew(self, *, token: str) -> str:
        return "renewed" if self.leader.get("token") == token else "lost"

    def resign(self, *, token: str) -> str:
        self._tick()
        if self.leader.get("token") != token:
            return "lost"
        router = self.leader["router"]
        self.leader = {}
        self._emit("leader_resigned", router=router)
        return "resigned"

    def step_down(self, *, epoch: int, sit_out_ms: str, by: str, reason: str) -> str:
        self._tick()
        if not self.leader or exact(self.leader["epoch"]) != epoch:
            return "over"
        router = self.leader["router"]
        self.leader = {}
        self._emit("leader_resigned", router=router, by=by, reason=reason, sit_out_ms=sit_out_ms)
        return "deposed"

    # --- routers ---

    def heartbeat(self, *, key: str, presented: Fields) -> str:
        self._tick()
        self._begin_history()
        now, soon = self._now, self._time(EXPIRY_MS)
        beat, reap_after = self.meta.get("beat_at_ms"), self.meta.get("reap_after_ms", "0")
        is_late = beat is None or exact(beat) > now.high or now.low - exact(beat) > EXPIRY_MS / 2
        if is_late or exact(reap_after) > soon.high:
            reap_after = soon
        self.meta |= {"beat_at_ms": self._time(), "reap_after_ms": reap_after}
        for router, expires_at in self.routers.items():
            if exact(expires_at) > soon.high:
                self.routers[router] = soon
        joined = key not in self.routers
        self.routers[key] = soon
        self.router[key] = {**presented, "expiry_ms": str(EXPIRY_MS)}
        if joined:
            self._emit("router_joined", router=key)
        return "alive"

    def expired(self) -> set[str]:
        """Return the routers that the last heartbeat must have named."""
        if exact(self.meta["reap_after_ms"]) > self._now.low:
            return set()
        return {router for router, expires_at in self.routers.items() if exact(expires_at) <= self._now.low}

    def reap_router(self, *, key: str, by: str) -> str:
        self._tick()
        if key not in self.routers:
            return "not_found"
        if "reap_after_ms" not in self.meta or exact(self.meta["reap_after_ms"]) > self._now.low:
            return "alive"
        if exact(self.routers[key]) > self._now.low:
            return "alive"
        self._part(key)
        self._emit("router_expired", router=key, by=by)
        return "reaped"

    def leave_cluster(self, *, key: str) -> str:
        self._tick()
        if key not in self.routers:
            return "not_found"
        self._part(key)
        self._emit("router_left", router=key)
        return "left"

    def _part(self, key: str) -> None:
        del self.routers[key]
        self.router.pop(key, None)

    # --- after a loss of history ---

    def contribute(self, view: KnownView, *, router: str, at_once: int) -> None:
        """All calls by which a router puts its view back."""
        replicas = sorted(view.hashes, key=lambda url: place_of(view.hashes, url))
        entries = [("replica", url) for url in replicas] + [("removed", url) for url in sorted(view.removed)]
        for at in range(0, len(entries), at_once):
            if self.restore_view(view, entries[at : at + at_once], router=router) == "superseded":
                return
        if self.restore_view(view, [], router=router, is_complete=True) == "superseded":
            return
        unknown = [("absent", url) for url in self._listed() if url not in view.hashes]
        for at in range(0, len(unknown), at_once):
            self.restore_view(view, unknown[at : at + at_once], router=router)

    def restore_view(
        self, view: KnownView, entries: Sequence[tuple[str, str]], *, router: str, is_complete: bool = False
    ) -> str:
        self._tick()
        newest = self.meta.get(f"restored:{view.birth}")
        if newest and is_later(str(newest), view.revision):
            return "superseded"
        self._begin_history()
        for kind, url in entries:
            if not self._may_restore(view, kind, url):
                continue
            if kind == "replica":
                self._put_back(url, view.hashes[url])
            else:
                self.hashes.setdefault(url, blank(url))
                self._bury(url, "removed in an earlier history")
            self.hashes[url]["restored_from"] = f"{view.revision} {view.birth}"
            self._emit_replica(url, "view_restored", router=router, by=view.birth, reason=view.revision)
        if is_complete:
            self.meta[f"restored:{view.birth}"] = view.revision
        return "restored"

    def _may_restore(self, view: KnownView, kind: str, url: str) -> bool:
        if url not in self.hashes:
            return kind != "absent"
        stored = self.hashes[url]
        revision, _, birth = str(stored.get("restored_from", "")).partition(" ")
        if not revision or not is_later(view.revision, revision):
            return False
        return kind != "absent" or (birth == view.birth and stored["admin"] != "removed")

    def _put_back(self, url: str, known: Fields) -> None:
        replica = self.hashes.setdefault(url, {})
        is_older = max(probed_at(known), exact(known["registered_at_ms"]))
        keeps_health = bool(replica) and probed_at(replica) > is_older
        for name in (*SPEC, *OPERATOR, *(() if keeps_health else HEALTH)):
            if known.get(name, "") == "" and name in HEALTH:
                replica.pop(name, None)
            else:
                replica[name] = known[name]
        replica.setdefault("in_flight", "0")
        self.expiring.discard(url)
        self.removed.pop(url, None)
        self._place(url, exact(known["order"]))

    def _listed(self) -> list[str]:
        return sorted(self.replicas, key=lambda url: (self.replicas[url], url))

    # --- time, history and feed ---

    def _tick(self) -> None:
        self._now = Number(*self._clock)

    def _time(self, plus: int = 0) -> Sum:
        return Sum(self._now, plus)

    def _begin_history(self) -> None:
        if "birth" not in self.meta:
            self.meta |= {"birth": Anything(), "schema": "1"}
            self.events = []

    def _emit(self, kind: str, **fields: Value) -> None:
        assert self._ids, f"the server lacks an event: {kind} {fields}"
        entry: Fields = {
            "kind": kind,
            "at_ms": self._time(),
            "prev": self.revision,
            "epoch": self.meta.get("epoch", "0"),
            **fields,
        }
        event_id = self._ids.pop(0)
        assert is_later(event_id, self.revision)
        self.events.append((event_id, entry))
        self.meta["revision"] = event_id

    def _emit_replica(self, url: str, kind: str, *, router: Value, by: str, reason: str = "") -> None:
        carried = {name: value for name, value in self.hashes[url].items() if name not in NOT_ON_THE_FEED}
        self._emit(kind, router=router, by=by, reason=reason, replica=url, **carried)
        self.hashes[url]["revision"] = self.meta["revision"]


def blank(url: str) -> Fields:
    """Return the hash of a replica of which nothing is known but that it was removed."""
    return {
        **Spec(url).fields(0, "explicit"),
        "incarnation": "",
        "status": "unknown",
        "consecutive_failures": "0",
        "consecutive_successes": "0",
        "in_flight": "0",
    }


def preference_of(hashes: dict[str, Fields]) -> list[str]:
    """Return the urls that may be selected, best first: healthy and active, primaries before the others, in order."""

    def tier(url: str) -> int:
        return 0 if hashes[url]["primary"] == "1" else 1

    selectable = [url for url, fields in hashes.items() if (fields["status"], fields["admin"]) == ("healthy", "active")]
    return sorted(selectable, key=lambda url: (tier(url), *place_of(hashes, url)))


def place_of(hashes: dict[str, Fields], url: str) -> tuple[int, str]:
    return exact(hashes[url]["order"]), url


def probed_at(fields: Fields) -> int:
    return max(exact(fields.get("last_ok_at_ms", "0")), exact(fields.get("last_failure_at_ms", "0")))


def is_later(revision: str, other: str) -> bool:
    def parts(text: str) -> tuple[int, int]:
        milliseconds, sequence = text.split("-")
        return int(milliseconds), int(sequence)

    return parts(revision) > parts(other)


def copy_of(hashes: dict[str, Fields]) -> dict[str, Fields]:
    """Return a copy that keeps the numbers shared, so that settling one settles both."""
    return {url: copy.copy(fields) for url, fields in hashes.items()}
