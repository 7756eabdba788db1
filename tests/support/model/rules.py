"""What every command does to a namespace: the rules in plain Python, without Redis, Lua or the code under test.

One method per command, named after it, which returns the status word that the command must answer with. See `Keyspace`
for what they work on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tests.support.health_rule import Counted
from tests.support.model.keyspace import (
    AUTHOR,
    HEALTH,
    OPERATOR,
    OPTIONAL,
    ORIGIN,
    PROBED,
    SPEC,
    KnownView,
    Spec,
    is_later,
    order_of,
)
from tests.support.model.lease_rules import LeaseRules
from tests.support.model.queue_rules import router_of
from tests.support.model.values import Fields, Number, Sum, Value, agree, exact

EXPIRY_MS = 60_000
"""So long that no router expires by itself while an example runs."""
LEASE_MS = 60_000


@dataclass(frozen=True)
class Outcome:
    """One probe's result, or what a router saw itself; `error` empty for a success."""

    url: str
    incarnation: str
    latency_ms: float = 1.0
    error: str = ""


class Change(NamedTuple):
    """A change of status that no event tells of yet."""

    url: str
    kind: str
    router: Value
    by: str
    ramp: Value
    reason: str
    line: str


class Namespace(LeaseRules):
    """One namespace as it must be.

    Attributes:
        repaired: How many things were wrong, as the last repair must have said.
    """

    repaired = 0
    _untold: tuple[Change, ...] = ()

    # --- replicas ---

    def register_replica(self, *, mode: str, request: str, router: str, by: str, key: str, spec: Spec) -> str:
        word = self._register(mode=mode, request=request, router=router, by=by, key=key, spec=spec)
        if word in ("created", "updated"):
            self._serve()
        return word

    def register_replicas(self, *, mode: str, router: str, by: str, replicas: Sequence[tuple[str, str, Spec]]) -> str:
        """Register several, each given by its request, its canonical url and its spec."""
        words = [
            self._register(mode=mode, request=request, router=router, by=by, key=key, spec=spec)
            for request, key, spec in replicas
        ]
        if {"created", "updated"} & {*words}:
            self._serve()
        return "registered"

    def _register(self, *, mode: str, request: str, router: str, by: str, key: str, spec: Spec) -> str:
        self._tick()
        stored = self.hashes.get(key, {})
        is_new = stored.get("admin", "removed") == "removed"
        if refusal := self._refusal_to_register(stored, mode=mode, request=request, key=key, name=spec.name):
            return refusal
        order = self._position(key, spec)
        fields = spec.fields(order, mode)
        absent = [name for name in OPTIONAL if name not in fields]
        if not is_new and all(stored.get(name) == fields.get(name) for name in (*fields, *absent)):
            return "unchanged"
        self._begin_history()
        self._set_order(key, order)
        self._claim_name(spec.name, key)
        replica = self.hashes.setdefault(key, {})
        replica |= {**fields, "spec_request": request}
        for name in absent:
            replica.pop(name, None)
        if mode == "explicit":
            replica.pop("restored_from", None)
        elif is_new:
            replica["restored_from"] = ORIGIN
        if is_new:
            self.removed.pop(key, None)
            for name in (*PROBED, *AUTHOR, "failing_witness", "removed_by"):
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

    def _refusal_to_register(self, stored: Fields, *, mode: str, request: str, key: str, name: str) -> str:
        is_new = stored.get("admin", "removed") == "removed"
        if request in (stored.get("incarnation"), stored.get("spec_request")):
            return "unchanged"
        if mode == "seed" and stored and is_new:
            return "tombstone"
        if mode == "seed" and not is_new and stored["source"] == "explicit":
            return "overridden"
        if name and (is_new or stored.get("name") != name):
            self._begin_history()
            self.meta["names_cursor"] = "done"
            if self._is_taken(name, key):
                return "name_taken"
        return ""

    def deregister_replica(
        self, *, key: str, incarnation: str, router: str, by: str, reason: str, when_drained: bool
    ) -> str:
        self._tick()
        stored = self.alive().get(key, {})
        if stored.get("incarnation") != incarnation:
            return "not_found"
        if when_drained and self.in_flight(key):
            if stored.get("removes_when_drained") != "1":
                stored |= {
                    "admin": "draining",
                    "admin_since_ms": self._time(),
                    "admin_reason": reason,
                    "admin_by": by,
                    "admin_by_at_ms": self._time(),
                    "removes_when_drained": "1",
                    "removed_by": by,
                }
                stored.pop("restored_from", None)
                self._emit_replica(key, "replica_admin", router=router, by=by, reason=reason)
            return "draining"
        self._put_tombstone(key, reason)
        stored["removed_by"] = by
        self._emit_replica(key, "replica_deregistered", router=router, by=by, reason=reason)
        return "removed"

    def set_admin(self, *, key: str, state: str, router: str, by: str, reason: str) -> str:
        self._tick()
        stored = self.alive().get(key)
        if stored is None:
            return "not_found"
        if (stored["admin"], stored["admin_reason"]) == (state, reason) and "restored_from" not in stored:
            return "unchanged"
        if stored["admin"] != state:
            stored["admin_since_ms"] = self._time()
        author = {"admin_by": by, "admin_by_at_ms": stored["admin_since_ms"]}
        stored |= {"admin": state, "admin_reason": reason, **author}
        stored.pop("restored_from", None)
        if state == "active":
            stored.pop("removes_when_drained", None)
        self._emit_replica(key, "replica_admin", router=router, by=by, reason=reason)
        self._serve()
        return "set"

    def _position(self, key: str, spec: Spec) -> int:
        if spec.order:
            return int(spec.order)
        if key in self.replicas:
            return self.replicas[key]
        return max(exact(self.meta.get("next_order", "0")), *(order + 1 for order in self.replicas.values()), 0)

    # --- probes ---

    def report_probes(
        self, *, token: str, epoch: int, batch: int, thresholds: tuple[int, int], results: Sequence[Outcome]
    ) -> str:
        self._tick()
        if self.leader.get("token") != token or not agree(self.leader["epoch"], str(epoch)):
            return "fenced"
        if batch <= exact(self.leader["batch"]):
            return "duplicate"
        self.leader |= {"batch": str(batch), "batch_done": str(len(results))}
        for result in results:
            if result.url in {change.url for change in self._untold}:
                self._tell_changes()
            self._apply(result, thresholds, router=self.leader["router"], by="")
        self._tell_changes()
        self._serve()
        return "applied"

    def record_outcome(
        self, *, result: Outcome, thresholds: tuple[int, int], router: str, by: str, is_passive: bool
    ) -> str:
        self._tick()
        live = [expires_at for expires_at in self.routers.values() if exact(expires_at) > self._now.high]
        witness = router if is_passive and len(live) > 1 else None
        if not self._apply(result, thresholds, router=router, by=by, witness=witness):
            return "not_found"
        self._tell_changes()
        self._serve()
        return "applied"

    def _apply(
        self, result: Outcome, thresholds: tuple[int, int], *, router: Value, by: str, witness: str | None = None
    ) -> bool:
        replica = self.alive().get(result.url)
        if replica is None or replica["incarnation"] != result.incarnation:
            return False
        if result.error:
            replica |= {"last_failure_at_ms": self._time(), "last_error": result.error}
        elif witness is None:
            replica |= {"last_ok_at_ms": self._time(), "last_latency_ms": f"{result.latency_ms:.3f}"}
        before = replica["status"]
        if witness is None:
            replica.pop("failing_witness", None)
            self._count(replica, thresholds, is_ok=not result.error)
        else:
            self._weigh(replica, thresholds, witness, is_ok=not result.error)
        if replica["status"] != before:
            replica["status_since_ms"] = self._time()
            replica.pop("slow_start_ms", None)
            if replica["status"] == "healthy" and "slow_start_ms" in self.meta:
                replica["slow_start_ms"] = self.meta["slow_start_ms"]
            kind, ramp = f"replica_{replica['status']}", replica.get("slow_start_ms", "")
            self._untold += (Change(result.url, kind, router, by, ramp, result.error, self._change_line(result)),)
        return True

    def _change_line(self, result: Outcome) -> str:
        """Return what an event of several changes says of one; see docs/redis-keys.md."""
        replica = self.hashes[result.url]
        failures = str(replica["consecutive_failures"]) if result.error else ""
        latency = "" if result.error else f"{result.latency_ms:.3f}"
        parts = (result.url, replica["revision"], failures, latency, replica.get("name", ""), "", result.error)
        return "\t".join(map(str, parts))

    def _tell_changes(self) -> None:
        """Emit the changes of status: those that have all but their replicas in common in one event."""
        untold, self._untold = self._untold, ()
        groups: dict[object, list[Change]] = {}
        for change in untold:
            groups.setdefault((change.kind, change.router, change.by, change.ramp), []).append(change)
        for first, *others in groups.values():
            if not others:
                self._emit_replica(first.url, first.kind, router=first.router, by=first.by, reason=first.reason)
                continue
            lines = "\n".join(change.line for change in (first, *others))
            ramp = {"slow_start_ms": first.ramp} if first.ramp else {}
            self._emit(first.kind, router=first.router, by=first.by, reason="", replica="*", changes=lines, **ramp)
            for change in (first, *others):
                self.hashes[change.url]["revision"] = self.meta["revision"]

    def _count(self, replica: Fields, thresholds: tuple[int, int], *, is_ok: bool) -> None:
        failures, successes = exact(replica["consecutive_failures"]), exact(replica["consecutive_successes"])
        counted = Counted(str(replica["status"]), failures, successes).after(
            is_ok=is_ok, failure_threshold=thresholds[0], recovery_threshold=thresholds[1]
        )
        replica |= {
            "status": counted.status,
            "consecutive_failures": str(counted.failures),
            "consecutive_successes": str(counted.successes),
        }

    def _weigh(self, replica: Fields, thresholds: tuple[int, int], witness: str, *, is_ok: bool) -> None:
        """Passive evidence of one of several routers."""
        failures, limit = exact(replica["consecutive_failures"]), thresholds[0] - 1
        is_alone = replica.get("failing_witness", witness if failures == 0 else "several") == witness
        if is_ok:
            if is_alone:
                replica["consecutive_failures"] = "0"
                replica.pop("failing_witness", None)
            return
        if is_alone:
            replica["failing_witness"] = witness
        else:
            replica.pop("failing_witness", None)
        if is_alone and replica["status"] != "unhealthy" and failures >= limit:
            replica |= {"consecutive_failures": str(max(failures, limit)), "consecutive_successes": "0"}
        else:
            self._count(replica, thresholds, is_ok=False)

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
            "lease_ms": str(LEASE_MS),
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

    def advance_ramps(self, *, token: str, epoch: int, slow_start_ms: str) -> str:
        self._tick()
        if self.leader.get("token") != token or exact(self.leader["epoch"]) != epoch:
            return "fenced"
        if slow_start_ms == "0":
            self.meta.pop("slow_start_ms", None)
        else:
            self.meta["slow_start_ms"] = slow_start_ms
        return "advanced"

    def declare_panic(self, *, token: str, epoch: int, why: str) -> str:
        self._tick()
        if self.leader.get("token") != token or exact(self.leader["epoch"]) != epoch:
            return "fenced"
        if bool(why) is ("panic" in self.meta):
            return "unchanged"
        if why:
            self.meta["panic"] = why
        else:
            del self.meta["panic"]
        kind = "panic_began" if why else "panic_ended"
        self._emit(kind, router=self.leader["router"], reason=why)
        return "declared"

    # --- routers ---

    def heartbeat(self, *, key: str, presented: Fields, panic_percent: str = "0") -> str:
        self._tick()
        self._begin_history()
        now, soon = self._now, self._time(EXPIRY_MS)
        heartbeat, reap_after = self.meta.get("heartbeat_at_ms"), self.meta.get("reap_after_ms", "0")
        is_late = heartbeat is None or exact(heartbeat) > now.high or now.low - exact(heartbeat) > EXPIRY_MS / 2
        if is_late or exact(reap_after) > soon.high:
            reap_after = soon
        if is_late:
            self.meta["heartbeats_resumed_at_ms"] = self._time()
        self.meta |= {"heartbeat_at_ms": self._time(), "reap_after_ms": reap_after}
        self.meta |= {"reap_until_ms": self._time(EXPIRY_MS // 2), "panic_percent": panic_percent}
        for router, expires_at in self.routers.items():
            if exact(expires_at) > soon.high:
                self.routers[router] = soon
        joined = key not in self.routers
        self.routers[key] = soon
        self.router[key] = {**presented, "expiry_ms": str(EXPIRY_MS)}
        if joined:
            self._emit("router_joined", router=key)
        self._serve()
        return "alive"

    def expired(self) -> set[str]:
        """Return the routers that the last heartbeat must have named."""
        if exact(self.meta["reap_after_ms"]) > self._now.low:
            return set()
        return {router for router, expires_at in self.routers.items() if exact(expires_at) <= self._now.low}

    def reap_router(self, *, key: str, by: str, affinity_ms: int) -> str:
        self._tick()
        if key not in self.routers:
            return "not_found"
        if "reap_after_ms" not in self.meta or exact(self.meta["reap_after_ms"]) > self._now.low:
            return "alive"
        if exact(self.routers[key]) > self._now.low:
            return "alive"
        if not self._end_some(key, by, affinity_ms):
            return "partial"
        self._emit("router_expired", router=key, by=by)
        return "reaped"

    def leave_cluster(self, *, key: str, affinity_ms: int) -> str:
        self._tick()
        if key not in self.routers:
            return "not_found"
        if not self._end_some(key, key, affinity_ms):
            return "partial"
        self._emit("router_left", router=key)
        return "left"

    # --- after anything that no command does ---

    def repair_namespace(self, *, router: str, by: str) -> str:
        """All but the line is in order here."""
        self._tick()
        unlisted = [waiter for waiter in self.queue if router_of(waiter) not in self.routers]
        inboxes = self.inboxes.keys() - self.routers.keys()
        for waiter in unlisted:
            del self.queue[waiter]
        for gone in inboxes:
            del self.inboxes[gone]
        _, granted, _ = self._serve()
        self.repaired = len(unlisted) + len(inboxes) + granted
        if self.repaired:
            self._emit("namespace_repaired", router=router, by=by)
        return "repaired"

    # --- after a loss of history ---

    def contribute(self, view: KnownView, *, router: str, at_once: int) -> None:
        """All calls by which a router puts its view back."""
        replicas = sorted(view.hashes, key=lambda url: order_of(view.hashes, url))
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
        newest = self.meta.get(f"restored:{view.history_id}")
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
                self._put_tombstone(url, "removed in an earlier history")
            known, by = view.known_as_of(url), (view.revision, view.history_id)
            is_own = kind == "absent" or known == by
            self.hashes[url]["restored_from"] = " ".join(by if is_own else (*known, *by))
            self._emit_replica(url, "view_restored", router=router, by=view.history_id, reason=view.revision)
        if is_complete:
            self.meta[f"restored:{view.history_id}"] = view.revision
        self._serve()
        return "restored"

    def _may_restore(self, view: KnownView, kind: str, url: str) -> bool:
        if url not in self.hashes:
            return kind != "absent"
        stored = self.hashes[url]
        origin = str(stored.get("restored_from", "")).split()
        if not origin:
            return False
        revision, by, history_id = origin[0], origin[-2] if len(origin) > 1 else origin[0], origin[-1]
        if kind == "absent":
            return history_id == view.history_id and stored["admin"] != "removed" and is_later(view.revision, by)
        known, _ = view.known_as_of(url)
        return is_later(known, revision) or (known == revision and is_later(view.revision, by))

    def _put_back(self, url: str, known: Fields) -> None:
        replica = self.hashes.setdefault(url, {})
        is_older = max(probed_at(known), exact(known["registered_at_ms"]))
        keeps_health = bool(replica) and probed_at(replica) > is_older
        for name in (*SPEC, *OPERATOR, *(() if keeps_health else HEALTH)):
            if known.get(name, "") == "" and name in (*HEALTH, *OPTIONAL, *AUTHOR):
                replica.pop(name, None)
            else:
                replica[name] = known[name]
        if not keeps_health:
            replica.pop("failing_witness", None)
        if self._is_taken(str(known["name"]), url):
            replica["name"] = ""
        self._claim_name(str(replica["name"]), url)
        replica["removes_when_drained"] = known.get("removes_when_drained", "0")
        replica.setdefault("in_flight", "0")
        self.removed.pop(url, None)
        self._set_order(url, exact(known["order"]))

    def _is_taken(self, name: str, url: str) -> bool:
        return any(other != url and fields["name"] == name for other, fields in self.alive().items() if name)

    def _claim_name(self, name: str, url: str) -> None:
        if name:
            self.names[name] = url

    def _listed(self) -> list[str]:
        return sorted(self.replicas, key=lambda url: (self.replicas[url], url))


def blank(url: str) -> Fields:
    """Return the hash of a replica of which nothing is known but that it was removed."""
    spec = Spec(url).fields(0, "explicit")
    del spec["labels"]  # which is required of no hash
    return {
        **spec,
        "incarnation": "",
        "status": "unknown",
        "consecutive_failures": "0",
        "consecutive_successes": "0",
        "in_flight": "0",
    }


def probed_at(fields: Fields) -> int:
    return max(exact(fields.get("last_ok_at_ms", "0")), exact(fields.get("last_failure_at_ms", "0")))
