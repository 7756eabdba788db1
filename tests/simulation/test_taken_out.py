"""The simulation notices when one of the package's rules against faults is missing."""

from __future__ import annotations

import pytest

from tests.simulation.test_simulation import simulate

SEEDS = ("1", "60")
"""As many as the rule needs that is found last."""


@pytest.mark.timeout(300)
def test_without_any_of_these_rules_a_promise_breaks() -> None:
    done = simulate(*SEEDS, "--whole", "--without", "all")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("without the rule that") > 10
