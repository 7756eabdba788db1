"""Directed scenarios: each is one kind of trouble that a rule is there for, varied by the seed."""

from __future__ import annotations

from tests.support.model.verdicts.recorder import Recorder
from tests.support.model.verdicts.seating import Seating
from tests.support.model.verdicts.settings import Rules
from tests.support.model.verdicts.stage import BEGIN, Stage

# who is asked


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


# what ends a question


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


# own trouble


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


# after a hand-over


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


# appeals


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


# costs


def all_die_at_once(seed: int, rules: Rules) -> Recorder:
    """A hundred and sixty replicas die at once; there is one router, or there are three."""
    stage = Stage(seed, rules, routers=1 + 2 * (seed % 2), replicas=160)
    stage.begin()
    for url in stage.urls:
        stage.at(stage.moment, stage.faults.die, url, "refused")
    return stage.end(BEGIN + 30_000)


# sessions


def sessions_of_a_blind_router(seed: int, rules: Rules) -> Recorder:
    """Two routers and the first leader do not reach one of three replicas, and sessions come to the two."""
    stage = Stage(seed, rules, routers=4, replicas=3)
    stage.begin()
    stage.at(stage.moment, stage.blind, [0, 2, 3], stage.urls[:1])
    stage.sessions([2, 3], begin=BEGIN, end=BEGIN + 30_000, every=400)
    return stage.end(BEGIN + 40_000)


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


# shared probing


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


SCENARIOS = {
    name: scenario
    for name, scenario in list(globals().items())
    if callable(scenario) and getattr(scenario, "__module__", "") == __name__ and not name.startswith("_")
}
