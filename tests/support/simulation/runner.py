"""Runs the simulations of seeds, and finds the shortest schedule with which one still fails."""

from __future__ import annotations

import contextlib
import gc
import random
import sys
from collections.abc import Iterator, Sequence

from tests.support.simulation.environment import Environment
from tests.support.simulation.faults import Fault
from tests.support.simulation.lua_runner import LuaRunner
from tests.support.simulation.world import World

COLLECTED_AFTER = 5
"""Simulations after which memory is freed. Nothing else frees it, so that it happens at the same moment in each run."""


class Runner:
    """Runs one simulation after the other in this process."""

    def __init__(self, environment: Environment, *, shrinks: bool = True) -> None:
        """Run nothing yet.

        Args:
            environment: The environment of this process.
            shrinks: Whether reports show the shortest schedule, and not the whole one.
        """
        self._shrinks = shrinks
        self._environment = environment
        self._lua = LuaRunner()
        self._runs = 0

    def run(self, seed: int, faults: Sequence[Fault]) -> list[str]:
        """Return what a seed violates with these faults."""
        self._environment.entropy = random.Random(f"{seed} entropy")
        random.seed(f"{seed} shared")
        world = World(seed, self._lua)
        self._environment.clock = world.loop.time
        problems = world.run(faults)
        self._runs += 1
        if self._runs % COLLECTED_AFTER == 0:
            with _quiet():
                del world
                self._lua.collect()
                gc.collect()
        return problems

    def shrink(self, seed: int, faults: Sequence[Fault], problems: list[str]) -> tuple[list[Fault], list[str]]:
        """Return as few of the faults as possible with which the seed still fails, and what it violates then.

        Args:
            seed: The seed.
            faults: Faults with which it fails.
            problems: What it violates with these.
        """
        kept = list(faults)
        size = max(1, len(kept) // 2)
        while True:
            at = 0
            while at < len(kept):
                fewer = kept[:at] + kept[at + size :]
                if found := self.run(seed, fewer):
                    kept, problems = fewer, found
                else:
                    at += size
            if size == 1:
                return kept, problems
            size //= 2

    def report(self, seed: int, faults: Sequence[Fault], problems: list[str], options: str = "") -> str:
        """Return what to print about a seed that fails with these faults.

        Args:
            seed: The seed.
            faults: Its faults.
            problems: What it violates.
            options: Further options of the command that repeats it.
        """
        kept: Sequence[Fault] = faults
        if self._shrinks:
            kept, problems = self.shrink(seed, faults, problems)
        numbers = ",".join(str(fault.number) for fault in kept) or "none"
        return "\n".join(
            [
                f"seed {seed} fails:",
                *(f"  {fault}" for fault in kept),
                *(f"  => {problem[:600]}" for problem in problems[:4]),
                f"  repeat it: python -m tests.tools.simulate {seed} --only {numbers}{options}",
            ]
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Do not print that coroutines of killed routers cannot clean up when they are deleted."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        yield
    finally:
        sys.unraisablehook = hook
