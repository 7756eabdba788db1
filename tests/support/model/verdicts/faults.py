"""What breaks, when and for how long: by a seed."""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.support.model.verdicts.recorder import Recorder
from tests.support.model.verdicts.world import World

MODES = ("refused", "silent", "off")


class Faults:
    """Breaks and mends a world, and tells the recorder."""

    def __init__(self, world: World, recorder: Recorder) -> None:
        self.world = world
        self.recorder = recorder

    def at(self, time: int, act: Callable[[], None]) -> None:
        self.world.after(time - self.world.now, act)

    # replicas and paths

    def blind(self, slot: int, url: str, mode: str) -> None:
        self.world.network.blind[slot, url] = mode
        self._changed(url, [slot])

    def unblind(self, slot: int, url: str) -> None:
        if self.world.network.blind.pop((slot, url), None):
            self._changed(url, [slot])

    def die(self, url: str, mode: str) -> None:
        self.revive(url)  # what shows a death differently is another death
        self.world.network.dead[url] = mode
        if mode != "listener":
            self.world.network.restart(url)
        self._changed(url, list(self.world.slots))

    def revive(self, url: str) -> None:
        if self.world.network.dead.pop(url, None):
            self._changed(url, list(self.world.slots))

    def _changed(self, url: str, slots: list[int]) -> None:
        for slot in slots:
            self.recorder.path_changed(slot, url)
        self.recorder.update_deaths()

    def register(self, url: str) -> None:
        self.world.network.restart(url)
        self.world.register(url)

    def set_admin(self, url: str, admin: str) -> None:
        self.world.execute(None, "set_admin", (url, admin))

    # routers

    def kill(self, slot: int) -> None:
        self.world.kill(slot)
        self.recorder.disturb(slot)

    def start(self, slot: int) -> None:
        if slot not in self.world.processes:
            self.world.start(slot)
            self.recorder.disturb(slot)

    def leave(self, slot: int) -> None:
        if (process := self.world.processes.get(slot)) is not None:
            self.kill(slot)
            self.world.execute(process, "leave", (process.key,))

    def pause(self, slot: int) -> None:
        self.world.pause(slot)
        self.recorder.disturb(slot)

    def resume(self, slot: int) -> None:
        self.world.resume(slot)
        self.recorder.disturb(slot)

    def set_in(self, group: set[int], slot: int, *, is_in: bool) -> None:
        (group.add if is_in else group.discard)(slot)
        self.recorder.disturb(slot)

    # Redis

    def stop_redis(self) -> None:
        self.world.is_redis_up = False
        self.recorder.outage_at = self.world.now

    def start_redis(self) -> None:
        self.world.is_redis_up = True
        self.recorder.redis_since = self.world.now

    def shift_clock(self, by: int) -> None:
        self.world.clock_skew += by
        self.recorder.clock_at = self.world.now
        self.recorder.clock_shift = by


class Schedule:
    """Random faults in a span of time."""

    def __init__(self, faults: Faults, rng: random.Random, *, begin: int, end: int, is_lasting: bool) -> None:
        self.faults = faults
        self.rng = rng
        self.begin = begin
        self.end = end
        self.is_lasting = is_lasting

    def fill(self, number: int) -> None:
        kinds: list[tuple[int, Callable[[int, int], None]]] = [
            (6, self._blind),
            (4, self._dead),
            (2, self._kill),
            (2, self._pause),
            (1, self._outage),
            (2, self._cut),
            (1, self._lossy),
            (1, self._exhausted),
            (1, self._register),
            (1, self._admin),
            (1, self._clock),
        ]
        weights = [weight for weight, _ in kinds]
        for _ in range(number):
            (_, kind) = self.rng.choices(kinds, weights)[0]
            begin = self.rng.randrange(self.begin, self.end)
            kind(begin, min(self.end, begin + int(self.rng.expovariate(1 / 12_000)) + 200))

    def _slot(self) -> int:
        return self.rng.choice(list(self.faults.world.slots))

    def _url(self) -> str:
        return self.rng.choice(self.faults.world.urls)

    def _blind(self, begin: int, end: int) -> None:
        faults, slot, mode = self.faults, self._slot(), self.rng.choice(MODES)
        urls = self.faults.world.urls if self.rng.random() < 0.3 else [self._url()]
        slots = [slot, self._slot()] if self.rng.random() < 0.3 else [slot]
        for one in slots:
            for url in urls:
                faults.at(begin, lambda one=one, url=url: faults.blind(one, url, mode))  # type: ignore[misc]
                if not self.is_lasting:
                    faults.at(end, lambda one=one, url=url: faults.unblind(one, url))  # type: ignore[misc]

    def _dead(self, begin: int, end: int) -> None:
        faults, url = self.faults, self._url()
        mode = self.rng.choice((*MODES, "listener"))
        faults.at(begin, lambda: faults.die(url, mode))
        if not self.is_lasting or self.rng.random() < 0.5:
            faults.at(end, lambda: faults.revive(url))

    def _kill(self, begin: int, end: int) -> None:
        faults, slot = self.faults, self._slot()
        faults.at(begin, lambda: faults.leave(slot) if slot % 2 else faults.kill(slot))
        faults.at(end, lambda: faults.start(slot))

    def _pause(self, begin: int, end: int) -> None:
        faults, slot = self.faults, self._slot()
        faults.at(begin, lambda: faults.pause(slot))
        faults.at(end, lambda: faults.resume(slot))

    def _outage(self, begin: int, end: int) -> None:
        faults = self.faults
        faults.at(begin, faults.stop_redis)
        faults.at(end, faults.start_redis)

    def _in(self, group: set[int], begin: int, end: int) -> None:
        faults, slot = self.faults, self._slot()
        faults.at(begin, lambda: faults.set_in(group, slot, is_in=True))
        faults.at(end, lambda: faults.set_in(group, slot, is_in=False))

    def _cut(self, begin: int, end: int) -> None:
        self._in(self.faults.world.cut, begin, end)

    def _lossy(self, begin: int, end: int) -> None:
        self._in(self.faults.world.lossy, begin, end)

    def _exhausted(self, begin: int, end: int) -> None:
        self._in(self.faults.world.network.exhausted, begin, end)

    def _register(self, begin: int, end: int) -> None:
        faults, url = self.faults, self._url()
        faults.at(begin, lambda: faults.register(url))

    def _admin(self, begin: int, end: int) -> None:
        faults, url = self.faults, self._url()
        faults.at(begin, lambda: faults.set_admin(url, "disabled"))
        faults.at(end, lambda: faults.set_admin(url, "active"))

    def _clock(self, begin: int, end: int) -> None:
        faults, by = self.faults, self.rng.choice((-60_000, -2_000, 2_000, 60_000))
        faults.at(begin, lambda: faults.shift_clock(by))
