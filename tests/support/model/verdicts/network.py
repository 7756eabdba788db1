"""Who reaches which replica, and what a probe therefore sees."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

QUICK = 5
UNREACHABLE_AFTER = 500


@dataclass
class Network:
    """The matrix of blind spots, slots x replicas; a slot is a place where routers run one after another.

    How a path or a replica is broken:

    - `refused` answers at once, `silent` never.
    - `off` lets every other probe time out and fails the rest with EHOSTUNREACH, `gone` fails so always.
    - `ports` is a router's own trouble with this replica alone.
    - `listener` is closed, but old connections go on.
    - `sick` fails the health check of all but lenient routers, whose health check is another one.

    Sessions on what is `broken` cannot connect although probes succeed. What is in `crashing` takes sessions, and says
    which of them break: those of some routers, or of some clients.
    """

    timeout: int
    rng: random.Random
    blind: dict[tuple[int, str], str] = field(default_factory=dict)
    dead: dict[str, str] = field(default_factory=dict)
    exhausted: set[int] = field(default_factory=set)
    lenient: set[int] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    crashing: dict[str, Callable[[int, str], bool]] = field(default_factory=dict)
    slowness: int = 20
    lives: dict[str, int] = field(default_factory=dict)
    tries: int = 0

    def restart(self, url: str) -> None:
        """Break every kept connection."""
        self.lives[url] = self.lives.get(url, 0) + 1

    def reaches(self, slot: int, url: str) -> bool:
        """Whether a fresh connection from there works, apart from the router's own trouble."""
        return self._how(slot, url) is None

    def _how(self, slot: int, url: str) -> str | None:
        if (how := self.blind.get((slot, url))) is not None:
            return how
        how = self.dead.get(url)
        return None if how == "sick" and slot in self.lenient else how

    def is_dead_for_all(self, url: str, slots: range) -> bool:
        return all(self._how(slot, url) is not None for slot in slots if slot not in self.lenient)

    def try_fresh(self, slot: int, url: str) -> tuple[str, int]:
        """A probe on a new connection: what it says, `ok`, `failed`, `unsure` or `unreachable`, and after how long."""
        if slot in self.exhausted:
            return "unsure", 1
        how = self._how(slot, url)
        if how is None:
            return "ok", QUICK + self.rng.randrange(self.slowness)
        if how == "ports":
            return "unsure", 1
        self.tries += 1
        if how == "gone" or (how == "off" and self.tries % 2):
            return "unreachable", UNREACHABLE_AFTER
        return "failed", self.timeout if how in ("silent", "off") else QUICK

    def try_kept(self, slot: int, url: str) -> tuple[str, int]:
        """A probe on a connection that was kept, and that the replica has not closed."""
        if self.dead.get(url) == "listener" and (slot, url) not in self.blind:
            return "ok", QUICK
        if self.reaches(slot, url) or self.blind.get((slot, url)) == "ports":
            return "ok", QUICK + self.rng.randrange(self.slowness)
        return self.try_fresh(slot, url)
