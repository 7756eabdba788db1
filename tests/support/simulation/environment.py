"""Gives a process virtual clocks and repeatable randomness. Install it before the package is imported.

The package reads the clocks and the randomness of its process. A simulation replaces those, and nothing of the package.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable
from typing import Any

EPOCH_SECONDS = 1_700_000_000.0
"""What the wall clock shows when the virtual clock shows 0."""


class Environment:
    """The clocks and the randomness of this process.

    Attributes:
        clock: Returns the virtual time in seconds.
        entropy: All bytes that the process takes for random.
    """

    def __init__(self) -> None:
        self.clock: Callable[[], float] = lambda: 0.0
        self.entropy = random.Random(0)

    def install(self) -> None:
        """Replace the clocks and the randomness of this process.

        Raises:
            RuntimeError: The package was imported before, or the order of sets is random.
        """
        if any(name.partition(".")[0] == "shared_registry" for name in sys.modules):
            raise RuntimeError("install the environment before you import the package")
        if os.environ.get("PYTHONHASHSEED") != "0":
            raise RuntimeError("PYTHONHASHSEED must be 0")
        replaced: list[tuple[Any, str, object]] = [
            (time, "monotonic", self._now),
            (time, "perf_counter", self._now),
            (time, "time", lambda: EPOCH_SECONDS + self.clock()),
            (os, "urandom", self._bytes),
            (random, "_urandom", self._bytes),
            (random.Random, "seed", self._seeded(random.Random.seed)),
        ]
        for owner, name, value in replaced:
            setattr(owner, name, value)

    def _now(self) -> float:
        return self.clock()

    def _bytes(self, count: int) -> bytes:
        return self.entropy.randbytes(count)

    def _seeded(self, seed: Callable[..., None]) -> Callable[..., None]:
        """Return a method that takes the seed from here if it gets none."""

        def seed_from_here(self_: random.Random, a: Any = None, version: int = 2) -> None:
            seed(self_, self._bytes(16) if a is None else a, version)

        return seed_from_here
