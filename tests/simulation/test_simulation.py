"""Routers on virtual time keep every promise of `settled` and `watch`, whatever the faults of many seeds.

`python -m tests.tools.simulate` runs any seeds. It prints the shortest schedule with which a seed fails.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from tests.support.effort import IS_LONG, TIMEOUT_SECONDS, some_of

SEEDS = 120
MINUTES = float(os.environ.get("SIMULATION_MINUTES", "10"))
"""How long `make test-long` tries new seeds."""
SOME_SEEDS = ("10", "14")
pytestmark = pytest.mark.timeout(60 * MINUTES + 120 if IS_LONG else TIMEOUT_SECONDS)


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it in a process of its own: it replaces the clocks and the randomness of its process."""
    command = [sys.executable, "-m", "tests.tools.simulate", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONHASHSEED": "0"}
    )


def test_every_promise_holds_over_many_seeds() -> None:
    seeds = (str(int(time.time())), "--minutes", str(MINUTES)) if IS_LONG else ("1", str(some_of(SEEDS)))
    done = simulate(*seeds)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_seed_runs_the_same_each_time() -> None:
    first, second = (simulate(*SOME_SEEDS, "--log", "debug") for _ in range(2))
    assert first.stderr.count("executed") == 5
    assert first.stderr == second.stderr
