"""Many replicas at once."""

from __future__ import annotations

from tests.support.model.verdicts.recorder import Recorder
from tests.support.model.verdicts.settings import Rules
from tests.support.model.verdicts.stage import BEGIN, Stage


def all_die_at_once(seed: int, rules: Rules) -> Recorder:
    """A hundred and sixty replicas die at once; there is one router, or there are three."""
    stage = Stage(seed, rules, routers=1 + 2 * (seed % 2), replicas=160)
    stage.begin()
    for url in stage.urls:
        stage.at(stage.moment, stage.faults.die, url, "refused")
    return stage.end(BEGIN + 30_000)
