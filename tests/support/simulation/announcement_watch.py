"""Rules for replicas that announce themselves, which hold after every command: who may hold one, and who may expire."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from shared_registry.store.keys import Keys
from tests.support.simulation.keyspace import Hash, Keyspace, SortedSet
from tests.support.simulation.pods import FEW_SILENT, RECOVERY_SECONDS, TTL_SECONDS, SimulatedPod

GAP_SECONDS = 2.5
"""A longer gap between the heartbeats of all routers is an outage."""
MARGIN_SECONDS = 0.05
PUTTING_BACK = ("restore_leases", "take_over_lease")
"""Commands that bring leases back to replicas that are out of service."""


@dataclass(frozen=True, slots=True)
class Holder:
    """The instance whose announcement or heartbeat was accepted last for an address.

    Attributes:
        instance: Its id.
        beat_at: When that was.
    """

    instance: str
    beat_at: float


@dataclass(frozen=True, slots=True)
class AnnouncementMemory:
    """What a copy of the data would know."""

    holders: dict[str, Holder]
    expired: set[tuple[str, str]]
    heartbeat_at_ms: float
    resumed_at: float


class AnnouncementWatch:
    """Follows the commands that a server executes, as far as they matter to announced replicas.

    Times are those of the server's clock without the steps that are outages: only such steps bring an expiry nearer.

    Attributes:
        problems: What was violated.
    """

    def __init__(self, keyspace: Keyspace, keys: Keys, time: Callable[[], float]) -> None:
        self._keyspace = keyspace
        self._keys = keys
        self._time = time
        self.problems: list[str] = []
        self.of_instance: Callable[[str], SimulatedPod | None] = lambda _: None
        self._small_steps = self._set_back = 0.0
        self._holders: dict[str, Holder] = {}
        self._expired: set[tuple[str, str]] = set()
        self._heartbeat_at_ms = self._resumed_at = self._back_at = self._cut_at = float("-inf")
        self._loads: dict[str, int] = {}
        self._listed_at: dict[str, float] = {}
        self._is_back = False

    def memory(self) -> AnnouncementMemory:
        """Return what a copy of the data made now would know."""
        return AnnouncementMemory(dict(self._holders), set(self._expired), self._heartbeat_at_ms, self._resumed_at)

    def go_back(self, memory: AnnouncementMemory | None) -> None:
        """Forget what a copy of the data does not know; with `None`, everything."""
        self._holders = {} if memory is None else dict(memory.holders)
        # To a clock that is behind, a replica may expire again in the same millisecond.
        self._expired = set() if memory is None else set(memory.expired)
        self._heartbeat_at_ms = float("-inf") if memory is None else memory.heartbeat_at_ms
        self._resumed_at = float("-inf") if memory is None else memory.resumed_at
        self._is_back = True
        self._listed_at = {}
        self._loads = {}

    def step(self, seconds: float) -> None:
        """Note a step of the server's clock."""
        if abs(seconds) < GAP_SECONDS:
            self._small_steps += max(seconds, 0.0)
            self._set_back += max(-seconds, 0.0)
        self._is_back = True

    def on_command(self, name: str, args: Sequence[str], reply: Any) -> None:
        status = reply[0] if isinstance(reply, list) and reply else None
        if name == "heartbeat" and status == "alive":
            self._note_heartbeat(is_partial=reply[5] == "1")
        elif name == "register_replica" and args[0] == "announced":
            given = dict(zip(args[7::2], args[8::2], strict=True))
            if status in ("created", "updated", "unchanged"):
                self._judge_holder(args[5], given["instance"])
                self._holders[args[5]] = Holder(given["instance"], self._now())
        elif name == "beat_replicas" and status == "beaten":
            for url, instance, word in zip(args[::2], args[1::2], reply[1::2], strict=True):
                if word == "held":
                    self._judge_holder(url, instance)
                    self._holders[url] = Holder(instance, self._now())
        elif name in ("withdraw_replica", "deregister_replica") and status in ("removed", "draining"):
            self._holders.pop(args[0], None)
        listed = self._scores(self._keys.announced)
        if listed.keys() != self._listed_at.keys():
            self._listed_at = {url: self._listed_at.get(url, self._now()) for url in listed}
        if name == "restore_view":
            self._follow_view(listed)
        self._compare_loads(name)

    def _follow_view(self, listed: dict[str, float]) -> None:
        """A view may know a later state of what another one has put back, and what operators removed before a loss."""
        now_ms = self._keyspace.now_ms()
        renewed = [url for url in listed if float(self._replica(url).get("last_heartbeat_at_ms", 0)) >= now_ms - 1]
        self._listed_at.update(dict.fromkeys(renewed, self._now()))
        for url, holder in list(self._holders.items()):
            fields = self._replica(url)
            if fields.get("admin") == "removed" or fields.get("removed_instance") == holder.instance:
                del self._holders[url]

    def _now(self) -> float:
        return self._time() + self._small_steps

    def _scores(self, key: str) -> dict[str, float]:
        found = self._keyspace.values.get(key)
        return found if isinstance(found, SortedSet) else {}

    def _replica(self, url: str) -> dict[str, str]:
        found = self._keyspace.values.get(self._keys.replica(url))
        return found if isinstance(found, Hash) else {}

    def _judge_holder(self, url: str, instance: str) -> None:
        """An address belongs to one instance while that one sends heartbeats."""
        before = self._holders.get(url)
        silent = math.inf if before is None else self._now() - before.beat_at
        if before is not None and before.instance != instance and silent < TTL_SECONDS - MARGIN_SECONDS:
            self.problems.append(f"{url} was given to {instance} {silent:.2f} s after a heartbeat of {before.instance}")

    def _note_heartbeat(self, *, is_partial: bool) -> None:
        now = self._now()
        gap_ms = self._keyspace.now_ms() - self._heartbeat_at_ms
        if not 0 <= gap_ms <= GAP_SECONDS * 1000:
            self._resumed_at = now
        self._heartbeat_at_ms = self._keyspace.now_ms()
        if self._is_back:  # the first heartbeat that can see that the clock or the data went back
            self._back_at, self._is_back = now, False
        # To a clock that was set back, a silence seems shorter by that.
        certain = TTL_SECONDS / 2 + MARGIN_SECONDS + self._set_back
        silent = [one for one in self._holders.values() if self._silence(one) >= certain]
        are_many = len(silent) > FEW_SILENT and len(silent) > max(len(self._listed_at), len(self._holders)) / 2
        for url in self._scores(self._keys.departing):
            self._judge_expiry(url, are_many=are_many)
        due_ms = self._keyspace.now_ms() + TTL_SECONDS * 500
        if sum(at <= due_ms for at in self._scores(self._keys.announced).values()) > FEW_SILENT:
            self._cut_at = now
        if not is_partial and now - self._cut_at > 2 * TTL_SECONDS:
            self._judge_late()

    def _silence(self, holder: Holder) -> float:
        return self._now() - max(holder.beat_at, self._resumed_at)

    def _judge_expiry(self, url: str, *, are_many: bool) -> None:
        found = self._replica(url)
        instance, expired_at = found.get("instance", ""), found.get("expired_at_ms")
        if expired_at is None or (instance, expired_at) in self._expired:
            return
        self._expired.add((instance, expired_at))
        now, holder = self._now(), self._holders.get(url)
        if now - self._resumed_at < TTL_SECONDS - MARGIN_SECONDS:
            self.problems.append(f"{url} expired {now - self._resumed_at:.2f} s after an outage")
        if holder is not None and holder.instance == instance:
            del self._holders[url]
            if now - holder.beat_at < TTL_SECONDS - MARGIN_SECONDS:
                self.problems.append(f"{url} expired {now - holder.beat_at:.2f} s after its heartbeat")
        if are_many and found.get("status") == "healthy" and found.get("consecutive_failures") == "0":
            self.problems.append(f"{url} expired while most are silent, although probes reach it")
        pod = self.of_instance(instance)
        if pod and not pod.is_over and self._time() - pod.calm_since > TTL_SECONDS + RECOVERY_SECONDS:
            self.problems.append(f"{url} expired, although {pod.process.name} runs and reaches Redis")

    def _judge_late(self) -> None:
        """After a heartbeat nobody is in service whose time is over."""
        now = self._now()
        for url in self._scores(self._keys.announced):
            found, holder = self._replica(url), self._holders.get(url)
            if found.get("admin") == "removed" or found.get("removes_when_drained") == "1":
                continue
            beat_at = holder.beat_at if holder else float("-inf")
            # What a router has put back after a loss has one time to live from then on.
            since = max(beat_at, self._resumed_at, self._back_at, self._listed_at.get(url, float("-inf")))
            if now - since > TTL_SECONDS + MARGIN_SECONDS:
                self.problems.append(f"{url} is in service {now - since:.2f} s after its last heartbeat")

    def _compare_loads(self, name: str) -> None:
        """None that has expired takes a new session."""
        loads = {url: self._replica(url) for url in self._scores(self._keys.departing)}
        for url, found in loads.items():
            load = int(found.get("in_flight", "0"))
            if url in self._loads and load > self._loads[url] and name not in PUTTING_BACK:
                self.problems.append(f"{name} placed a session on {url}, which has expired")
        self._loads = {
            url: int(found.get("in_flight", "0")) for url, found in loads.items() if "expired_at_ms" in found
        }
