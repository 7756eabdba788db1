"""One trial: a world with random faults, and what the checks found."""

from __future__ import annotations

import random

from tests.support.model.verdicts.faults import Faults, Schedule
from tests.support.model.verdicts.recorder import Recorder
from tests.support.model.verdicts.settings import ALL_RULES, Rules, Settings
from tests.support.model.verdicts.world import World

BEGIN, END = 10_000, 50_000
SETTLE, QUIET = 75_000, 30_000


def random_trial(seed: int, rules: Rules = ALL_RULES) -> Recorder:
    """Run one random schedule; `violations` of what is returned should be empty."""
    rng = random.Random(seed)
    settings = Settings(failure=rng.choice((3, 3, 3, 2, 1)), recovery=rng.choice((2, 2, 1)), is_shared=seed % 4 == 3)
    routers, replicas = rng.choice((1, 2, 3, 3, 4, 5, 6)), rng.choice((1, 2, 3, 4, 6))
    world = World(seed, routers=routers, replicas=replicas, settings=settings, rules=rules)
    if routers >= 3 and rng.random() < 0.3:
        world.machines[1] = world.machines[0]
    if routers >= 3 and rng.random() < 0.2:
        world.probing_slots.discard(routers - 1)
    recorder = Recorder(world)
    faults = Faults(world, recorder)
    is_lasting = rng.random() < 0.4
    Schedule(faults, rng, begin=BEGIN, end=END, is_lasting=is_lasting).fill(rng.choice((1, 2, 3, 5, 8)))
    if rng.random() < 0.5:
        _add_sessions(world, rng)
    world.begin()
    recorder.update_deaths()
    world.run(END + SETTLE)
    recorder.costs.begin_quiet()
    world.run(END + SETTLE + QUIET)
    recorder.costs.check_quiet()
    return recorder


def _add_sessions(world: World, rng: random.Random) -> None:
    for slot in world.slots:
        for time in range(3000, END + 20_000, 1500):
            pick = rng.randrange(1000)

            def come(slot: int = slot, pick: int = pick) -> None:
                if (process := world.processes.get(slot)) is not None:
                    process.sessions.come(pick)

            world.after(time + rng.randrange(1500), come)
