"""Virtual time: an event queue, router processes that die and stop, Redis and the ways to it, all by one seed."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.support.model.verdicts.namespace import Namespace
from tests.support.model.verdicts.network import Network
from tests.support.model.verdicts.settings import ALL_RULES, Rules, Settings

if TYPE_CHECKING:
    from tests.support.model.verdicts.process import Process
    from tests.support.model.verdicts.recorder import Recorder

REDIS_TIMEOUT = 1000
LATENCY = 2
Callback = Callable[[], None]


class World:
    """Runs everything that happens, in order of time. Times are milliseconds."""

    def __init__(self, seed: int, *, routers: int, replicas: int, settings: Settings, rules: Rules = ALL_RULES) -> None:
        self.rng = random.Random(seed)
        self.settings = settings
        self.rules = rules
        self.now = 0
        self.clock_skew = 10**9
        self.slots = range(routers)
        self.urls = [f"http://replica{n}" for n in range(replicas)]
        self.machines = {slot: f"m{slot}" for slot in self.slots}
        self.prints = dict.fromkeys(self.slots, "print")
        self.probing_slots = set(self.slots)
        self.network = Network(settings.timeout, self.rng)
        self.is_redis_up = True
        self.cut: set[int] = set()
        self.lossy: set[int] = set()
        self.mute: set[int] = set()
        self.deaf: set[int] = set()
        self.late: dict[int, int] = {}
        self.twice: set[int] = set()
        self.namespace = Namespace(lambda: self.now + self.clock_skew, settings, rules)
        self.processes: dict[int, Process] = {}
        self.starts = 0
        self.recorder: Recorder | None = None
        self._queue: list[tuple[int, int, Process | None, Callback]] = []
        self._sequence = 0
        self._published = 0

    # time

    def after(self, delay: int, act: Callback, owner: Process | None = None) -> None:
        """Do this later; on behalf of a process only while it lives, and when it goes on if it stands still."""
        self._sequence += 1
        heapq.heappush(self._queue, (self.now + max(0, delay), self._sequence, owner, act))

    def run(self, until: int) -> None:
        queue, recorder = self._queue, self.recorder
        while queue and queue[0][0] <= until:
            self.now, _, owner, act = heapq.heappop(queue)
            if owner is not None:
                if not owner.is_alive:
                    continue
                if owner.is_paused:
                    owner.backlog.append(act)
                    continue
            act()
        self.now = until
        if recorder is not None:
            recorder.tick()

    # Redis

    def call(self, caller: Process, name: str, arguments: tuple[Any, ...], then: Callable[[Any], None]) -> None:
        """Send a command; `then` receives the reply, or `None` where none came."""
        is_lossy = caller.slot in self.lossy and self.rng.random() < 0.4
        loses_reply = is_lossy and self.rng.random() < 0.5

        def arrive() -> None:
            if not self.is_redis_up:
                self.after(LATENCY, lambda: then(None), caller)
                return
            is_mute = name == "give_opinion" and caller.slot in self.mute
            if caller.slot in self.cut or is_mute or (is_lossy and not loses_reply):
                self.after(REDIS_TIMEOUT, lambda: then(None), caller)
                return
            reply = self.execute(caller, name, arguments)
            if loses_reply:
                self.after(REDIS_TIMEOUT, lambda: then(None), caller)
            else:
                self.after(LATENCY, lambda: then(reply), caller)

        is_opinion = name == "give_opinion"
        self.after(LATENCY + (self.late.get(caller.slot, 0) if is_opinion else 0), arrive)
        if is_opinion and caller.slot in self.twice:
            self.after(150, lambda: self.execute(caller, name, arguments) if self.is_redis_up else None)

    def execute(self, caller: Process | None, name: str, arguments: tuple[Any, ...]) -> Any:
        """Run a command in Redis now."""
        if self.recorder is not None:
            self.recorder.before(caller, name, arguments)
        command = getattr(self.namespace, name)
        reply = command(**arguments[0]) if name == "heartbeat" else command(*arguments)
        if self.recorder is not None:
            self.recorder.executed(caller, name, arguments, reply)
        self._publish()
        return reply

    def _publish(self) -> None:
        """Bring new events to every router that is connected."""
        first, last = self._published, len(self.namespace.keys.stream)
        if first == last:
            return
        self._published = last
        for process in self.processes.values():
            if process.slot in self.cut or process.slot in self.deaf or not process.is_alive:
                continue
            if process.slot in self.lossy and self.rng.random() < 0.4:
                continue
            self.after(LATENCY, lambda process=process: process.receive(first, last), process)  # type: ignore[misc]

    # what happens to routers and replicas

    def start(self, slot: int) -> None:
        from tests.support.model.verdicts.process import Process

        self.starts += 1
        self.processes[slot] = Process(self, slot, self.starts)
        self.processes[slot].start()

    def kill(self, slot: int) -> None:
        if (process := self.processes.pop(slot, None)) is not None:
            process.is_alive = False

    def pause(self, slot: int) -> None:
        if (process := self.processes.get(slot)) is not None:
            process.is_paused, process.paused_at = True, self.now

    def resume(self, slot: int) -> None:
        process = self.processes.get(slot)
        if process is None or not process.is_paused:
            return
        process.is_paused = False
        backlog, process.backlog = process.backlog, []
        for act in backlog:
            self.after(0, act, process)

    def register(self, url: str) -> None:
        self.starts += 1
        self.execute(None, "register_replica", (url, f"i{self.starts}"))

    def begin(self) -> None:
        """Register all replicas, and start all routers within a second."""
        for url in self.urls:
            self.register(url)
        for slot in self.slots:
            self.after(self.rng.randrange(1000), lambda slot=slot: self.start(slot))  # type: ignore[misc]
