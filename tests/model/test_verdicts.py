"""Verdicts by several routers, as a model in virtual time: random faults and directed ones, checked at every event.

`namespace.py` in `tests/support/model/verdicts` is what the Lua scripts do, the other files there are routers, network
and faults. The checks know what probes really saw. What they check:

- S1: a healthy replica turns unhealthy only after failures of its prober, and after other routers were asked.
- S2: a word of another incarnation or question, or a repeated one, changes nothing.
- S3: a question changes no ready set; among peers a session changes no status.
- S4: a router that had to be asked and reaches the replica keeps it healthy.
- L1, L2, L3: what is dead for all turns unhealthy in time, what is reached turns healthy, and somebody leads.
- C: questions, opinions, events and commands are few, and where nothing changes there are none.
- V7, V9, V10, V11, V13: what the rule of that name promises besides.
"""

from __future__ import annotations

import pytest

from tests.support.effort import PROFILE, takes_long
from tests.support.model.verdicts.every_scenario import SCENARIOS
from tests.support.model.verdicts.mutations import MISSED_IN
from tests.support.model.verdicts.rules import RULES
from tests.support.model.verdicts.settings import ALL_RULES, Rules
from tests.support.model.verdicts.trial import random_trial

TRIALS = {"quick": 25, "ci": 100, "long": 1500}[PROFILE]
SEEDS = {"quick": 2, "ci": 8, "long": 60}[PROFILE]


@takes_long
@pytest.mark.parametrize("part", range(8))
def test_every_promise_holds_under_random_faults(part: int) -> None:
    for seed in range(part * TRIALS, (part + 1) * TRIALS):
        assert random_trial(seed).violations == [], f"seed {seed}"


@takes_long
@pytest.mark.parametrize("name", SCENARIOS)
def test_every_promise_holds_in_this_trouble(name: str) -> None:
    for seed in range(SEEDS):
        assert SCENARIOS[name](seed, ALL_RULES).violations == [], f"seed {seed}"


@pytest.mark.parametrize("rule", RULES)
def test_without_this_rule_a_promise_breaks(rule: str) -> None:
    scenario, seed, check = MISSED_IN[rule]
    broken = {name for name, _, _ in SCENARIOS[scenario](seed, Rules(frozenset({rule}))).violations}
    assert check in broken
    assert SCENARIOS[scenario](seed, ALL_RULES).violations == []


def test_a_schedule_is_the_same_by_its_seed() -> None:
    first, second = random_trial(7), random_trial(7)
    assert first.world.namespace.keys.stream == second.world.namespace.keys.stream
    assert first.counts == second.counts
