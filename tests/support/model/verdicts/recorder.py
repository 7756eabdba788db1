"""Records what really happened, beside the model: what probes saw, what Redis was told, and when something was broken.

The checks use these facts, and not the counters of the model.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.support.model.verdicts.costs import Costs
from tests.support.model.verdicts.keyspace import Replica
from tests.support.model.verdicts.liveness import Liveness
from tests.support.model.verdicts.safety import Safety

if TYPE_CHECKING:
    from tests.support.model.verdicts.process import Process
    from tests.support.model.verdicts.world import World

TICK = 250


@dataclass
class Question:
    """A suspicion as it was seen to open."""

    id: str
    by: str
    at: int
    asked: tuple[str, ...]
    is_unsure: bool
    machines: dict[str, str]
    said: dict[str, str] = field(default_factory=dict)


@dataclass
class Facts:
    """What is known of one replica."""

    incarnation: str = ""
    status: str = "unknown"
    changed_at: int = 0
    registered_at: int = 0
    failures: int = 0
    peak: int = 0  # of failures within one command, which may have several results of a replica
    unsure: int = 0
    question: Question | None = None
    before_ok: Question | None = None  # within one command
    refuters: dict[str, str] = field(default_factory=dict)
    dead_since: int | None = None
    ended: set[str] = field(default_factory=set)


class Recorder:
    """Watches a world. `violations` has the name of an invariant, the time and what happened."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.violations: list[tuple[str, int, str]] = []
        self.worst: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.facts: dict[str, Facts] = {}
        self.answered_at: dict[str, int] = {}
        self.runs: dict[tuple[str, str], int] = {}
        self.disturbed: dict[int, int] = {}
        self.paths: dict[tuple[int, str], int] = {}
        self.redis_since = 0
        self.outage_at = -1
        self.clock_at = 0
        self.clock_shift = 0
        self.beat_at = self.gap_at = 0
        self.beats: dict[str, tuple[int, str]] = {}
        self.safety = Safety(self)
        self.liveness = Liveness(self)
        self.costs = Costs(self)
        world.recorder = self
        self._tick_on()

    def _tick_on(self) -> None:
        self.tick()
        self.world.after(TICK, self._tick_on)

    def tick(self) -> None:
        self.liveness.check()

    def is_heartbeat_missing(self) -> bool:
        """Whether no router has sent one for so long that it counts as an outage."""
        return self.world.now - self.beat_at > self.world.settings.expiry // 2

    def violate(self, name: str, what: str) -> None:
        self.violations.append((name, self.world.now, what))

    # faults

    def disturb(self, slot: int) -> None:
        """Something about this router changed: its life, its way to Redis, its descriptors."""
        self.disturbed[slot] = self.world.now

    def path_changed(self, slot: int, url: str) -> None:
        self.paths[slot, url] = self.world.now

    def update_deaths(self) -> None:
        for url in self.world.urls:
            facts = self.facts.setdefault(url, Facts())
            is_dead = self.world.network.is_dead_for_all(url, self.world.slots)
            if not is_dead:
                facts.dead_since = None
            elif facts.dead_since is None:
                facts.dead_since = self.world.now

    def is_able(self, process: Process | None) -> bool:
        """Whether a router can do its part: it runs, probes, and reaches Redis."""
        world = self.world
        return (
            process is not None
            and process.is_alive
            and not process.is_paused
            and process.probes
            and world.is_redis_up
            and process.slot not in world.cut
            and process.slot not in world.lossy
            and process.slot not in world.mute
        )

    def able_since(self, process: Process) -> int:
        return max(self.disturbed.get(process.slot, 0), self.redis_since)

    def by_key(self, key: str) -> Process | None:
        return next((one for one in self.world.processes.values() if one.key == key), None)

    # probes and commands

    def probed(self, process: Process, url: str, role: str, result: str, started: int, *, is_true: bool) -> None:
        if result == "ok":
            self.answered_at[url] = self.world.now
        run = self.runs.get((process.key, url), 0)
        self.runs[process.key, url] = run + 1 if result == "ok" else 0 if result == "failed" else run
        self.counts[f"probe {role}"] += 1
        if not is_true and (started >= self.paths.get((process.slot, url), 0)):
            self.violate("truth", f"{process.key} says that {url} failed although it answered")

    def session(self, process: Process, url: str, result: str) -> None:
        self.safety.session(process, url, result)

    def before(self, caller: Process | None, name: str, arguments: tuple[Any, ...]) -> None:
        self.costs.before(name)
        self.safety.before(caller, name, arguments)

    def executed(self, caller: Process | None, name: str, arguments: tuple[Any, ...], reply: Any) -> None:
        """Take down what Redis was told, then compare what it made of it."""
        if name in ("read_all", "renew"):
            return
        if name == "heartbeat":
            if self.is_heartbeat_missing():
                self.gap_at = self.world.now
            self.beat_at = self.world.now
        if name == "heartbeat" and arguments[0]["probes"]:
            self.beats[arguments[0]["key"]] = (self.world.now, arguments[0]["probe_print"])
        self._take_down(caller, name, arguments, reply)
        self.safety.executed(caller, name, arguments, reply)
        self.costs.executed(caller, name, arguments, reply)
        for url, replica in self.world.namespace.keys.replicas.items():
            self._compare(url, replica, caller, name, arguments)
            self.facts[url].peak, self.facts[url].before_ok = self.facts[url].failures, None

    def _take_down(self, caller: Process | None, name: str, arguments: tuple[Any, ...], reply: Any) -> None:
        if name == "set_admin":
            self._end_question(self.facts[arguments[0]])
        elif name in ("report_probes", "report_share") and reply[0] == "applied":
            for url, incarnation, result in arguments[-1][: int(reply[1])]:
                self._told(url, incarnation, result)
        elif name == "report_handover" and reply[0] == "applied":
            self._told(*arguments[1:4])
        elif (
            name == "report_own_failure"
            and reply[0] in ("noted", "unhealthy")
            and not self.safety.had_peer(arguments[0])
        ):
            self._told(arguments[1], arguments[2], "failed")
        elif name == "give_opinion":
            for (url, _incarnation, question_id, result), word in zip(arguments[1], reply, strict=True):
                question = self.facts[url].question
                if word != "later" and question is not None and question.id == question_id:
                    question.said.setdefault(arguments[0], result)

    def _told(self, url: str, incarnation: str, result: str) -> None:
        facts = self.facts.setdefault(url, Facts())
        if incarnation != facts.incarnation:
            return
        facts.failures = facts.failures + 1 if result == "failed" else 0 if result == "ok" else facts.failures
        facts.peak = max(facts.peak, facts.failures)
        facts.unsure = facts.unsure + 1 if result == "unsure" else 0
        if result == "ok":
            facts.refuters.clear()
            self._end_question(facts)

    def _end_question(self, facts: Facts) -> None:
        if facts.question is not None:
            facts.ended.add(facts.question.id)
            facts.before_ok = facts.question
            facts.question = None

    def _compare(
        self, url: str, replica: Replica, caller: Process | None, name: str, arguments: tuple[Any, ...]
    ) -> None:
        facts = self.facts.setdefault(url, Facts())
        if facts.incarnation != replica.incarnation:
            dead_since = facts.dead_since
            facts = self.facts[url] = Facts(
                replica.incarnation, replica.status, self.world.now, self.world.now, dead_since=dead_since
            )
        suspicion = replica.suspicion
        if (
            suspicion is not None
            and suspicion.id not in facts.ended
            and (facts.question is None or facts.question.id != suspicion.id)
        ):
            is_unsure = facts.unsure >= 2 and facts.failures < self.world.settings.suspects_at
            machines = {key: router.machine for key, router in self.world.namespace.keys.routers.items()}
            facts.question = Question(
                suspicion.id, suspicion.by, self.world.now, suspicion.everybody, is_unsure, machines
            )
            self.safety.opened(url, replica)
            self.costs.opened(url)
        if replica.status != facts.status:
            before, facts.status = facts.status, replica.status
            self.counts[f"{before} to {replica.status}"] += 1
            if before == "healthy" and name != "register_replica":
                facts.question = facts.question or facts.before_ok
                self.safety.turned_unhealthy(url, facts, caller, name)
            if name == "appeal":
                self.safety.appealed(url, facts, before, arguments)
            self.liveness.turned(url, facts, before)
            facts.changed_at, facts.question, facts.failures, facts.unsure = self.world.now, None, 0, 0
            facts.refuters.clear()
        elif suspicion is None and facts.question is not None:
            if "ok" in facts.question.said.values():
                facts.failures = facts.unsure = 0
                who = next(key for key, result in facts.question.said.items() if result == "ok")
                facts.refuters[facts.question.by] = who
                self.liveness.refuted(url, facts.question.by)
            facts.question = None
