"""A router's own trouble, and deaths that show in different ways."""

from __future__ import annotations

from tests.support.model.verdicts.recorder import Recorder
from tests.support.model.verdicts.settings import Rules
from tests.support.model.verdicts.stage import BEGIN, Stage


def nobody_has_descriptors(seed: int, rules: Rules) -> Recorder:
    """No router can open a connection."""
    stage = Stage(seed, rules, routers=3, replicas=2)
    stage.begin()
    stage.at(stage.moment, stage.mark, stage.world.network.exhausted, 0, 1, 2)
    return stage.end(BEGIN + 70_000)


def dead_behind_an_unsure_leader(seed: int, rules: Rules) -> Recorder:
    """The leader has no local ports for one of twelve replicas, and that one dies."""
    stage = Stage(seed, rules, routers=4, replicas=12)
    stage.begin()
    url = stage.urls[0]
    stage.at(stage.moment, stage.blind, [0], [url], "ports")
    stage.at(stage.moment + 100, stage.faults.die, url, "refused")
    if seed % 4 == 1:
        stage.when(lambda: stage.is_asked(url), lambda: stage.kill(1, 2))
    elif seed % 4 == 2:
        stage.mark(stage.world.mute, 1, 2, 3)
        stage.at(stage.moment + 20_000, stage.unblind, [0])
    elif seed % 4 == 3:
        stage.mark(stage.world.network.exhausted, 1)
    return stage.end(BEGIN + 70_000)


def unsure_leader(seed: int, rules: Rules) -> Recorder:
    """The leader of six replicas is out of descriptors; others are well."""
    stage = Stage(seed, rules, routers=3, replicas=6)
    stage.begin()
    stage.at(stage.moment, stage.mark, stage.world.network.exhausted, 0)
    return stage.end(BEGIN + 90_000)


def paused_in_a_probe(seed: int, rules: Rules) -> Recorder:
    """The leader stands still again and again, with probes under way."""
    stage = Stage(seed, rules, routers=2, replicas=3)
    stage.world.network.slowness = 900
    stage.begin()
    for number in range(8):
        begin = BEGIN + number * 7000 + stage.rng.randrange(3000)
        stage.at(begin, stage.faults.pause, 0)
        stage.at(begin + 2600, stage.faults.resume, 0)
    return stage.end(BEGIN + 70_000)


def switched_off(seed: int, rules: Rules) -> Recorder:
    """A machine is switched off: every other probe fails with EHOSTUNREACH."""
    stage = Stage(seed, rules, routers=3)
    stage.begin()
    stage.at(stage.moment, stage.faults.die, stage.urls[0], ("off", "gone")[seed % 2])
    return stage.end(BEGIN + 60_000)


def closed_listener(seed: int, rules: Rules) -> Recorder:
    """A replica closes its listener and keeps old connections; with sessions or without."""
    stage = Stage(seed, rules, routers=3)
    stage.begin()
    if seed % 4 >= 2:  # so that peers have been asked, and keep connections
        stage.at(3000, stage.blind, [0])
        stage.at(11_000, stage.unblind, [0])
    stage.at(stage.moment, stage.faults.die, stage.urls[0], "listener")
    if seed % 2:
        stage.sessions([1, 2], begin=stage.moment, end=BEGIN + 60_000)
    return stage.end(BEGIN + 70_000)


def dead(seed: int, rules: Rules) -> Recorder:
    """A replica dies, for routers of several thresholds."""
    stage = Stage(seed, rules, routers=2 + seed % 3, failure=1 + seed % 4)
    stage.begin()
    mode = ("silent", "refused")[seed // 4 % 2]
    stage.after_probe(lambda: stage.faults.die(stage.urls[0], mode))
    return stage.end(BEGIN + 45_000)
