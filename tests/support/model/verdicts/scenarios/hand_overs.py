"""What happens to a replica that was handed over."""

from __future__ import annotations

from tests.support.model.verdicts.recorder import Recorder
from tests.support.model.verdicts.settings import Rules
from tests.support.model.verdicts.stage import BEGIN, Stage


def dead_after_a_hand_over(seed: int, rules: Rules) -> Recorder:
    """A replica is handed over, and dies; the router that has it is well, dies too, or is out of descriptors."""
    stage = Stage(seed, rules, routers=4, replicas=8)
    stage.begin()
    url = stage.urls[0]
    stage.at(stage.moment, stage.blind, [0], [url])

    def die() -> None:
        heir = stage.process(stage.prober_of(url)).slot
        if seed % 4 == 1:
            stage.faults.kill(heir)
        elif seed % 4 == 2:
            stage.mark(stage.world.network.exhausted, heir)
        elif seed % 4 == 3:
            stage.world.mute |= {1, 2, 3} - {heir}
        stage.faults.die(url, ("refused", "silent")[seed // 4 % 2])

    def later() -> None:
        stage.at(
            stage.world.now + 11_000 + stage.rng.randrange(5000),
            stage.after_probe,
            lambda: die() if stage.prober_of(url) else None,
            url,
        )

    stage.when(lambda: stage.world.now > stage.moment and stage.prober_of(url) != "", later)
    return stage.end(BEGIN + 90_000)
