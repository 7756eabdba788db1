"""What ends a question, and what must not: silence, outages, clocks, registrations and late opinions."""

from __future__ import annotations

from tests.support.model.verdicts.recorder import Recorder
from tests.support.model.verdicts.settings import Rules
from tests.support.model.verdicts.stage import BEGIN, Stage


def nobody_answers(seed: int, rules: Rules) -> Recorder:
    """A replica dies while no opinion arrives."""
    stage = Stage(seed, rules, routers=3)
    stage.begin()
    stage.mark(stage.world.mute, 1, 2)
    stage.at(stage.moment, stage.faults.die, stage.urls[0], ("refused", "silent")[seed % 2])
    stage.world.mute |= {1, 2}
    return stage.end(BEGIN + 60_000)


def asked_and_deaf(seed: int, rules: Rules) -> Recorder:
    """The leader is blind; the only peer receives no events."""
    stage = Stage(seed, rules, routers=2)
    stage.begin()
    stage.at(6000, stage.mark, stage.world.deaf, 1)
    stage.at(stage.moment, stage.blind, [0])
    return stage.end(BEGIN + 40_000)


def outage_in_a_question(seed: int, rules: Rules) -> Recorder:
    """The leader is blind; when it has asked, Redis is away for some time."""
    stage = Stage(seed, rules, routers=4, replicas=3)
    stage.begin()
    stage.at(stage.moment, stage.blind, [0], None, "silent" if seed % 3 == 0 else "refused")
    away = 3000 + stage.rng.randrange(12_000)

    def stop() -> None:
        stage.faults.stop_redis()
        stage.at(stage.world.now + away, stage.faults.start_redis)

    if seed % 2:
        stage.when(stage.is_asked, stop)
    else:
        stage.at(stage.moment + stage.rng.randrange(8000), stop)
    return stage.end(BEGIN + 70_000)


def clock_in_a_question(seed: int, rules: Rules) -> Recorder:
    """The leader is blind; when it has asked, the clock of Redis jumps."""
    stage = Stage(seed, rules, routers=3, replicas=2)
    stage.begin()
    stage.at(stage.moment, stage.blind, [0])
    stage.when(stage.is_asked, lambda: stage.faults.shift_clock((60_000, -60_000, 5000, -5000)[seed % 4]))
    return stage.end(BEGIN + 60_000)


def disabled_in_a_question(seed: int, rules: Rules) -> Recorder:
    """A replica is disabled while peers are asked, and is active again half a minute later, with a blind leader."""
    stage = Stage(seed, rules, routers=3)
    stage.begin()
    url = stage.urls[0]
    stage.at(stage.moment, stage.blind, [0])
    stage.mark(stage.world.mute, 1, 2)
    stage.when(stage.is_asked, lambda: stage.faults.set_admin(url, "disabled"))
    stage.at(BEGIN + 20_000, stage.unmark, stage.world.mute, 1, 2)
    stage.at(BEGIN + 40_000, stage.faults.set_admin, url, "active")
    return stage.end(BEGIN + 70_000)


def registered_in_a_question(seed: int, rules: Rules) -> Recorder:
    """A dead replica is registered anew while peers are asked."""
    stage = Stage(seed, rules, routers=3)
    stage.begin()
    stage.at(stage.moment, stage.faults.die, stage.urls[0], "silent")
    stage.mark(stage.world.mute, 1, 2)

    def register() -> None:
        stage.faults.register(stage.urls[0])
        stage.at(stage.world.now + 3000, stage.faults.revive, stage.urls[0])

    stage.when(stage.is_asked, lambda: stage.at(stage.world.now + 1200, register))
    stage.when(stage.is_asked, lambda: stage.at(stage.world.now + 9000, stage.faults.die, stage.urls[0], "silent"))
    return stage.end(BEGIN + 60_000)


def asked_and_late(seed: int, rules: Rules) -> Recorder:
    """An opinion arrives in the next question about the same replica."""
    stage = Stage(seed, rules, routers=4, replicas=8)
    stage.begin()
    url = stage.urls[0]
    stage.at(stage.moment, stage.blind, [0], [url])
    stage.at(stage.moment, stage.blind, [1], [url], "silent" if seed % 2 else "refused")
    stage.world.late[1] = 5000 + stage.rng.randrange(1500)
    is_cleared = "replica_cleared"
    stage.when(
        lambda: stage.world.namespace.keys.stream[-1]["kind"] == is_cleared, lambda: stage.mark(stage.world.mute, 2, 3)
    )
    return stage.end(BEGIN + 50_000)


def said_twice(seed: int, rules: Rules) -> Recorder:
    """Opinions arrive twice; a third router does not answer."""
    stage = Stage(seed, rules, routers=4)
    stage.begin()
    stage.at(stage.moment, stage.blind, [0, 1, 2])
    stage.mark(stage.world.mute, 3)
    stage.world.twice |= {1, 2}
    return stage.end(BEGIN + 40_000)


def a_short_silence(seed: int, rules: Rules) -> Recorder:
    """The leader fails twice and no peer answers; it succeeds, and much later it is blind."""
    stage = Stage(seed, rules, routers=3)
    stage.begin()
    stage.mark(stage.world.mute, 1, 2)
    stage.at(stage.moment, stage.blind, [0])
    stage.when(stage.is_asked, lambda: stage.unblind([0]))
    stage.at(BEGIN + 20_000, stage.unmark, stage.world.mute, 1, 2)
    stage.at(BEGIN + 40_000, stage.blind, [0])
    return stage.end(BEGIN + 70_000)
