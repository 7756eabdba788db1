"""Rules that hold after every command: who may write as the leader, what a grant may do, who may be reaped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from shared_registry.store.keys import Keys
from tests.support.simulation.announcement_watch import AnnouncementMemory, AnnouncementWatch
from tests.support.simulation.keyspace import Hash, Keyspace

Memory = tuple[str | None, dict[str, float], AnnouncementMemory]

ACCEPTED = {
    "report_probes": "applied",
    "renew": "renewed",
    "write_plan": "written",
    "declare_panic": "declared",
    "advance_ramps": "advanced",
}
"""Commands that only the leader's token may use, and the word that says that it was accepted."""
GRANTING = {
    "acquire_lease",
    "acquire_leases",
    "release_lease",
    "release_leases",
    "heartbeat",
    "report_probes",
    "give_opinions",
    "reap_router",
    "leave_cluster",
    "set_admin",
    "record_outcome",
}
"""Commands after which a replica has more sessions only because of new placements."""
EXPIRY_SECONDS = 5.0
OUTAGE_SECONDS = 2.6
"""Half an expiry without any heartbeat, and a little."""


class Watch:
    """Follows the commands that a server executes.

    Attributes:
        problems: What was violated.
        counts: How often each command ran.
        elected: Token of the last elected leader; `None` after a loss.
        stepped_at: When the server's clock stepped last.
        on_elected: Called with the router that was elected, unless its predecessor has resigned: until the reply
            arrives, that one may take itself for the leader.
    """

    def __init__(self, keyspace: Keyspace, keys: Keys, time: Callable[[], float]) -> None:
        self._keyspace = keyspace
        self._keys = keys
        self._time = time
        self.problems: list[str] = []
        self.counts: dict[str, int] = {}
        self.elected: str | None = None
        self._has_resigned = False
        self.stepped_at = float("-inf")
        self.on_elected: Callable[[str], None] = lambda _: None
        self._loads: dict[str, int] = {}
        self._heartbeats: dict[str, float] = {}
        self._last_heartbeat = self._resumed_at = float("-inf")
        self.announcements = AnnouncementWatch(keyspace, keys, time)

    def memory(self) -> Memory:
        """Return what a copy of the data made now would know."""
        return self.elected, dict(self._heartbeats), self.announcements.memory()

    def go_back(self, memory: Memory) -> None:
        """Forget what an older copy of the data does not know."""
        self.elected, self._heartbeats = memory[0], dict(memory[1])
        self.announcements.go_back(memory[2])
        self._loads = {url: load for url, (load, _) in self._read_loads().items()}

    def on_command(self, name: str, args: Sequence[str], reply: Any) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1
        status = reply[0] if isinstance(reply, list) and reply else None
        if name == "campaign" and status == "elected":
            self._note_election(args, reply)
        elif status and ACCEPTED.get(name) == status and args[0] != self.elected:
            self.problems.append(f"{name} of token {args[0]} was accepted, but {self.elected} was elected last")
        elif name == "resign":
            self._has_resigned = self._has_resigned or status == "resigned"
        elif name == "heartbeat" and status == "alive":
            self._note_heartbeat(args[0])
            if reply[5] == "0":  # otherwise the router sends another one at once
                self._judge_queue(args[0])
        elif name == "reap_router" and status in ("reaped", "partial"):
            self._judge_reaping(args[0])
        self._compare_loads(name)
        self.announcements.on_command(name, args, reply)

    def on_loss(self) -> None:
        """Note that all data is lost."""
        self.elected = None
        self.announcements.go_back(None)

    def on_step(self, seconds: float) -> None:
        """Note that the server's clock steps."""
        self.stepped_at = self._time()
        self.announcements.step(seconds)

    def on_changed_again(self, name: str) -> None:
        self.problems.append(f"{name} changed something when it ran a second time at once")

    def _note_election(self, args: Sequence[str], reply: Sequence[str]) -> None:
        router, token, _, seen_epoch, _ = args
        if token == self.elected:
            return  # the reply to an earlier call was lost
        if int(reply[1]) <= int(seen_epoch):
            self.problems.append(f"epoch {reply[1]} was given to a candidate that knew of epoch {seen_epoch}")
        self.elected = token
        if not self._has_resigned:
            self.on_elected(router)
        self._has_resigned = False

    def _note_heartbeat(self, router: str) -> None:
        now = self._time()
        if now - self._last_heartbeat > OUTAGE_SECONDS:
            self._resumed_at = now
            if self.stepped_at > self._last_heartbeat:
                self.stepped_at = now  # nobody could see it before, and the step may hide the outage
        self._last_heartbeat = self._heartbeats[router] = now

    def _judge_queue(self, router: str) -> None:
        """After a heartbeat no session of a live router waits beside room, unless Redis waits for what it lost."""
        values: dict[str, Any] = dict(self._keyspace.values)
        keys = self._keys
        ready = [*values.get(keys.ready_primary, ()), *values.get(keys.ready_secondary, ())]
        queue = values.get(keys.queue)
        if not ready or not queue or 1.0 in self._keyspace.scores(keys.settling):
            return
        live = {one for one, until in values[keys.routers].items() if until > self._keyspace.now_ms()}
        if waiting := [waiter for waiter in queue if waiter.rpartition("/")[0] in live]:
            self.problems.append(f"after a heartbeat of {router} {waiting} wait beside free slots of {ready}")

    def _judge_reaping(self, router: str) -> None:
        now = self._time()
        silent = now - self._heartbeats.get(router, float("-inf"))
        if now - self.stepped_at < 2 * EXPIRY_SECONDS:
            return
        if silent < EXPIRY_SECONDS:
            self.problems.append(f"{router} was reaped {silent:.2f} s after its heartbeat")
        if now - self._resumed_at < EXPIRY_SECONDS:
            self.problems.append(f"{router} was reaped {now - self._resumed_at:.2f} s after an outage")

    def _compare_loads(self, name: str) -> None:
        leases: dict[str, int] = {}
        prefix = self._keys.leases_prefix
        for key, value in self._keyspace.values.items():
            if key.startswith(prefix) and isinstance(value, Hash):
                for url in value.values():
                    leases[url] = leases.get(url, 0) + 1
        loads = self._read_loads()
        for url, (load, capacity) in loads.items():
            if load != leases.get(url, 0):
                self.problems.append(f"after {name} in_flight of {url} is {load}, with {leases.get(url, 0)} leases")
            if name in GRANTING and load > self._loads.get(url, 0) and 0 < capacity < load:
                self.problems.append(f"{name} placed session {load} on {url}, whose capacity is {capacity}")
        self._loads = {url: load for url, (load, _) in loads.items()}

    def _read_loads(self) -> dict[str, tuple[int, int]]:
        """Return in_flight and capacity of each replica that has a hash."""
        prefix = self._keys.replica_prefix
        return {
            key[len(prefix) :]: (int(value["in_flight"]), int(value["capacity"]))
            for key, value in self._keyspace.values.items()
            if key.startswith(prefix) and isinstance(value, Hash)
        }
