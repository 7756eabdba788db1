"""Sessions that fail, and sessions that need a place."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.model.verdicts.recorder import Recorder
from tests.support.model.verdicts.seating import Seating
from tests.support.model.verdicts.settings import Rules
from tests.support.model.verdicts.stage import BEGIN, Stage


def sessions_of_a_blind_router(seed: int, rules: Rules) -> Recorder:
    """Two routers and the first leader do not reach one of three replicas, and sessions come to the two."""
    stage = Stage(seed, rules, routers=4, replicas=3)
    stage.begin()
    stage.at(stage.moment, stage.blind, [0, 2, 3], stage.urls[:1])
    stage.sessions([2, 3], begin=BEGIN, end=BEGIN + 30_000, every=400)
    return stage.end(BEGIN + 40_000)


def sessions_of_two_blind_machines(seed: int, rules: Rules) -> Recorder:
    """Two routers do not reach a replica, the leader does; sessions come to the two alone, or to all."""
    stage = Stage(seed, rules, routers=4, replicas=3)
    stage.begin()
    stage.at(stage.moment, stage.blind, [2, 3], stage.urls[:1])
    stage.sessions([2, 3] if seed % 2 == 0 else [0, 1, 2, 3], begin=BEGIN, end=BEGIN + 60_000, every=400)
    stage.at(BEGIN + 65_000, stage.recorder.costs.forbid_ejections)
    return stage.end(BEGIN + 70_000)


def broken_sessions(seed: int, rules: Rules) -> Recorder:
    """Sessions fail although probes succeed, on all replicas or on one, for some time."""
    stage = Stage(seed, rules, routers=4, replicas=4)
    stage.begin()
    broken = stage.urls if seed % 2 else stage.urls[:1]
    stage.at(stage.moment, stage.world.network.broken.update, broken)
    stage.at(BEGIN + 30_000, stage.world.network.broken.clear)
    stage.sessions([1, 2, 3], begin=BEGIN, end=BEGIN + 90_000, every=700)
    stage.recorder.costs.watch_ejections(BEGIN + 30_000)
    return stage.end(BEGIN + 150_000)


def crashing_sessions(seed: int, rules: Rules) -> Recorder:
    """Connected sessions break although probes succeed, on one replica, for some time."""
    stage = Stage(seed, rules, routers=3, replicas=3)
    stage.begin()
    stage.at(stage.moment, _crash, stage, lambda *_: True)
    stage.at(BEGIN + 30_000, stage.world.network.crashing.clear)
    stage.sessions([1, 2], begin=BEGIN, end=BEGIN + 90_000, every=500, clients="abc")
    stage.recorder.costs.watch_ejections(BEGIN + 30_000)
    return stage.end(BEGIN + 150_000)


def one_clients_sessions_crash(seed: int, rules: Rules) -> Recorder:
    """All sessions are of one client, whose requests no replica can handle."""
    stage = Stage(seed, rules, routers=3, replicas=2)
    stage.begin()
    stage.at(stage.moment, _crash, stage, lambda *_: True)
    stage.sessions([1, 2], begin=BEGIN, end=BEGIN + 40_000, every=500, clients="a")
    stage.at(BEGIN + 45_000, stage.recorder.costs.forbid_ejections)
    return stage.end(BEGIN + 50_000)


def every_other_session_crashes(seed: int, rules: Rules) -> Recorder:
    """Sessions of two clients break, and those of two others are served."""
    stage = Stage(seed, rules, routers=3, replicas=1)
    stage.begin()
    stage.at(stage.moment, _crash, stage, lambda _, client: client in "ac")
    stage.sessions([1], begin=BEGIN, end=BEGIN + 40_000, every=1000, clients="abcd")
    stage.at(BEGIN + 45_000, stage.recorder.costs.forbid_ejections)
    return stage.end(BEGIN + 50_000)


def sessions_of_one_router_crash(seed: int, rules: Rules) -> Recorder:
    """All sessions of one router break, in bursts, and those of another are served."""
    stage = Stage(seed, rules, routers=3, replicas=1)
    stage.begin()
    stage.at(stage.moment, _crash, stage, lambda slot, _: slot == 1)
    for burst in range(BEGIN, BEGIN + 40_000, 8000):
        stage.sessions([1], begin=burst, end=burst + 800, every=100, clients="abc")
    stage.sessions([2], begin=BEGIN, end=BEGIN + 40_000, every=200)
    stage.at(BEGIN + 45_000, stage.recorder.costs.forbid_ejections)
    return stage.end(BEGIN + 50_000)


def _crash(stage: Stage, breaks: Callable[[int, str], bool]) -> None:
    stage.world.network.crashing[stage.urls[0]] = breaks


def nobody_probes(seed: int, rules: Rules) -> Recorder:
    """No router runs health checks; one of three fails to reach what the others reach."""
    stage = Stage(seed, rules, routers=3)
    stage.world.probing_slots.clear()
    stage.begin()
    stage.at(4000, stage.show_healthy)
    stage.at(stage.moment, stage.blind, [0])
    stage.sessions([0], begin=6000, end=BEGIN + 40_000, every=900)
    stage.sessions([1, 2], begin=6000, end=BEGIN + 40_000, every=3500)
    return stage.end(BEGIN + 40_000)


def panic(seed: int, rules: Rules) -> Recorder:
    """The only prober loses most of its network, some replicas are dead, and sessions come to another router."""
    stage = Stage(seed, rules, routers=2, replicas=7, answered_within=60_000)
    stage.world.probing_slots -= {1}
    long_dead = stage.urls[6]
    stage.world.network.dead[long_dead] = "refused"
    stage.begin()
    stage.at(stage.moment, stage.blind, [0], stage.urls[1:])
    stage.at(stage.moment + 9000, stage.faults.die, stage.urls[5], "refused")
    if seed % 2:
        stage.at(stage.moment + 30_000, stage.unblind, [0], stage.urls[2:6])
    seating = Seating(stage.recorder)
    for time in range(4000, BEGIN + 60_000, 1300):
        stage.at(time + stage.rng.randrange(1000), seating.come, 1)
    stage.at(BEGIN + 70_000, seating.check_waits, 3000)
    return stage.end(BEGIN + 75_000)


def the_fleet_dies(seed: int, rules: Rules) -> Recorder:
    """All replicas die, and sessions go on coming."""
    stage = Stage(seed, rules, routers=2, replicas=6)
    stage.begin()
    for url in stage.urls:
        stage.at(stage.moment, stage.faults.die, url, "refused")
    seating = Seating(stage.recorder)
    for number in range(10):
        stage.at(BEGIN + 20_000 + number * 1000, seating.come, number % 2)
    return stage.end(BEGIN + 40_000)


def crowded(seed: int, rules: Rules) -> Recorder:
    """One of four replicas is dead, and the others are full."""
    stage = Stage(seed, rules, routers=2, replicas=4)
    stage.begin()
    stage.at(stage.moment, stage.faults.die, stage.urls[0], "refused")
    seating = Seating(stage.recorder)
    for time in range(4000, BEGIN + 30_000, 700):
        stage.at(time, seating.come, time % 2)
    return stage.end(BEGIN + 40_000)
