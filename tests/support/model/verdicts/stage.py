"""A world that a scenario breaks at chosen times; the seed chooses hashes, latencies and the moment."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from tests.support.model.verdicts.faults import Faults
from tests.support.model.verdicts.process import Process
from tests.support.model.verdicts.recorder import Recorder
from tests.support.model.verdicts.settings import Rules, Settings
from tests.support.model.verdicts.world import World

BEGIN = 12_000


class Stage:
    """Runs a scenario. Slot 0 becomes the leader, unless told otherwise."""

    def __init__(self, seed: int, rules: Rules, *, routers: int, replicas: int = 1, **settings: Any) -> None:
        self.rng = random.Random(seed)
        self.world = World(seed, routers=routers, replicas=replicas, settings=Settings(**settings), rules=rules)
        self.recorder = Recorder(self.world)
        self.faults = Faults(self.world, self.recorder)
        self.urls = self.world.urls
        self.moment = BEGIN + self.rng.randrange(5000)

    def begin(self) -> None:
        """Register replicas; slot 0 starts a second before the others, so that it leads."""
        for url in self.urls:
            self.world.register(url)
        self.recorder.update_deaths()
        for slot in self.world.slots:
            delay = 1000 + self.rng.randrange(500) if slot else 0
            self.world.after(delay, partial(self.world.start, slot))

    def at(self, time: int, act: Callable[..., object], *arguments: Any, **named: Any) -> None:

        def go() -> None:
            act(*arguments, **named)

        self.world.after(time - self.world.now, go)

    def when(
        self, condition: Callable[[], bool], act: Callable[[], object], *, step: int = 1, until: int = 120_000
    ) -> None:
        """Act at the first moment of a condition."""

        def poll() -> None:
            if condition():
                act()
            elif self.world.now < until:
                self.world.after(step, poll)

        self.world.after(step, poll)

    def after_probe(self, act: Callable[[], object], url: str = "") -> None:
        """Act just after the replica has answered a probe: the worst moment to die."""
        answered = self.recorder.answered_at
        url = url or self.urls[0]
        self.when(
            lambda: self.world.now >= self.moment and self.world.now - answered.get(url, 0) in range(130, 150),
            act,
            step=10,
        )

    def blind(self, slots: list[int], urls: list[str] | None = None, mode: str = "refused") -> None:
        for slot in slots:
            for url in self.urls if urls is None else urls:
                self.faults.blind(slot, url, mode)

    def unblind(self, slots: list[int], urls: list[str] | None = None) -> None:
        for slot in slots:
            for url in self.urls if urls is None else urls:
                self.faults.unblind(slot, url)

    def kill(self, *slots: int) -> None:
        for slot in slots:
            self.faults.kill(slot)

    def show_healthy(self) -> None:
        """As outcomes of sessions or an operator would have made the replicas."""
        for replica in self.world.namespace.keys.replicas.values():
            replica.status = "healthy"
        for process in self.world.processes.values():
            process.read_all()

    def is_asked(self, url: str = "") -> bool:
        return self.world.namespace.keys.replicas[url or self.urls[0]].suspicion is not None

    def prober_of(self, url: str = "") -> str:
        return self.world.namespace.keys.replicas[url or self.urls[0]].prober

    def status(self, url: str = "") -> str:
        return self.world.namespace.keys.replicas[url or self.urls[0]].status

    def process(self, key: str) -> Process:
        found = self.recorder.by_key(key)
        assert found is not None
        return found

    def mark(self, group: set[int], *slots: int) -> None:
        """Put routers into a group: cut, lossy, mute, deaf, exhausted or lenient."""
        for slot in slots:
            self.faults.set_in(group, slot, is_in=True)

    def unmark(self, group: set[int], *slots: int) -> None:
        for slot in slots:
            self.faults.set_in(group, slot, is_in=False)

    def sessions(
        self, slots: list[int], *, begin: int, end: int, every: int = 1000, clients: Sequence[str] = ("",)
    ) -> None:
        for slot in slots:
            for number, time in enumerate(range(begin, end, every)):
                pick, client = self.rng.randrange(1000), clients[number % len(clients)]

                def come(slot: int = slot, pick: int = pick, client: str = client) -> None:
                    if (process := self.world.processes.get(slot)) is not None:
                        process.sessions.come(pick, client)

                self.at(time + self.rng.randrange(every), come)

    def end(self, time: int, *, quiet_since: int | None = None) -> Recorder:
        if quiet_since is not None:
            self.at(quiet_since, self.recorder.costs.begin_quiet)
        self.world.run(time)
        if quiet_since is not None:
            self.recorder.costs.check_quiet()
        return self.recorder
