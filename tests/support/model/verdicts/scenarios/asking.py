"""Which routers are asked, and which should lead: blind leaders, machines, routers that are no peers."""

from __future__ import annotations

from tests.support.model.verdicts.recorder import Recorder
from tests.support.model.verdicts.settings import Rules
from tests.support.model.verdicts.stage import BEGIN, Stage


def beside_routers_that_do_not_probe(seed: int, rules: Rules) -> Recorder:
    """A replica dies; three of five routers run no health checks."""
    stage = Stage(seed, rules, routers=5)
    stage.world.probing_slots -= {2, 3, 4}
    stage.begin()
    stage.at(stage.moment, stage.faults.die, stage.urls[0], "refused")
    return stage.end(BEGIN + 40_000)


def beside_a_lenient_router(seed: int, rules: Rules) -> Recorder:
    """A replica falls sick; one router's health check does not notice."""
    stage = Stage(seed, rules, routers=3)
    stage.world.network.lenient = {2}
    stage.world.prints[2] = "another"
    stage.begin()
    stage.at(stage.moment, stage.faults.die, stage.urls[0], "sick")
    return stage.end(BEGIN + 60_000, quiet_since=BEGIN + 40_000)


def a_blind_machine(seed: int, rules: Rules) -> Recorder:
    """The leader's machine, with four more workers, reaches nothing; one router elsewhere does."""
    stage = Stage(seed, rules, routers=6, replicas=2)
    stage.world.machines |= dict.fromkeys((1, 2, 3, 4), "m0")
    stage.begin()
    stage.at(stage.moment, stage.blind, [0, 1, 2, 3, 4])
    return stage.end(BEGIN + 60_000)


def one_of_six_reaches_it(seed: int, rules: Rules) -> Recorder:
    """A leader and four peers are blind to one of eight replicas; one peer reaches it. It lasts."""
    stage = Stage(seed, rules, routers=6, replicas=8)
    stage.begin()
    stage.at(stage.moment, stage.blind, [0, 1, 2, 3, 4], stage.urls[:1])
    return stage.end(BEGIN + 150_000, quiet_since=BEGIN + 120_000)


def blind_leader(seed: int, rules: Rules) -> Recorder:
    """The leader alone does not reach one of twelve replicas. It lasts."""
    stage = Stage(seed, rules, routers=3, replicas=12, failure=3 - seed % 3)
    stage.begin()
    stage.at(stage.moment, stage.blind, [0], stage.urls[:1], "silent" if seed % 2 else "refused")
    stage.at(BEGIN + 99_000, stage.recorder.costs.check_disagreement, stage.moment, 4)
    return stage.end(BEGIN + 100_000, quiet_since=BEGIN + 40_000)


def blind_leader_recovers(seed: int, rules: Rules) -> Recorder:
    """As before, and then it reaches the replica again: nothing costs anything."""
    stage = Stage(seed, rules, routers=3, replicas=12)
    stage.begin()
    stage.at(stage.moment, stage.blind, [0], stage.urls[:1])
    stage.at(BEGIN + 40_000, stage.unblind, [0])
    return stage.end(BEGIN + 100_000, quiet_since=BEGIN + 60_000)


def leader_reaches_nothing(seed: int, rules: Rules) -> Recorder:
    """The leader's network is gone, but for Redis."""
    stage = Stage(seed, rules, routers=4, replicas=6)
    stage.begin()
    stage.at(stage.moment, stage.blind, [0], None, "silent" if seed % 2 else "refused")
    return stage.end(BEGIN + 100_000, quiet_since=BEGIN + 70_000)


def two_blind_leaders(seed: int, rules: Rules) -> Recorder:
    """The leader is blind and dies; so is the next one."""
    stage = Stage(seed, rules, routers=3, replicas=1)
    stage.begin()
    stage.at(stage.moment, stage.blind, [0, 1])
    stage.at(stage.moment + 3000 + seed % 4 * 1000, stage.faults.kill, 0)
    return stage.end(BEGIN + 60_000)


def each_blind_to_half(seed: int, rules: Rules) -> Recorder:
    """Two routers, each blind to another half."""
    stage = Stage(seed, rules, routers=2, replicas=4)
    stage.begin()
    stage.at(stage.moment, stage.blind, [0], stage.urls[:2])
    stage.at(stage.moment, stage.blind, [1], stage.urls[2:])
    return stage.end(BEGIN + 120_000, quiet_since=BEGIN + 90_000)


def resigned_and_alone(seed: int, rules: Rules) -> Recorder:
    """A leader resigns as it was wrong, and then its successor dies."""
    stage = Stage(seed, rules, routers=2, replicas=2)
    stage.begin()
    stage.at(stage.moment, stage.blind, [0])
    stage.when(
        lambda: 0 in stage.world.processes and stage.world.processes[0].leader.startswith("r1"),
        lambda: stage.at(stage.world.now + 2000, stage.faults.kill, 1),
    )
    return stage.end(BEGIN + 60_000)


def resigned_and_another(seed: int, rules: Rules) -> Recorder:
    """A leader resigns as it was wrong; its successor dies, and a third router might lead."""
    stage = Stage(seed, rules, routers=3, replicas=2)
    stage.begin()
    stage.at(stage.moment, stage.blind, [0])

    def kill_leader() -> None:
        lock = stage.world.namespace.keys.leader
        if lock is not None and not lock.router.startswith("r0"):
            stage.faults.kill(int(lock.router[1]))

    stage.at(BEGIN + 18_000, kill_leader)
    return stage.end(BEGIN + 60_000)
