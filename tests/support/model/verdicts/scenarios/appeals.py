"""What is unhealthy or new, and reached by some."""

from __future__ import annotations

from tests.support.model.verdicts.recorder import Recorder
from tests.support.model.verdicts.settings import Rules
from tests.support.model.verdicts.stage import BEGIN, Stage


def new_and_the_leader_is_blind(seed: int, rules: Rules) -> Recorder:
    """A replica is registered that the leader does not reach, or has no local ports for."""
    stage = Stage(seed, rules, routers=3, replicas=8)
    stage.blind([0], stage.urls[:1], ("refused", "silent", "ports")[seed % 3])
    stage.begin()
    return stage.end(BEGIN + 50_000)


def asked_are_blind(seed: int, rules: Rules) -> Recorder:
    """Leader and asked routers do not reach it, all others do. It lasts."""
    stage = Stage(seed, rules, routers=7, replicas=8)
    stage.begin()
    url = stage.urls[0]
    stage.at(stage.moment, stage.blind, [0], [url])

    def blind_asked() -> None:
        question = stage.world.namespace.keys.replicas[url].suspicion
        assert question is not None
        for key in question.asked:
            slot = stage.process(key).slot
            stage.world.network.blind[slot, url] = "refused"

    stage.when(lambda: stage.is_asked(url), blind_asked)
    stage.at(BEGIN + 139_000, stage.recorder.costs.check_disagreement, stage.moment, 3)
    return stage.end(BEGIN + 140_000, quiet_since=BEGIN + 100_000)


def back_for_moments(seed: int, rules: Rules) -> Recorder:
    """A replica that was dead for long answers now and then, for less than a second."""
    stage = Stage(seed, rules, routers=4)
    stage.begin()
    url = stage.urls[0]
    stage.at(BEGIN, stage.faults.die, url, "refused")
    for number in range(25):
        begin = BEGIN + 30_000 + number * 2100 + stage.rng.randrange(1000)
        stage.at(begin, stage.faults.revive, url)
        stage.at(begin + 700, stage.faults.die, url, "refused")
    return stage.end(BEGIN + 85_000)
