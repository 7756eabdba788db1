"""One router process: its mirror, its heartbeat, and the parts that probe, answer, appeal, lead and place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.support.model.verdicts.answering import Answering
from tests.support.model.verdicts.appealing import Appealing
from tests.support.model.verdicts.inheriting import Inheriting
from tests.support.model.verdicts.keyspace import Event
from tests.support.model.verdicts.leading import Leading
from tests.support.model.verdicts.probing import Probing
from tests.support.model.verdicts.reporting_sessions import ReportingSessions
from tests.support.model.verdicts.world import Callback, World


class Process:
    """A router from its start to its end; each start has a key of its own."""

    def __init__(self, world: World, slot: int, number: int) -> None:
        self.world = world
        self.settings = world.settings
        self.rules = world.rules
        self.rng = world.rng
        self.slot = slot
        self.key = f"r{slot}.{number}"
        self.machine = world.machines[slot]
        self.print = world.prints[slot]
        self.probes = slot in world.probing_slots
        self.is_alive, self.is_paused, self.paused_at = True, False, 0
        self.backlog: list[Callback] = []
        self.view: dict[str, Event] = {}
        self.seen = 0
        self.leader = ""
        self.plan: tuple[int, tuple[str, ...]] = (0, ())
        self.probers: list[str] = []
        self.skew = 0
        self.kept: dict[str, int] = {}
        self.since_fresh: dict[str, int] = {}
        self.unreached: set[str] = set()
        self.probing = Probing(self)
        self.answering = Answering(self)
        self.inheriting = Inheriting(self)
        self.appealing = Appealing(self)
        self.leading = Leading(self)
        self.sessions = ReportingSessions(self)
        self._is_reading = False

    # means

    @property
    def now(self) -> int:
        return self.world.now

    @property
    def server_now(self) -> int:
        """Redis' time as estimated by the last heartbeat."""
        return self.world.now + self.skew

    def after(self, delay: int, act: Callback) -> None:
        self.world.after(delay, act, self)

    def call(self, name: str, *arguments: Any, then: Callable[[Any], None] = lambda _: None) -> None:
        self.world.call(self, name, arguments, then)

    def insist(self, name: str, *arguments: Any, until: int, then: Callable[[Any], None]) -> None:
        """Send a command that may run twice, until there is a reply."""

        def take(reply: Any) -> None:
            if reply is None and self.now < until:
                self.after(100, lambda: self.call(name, *arguments, then=take))
            elif reply is not None:
                then(reply)

        self.call(name, *arguments, then=take)

    def probe(self, url: str, role: str, then: Callable[[str], None], *, is_fresh: bool) -> None:
        """Probe a replica once; `then` receives ok, failed or unsure."""
        world, started = self.world, self.now
        network, life = world.network, world.network.lives.get(url, 0)
        self.since_fresh[url] = self.since_fresh.get(url, 0) + 1
        is_due = self.since_fresh[url] >= self.settings.fresh_every and self.rules.has("every sixth is fresh")
        is_kept = self.kept.get(url) == life
        if is_kept and not is_fresh and not is_due:
            result, delay = network.try_kept(self.slot, url)
        else:
            self.since_fresh[url] = 0
            result, delay = network.try_fresh(self.slot, url)
        if result == "unreachable":
            result = "failed" if self.rules.has("unreachable is a failure") else "unsure"
        is_true = result != "failed" or not network.reaches(self.slot, url)

        def end() -> None:
            said = result
            if not self.rules.has("a pause extends the limit") and self.now - started > self.settings.timeout + 500:
                said = "failed"
            if said == "ok":
                self.kept[url] = life
                self.unreached.discard(url)
            elif said == "failed":
                self.unreached.add(url)
                if result != "ok" and not is_kept:
                    self.kept.pop(url, None)
            if world.recorder is not None:
                world.recorder.probed(self, url, role, said, started, is_true=is_true and said == result)
            then(said)

        self.after(delay, end)

    # life

    def start(self) -> None:
        self._beat()
        self.read_all()
        if self.probes:
            self.after(LEAST_WAIT, self.leading.campaign)

    def _beat(self) -> None:
        who = {"key": self.key, "machine": self.machine, "probe_print": self.print, "probes": self.probes}
        self.call("heartbeat", who, then=self._take_beat)
        self.after(self.settings.heartbeat, self._beat)

    def _take_beat(self, reply: list[str] | None) -> None:
        if reply is None:
            return
        self.skew = int(reply[2]) - self.now
        self.probers = reply[3:]
        if int(reply[1]) > self.seen:
            seen = self.seen
            self.after(20, lambda: self.read_all() if self.seen == seen else None)

    # the mirror

    def receive(self, first: int, last: int) -> None:
        """Take events from the stream; read everything where one is missing."""
        if first > self.seen:
            self.read_all()
            return
        for event in self.world.namespace.keys.stream[self.seen : last]:
            self.seen = event["number"]
            self._take_event(event)

    def _take_event(self, event: Event) -> None:
        kind = event["kind"]
        for url, record in event.get("replicas", {}).items():
            self.view[url] = record
        if kind == "plan":
            self.plan = (event["plan"], event["participants"])
            self.probing.follow_plan()
        elif kind == "leader_elected":
            self.leader = event["router"]
        elif kind == "leader_resigned":
            self.leader = ""
            self.leading.notice_vacancy()
        elif kind == "replica_cleared" and event["not_by"] == self.key:
            self.leading.note_refuted(event["replicas"])
        elif kind == "replica_reported":
            self.sessions.watched.update(event["replicas"])
            self.probing.hasten(event["replicas"], is_fresh=True)
            self.inheriting.hasten(event["replicas"])
        for url in event.get("replicas", {}):
            self.notice(url)

    def read_all(self, then: Callable[[Event], None] | None = None) -> None:
        def take(state: Event | None) -> None:
            self._is_reading = False
            if state is None:
                if then is not None:
                    self.after(200, lambda: self.read_all(then))
                return
            if state["revision"] >= self.seen:
                self.seen = state["revision"]
                self.skew = state["now"] - self.now
                if not self.rules.has("questions are in the hash"):
                    state["replicas"] = {u: {**v, "suspicion": "", "asked": ()} for u, v in state["replicas"].items()}
                self.view, self.leader, self.plan = state["replicas"], state["leader"], state["plan"]
                self.probers = state["probers"]
                self.probing.follow_plan()
                for url in self.view:
                    self.notice(url)
            if then is not None:
                then(state)

        if then is None:
            if self._is_reading:
                return
            self._is_reading = True
        self.call("read_all", then=take)

    def notice(self, url: str) -> None:
        """A replica's record changed."""
        record = self.view[url]
        self.probing.notice(url, record)
        self.inheriting.notice(url, record)
        if self.probes:
            self.answering.notice(url, record)
            self.appealing.notice(url, record)


LEAST_WAIT = 20
