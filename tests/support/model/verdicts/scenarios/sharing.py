"""Shared probing, while routers come and go."""

from __future__ import annotations

from tests.support.model.verdicts.recorder import Recorder
from tests.support.model.verdicts.settings import Rules
from tests.support.model.verdicts.stage import BEGIN, Stage


def shared(seed: int, rules: Rules) -> Recorder:
    """The work is shared; participants die, stand still or come while replicas die."""
    stage = Stage(seed, rules, routers=4, replicas=6, is_shared=True)
    stage.begin()
    slot = 1 + seed % 3
    harm = (stage.faults.kill, stage.faults.pause, stage.faults.leave)[seed // 3 % 3]
    stage.at(stage.moment, harm, slot)
    back = stage.moment + 2000 + stage.rng.randrange(12_000)
    stage.at(back, stage.faults.resume, slot)
    stage.at(back, stage.faults.start, slot)
    for url in stage.urls[:4]:
        stage.at(
            stage.moment - 2000 + stage.rng.randrange(20_000), stage.faults.die, url, ("refused", "silent")[seed % 2]
        )
    return stage.end(BEGIN + 70_000)


def shared_in_churn(seed: int, rules: Rules) -> Recorder:
    """The work is shared; two of six routers come and go every other second, and the others learn of plans late."""
    stage = Stage(seed, rules, routers=6, replicas=6, is_shared=True)
    stage.begin()
    if seed % 2:
        stage.at(9000, stage.mark, stage.world.deaf, 0, 1, 2, 3)
    for time in range(BEGIN - 1000, BEGIN + 40_000, 2000):
        slot = 4 + time // 2000 % 2
        stage.at(time, stage.faults.start, slot)
        stage.at(time + 1500, stage.faults.leave, slot)
    for url in stage.urls[:4]:
        stage.at(
            stage.moment + stage.rng.randrange(10_000), stage.faults.die, url, ("refused", "silent")[seed // 2 % 2]
        )
    stage.end(BEGIN + 60_000)
    if stage.recorder.worst["L1 raw"] > 25_000:
        stage.recorder.violate("L1", f"dead and healthy for {stage.recorder.worst['L1 raw']} ms while plans change")
    return stage.recorder


def shared_and_blind(seed: int, rules: Rules) -> Recorder:
    """The work is shared; one participant, the leader at first, reaches nothing."""
    stage = Stage(seed, rules, routers=4, replicas=6, is_shared=True)
    stage.begin()
    stage.at(stage.moment, stage.blind, [seed % 2])
    return stage.end(BEGIN + 120_000, quiet_since=BEGIN + 90_000)
