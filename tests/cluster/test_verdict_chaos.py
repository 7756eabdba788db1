"""Verdicts of several processes while paths, replicas, routers, descriptors, names and Redis fail at random.

What is checked is what was seen: samples of Redis twenty times a second, the event stream, what each router selected,
and what each path to each replica did. A run prints its seed, and with it does the same steps again:

    SHARED_REGISTRY_TEST_CHAOS_SEED=7 pytest tests/cluster/test_verdict_chaos.py
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from shared_registry import RouterConfig, SharedReplicaRegistry
from shared_registry.admin.check import find_violations
from shared_registry.embedded import EmbeddedServer
from shared_registry.model import EventKind
from tests.support.chaos.history import History
from tests.support.chaos.paths import running_paths
from tests.support.chaos.rules import violations
from tests.support.chaos.samples import Sampler
from tests.support.chaos.steps import Steps, make_trouble
from tests.support.chaos.world import INTERVAL, PLACES, REPLICAS, SETTINGS, SETTLING_SECONDS, World
from tests.support.effort import IS_LONG, takes_long
from tests.support.faulty_proxy import FaultyProxy
from tests.support.space import Space, on_server
from tests.support.until import until

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="needs 127.x.y.z and another process's limits"),
    # asyncio leaves a connection unclosed that it accepts at the moment when a path's server closes.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

CHAOS_SECONDS = float(os.environ.get("SHARED_REGISTRY_TEST_CHAOS_SECONDS", "60" if IS_LONG else "7"))
SEED = os.environ.get("SHARED_REGISTRY_TEST_CHAOS_SEED", "")
USUAL_SEED = 2
"""The seed of the one run that is not only for those who ask for long tests. Its routers share the probing."""
SEEDS = [int(SEED)] if SEED else list(range(1, 11 if IS_LONG else 4))
RUNS = [pytest.param(one, marks=() if SEED or one == USUAL_SEED else pytest.mark.long) for one in SEEDS]
NAMESPACE = "chaos"
QUIET_SECONDS = 3 * INTERVAL
MOST_LOOKS = 5


def probing_of(seed: int) -> str:
    """Return how routers share the probing in a run: in every second one by a plan."""
    return "leader" if seed % 2 else "shared"


@contextlib.asynccontextmanager
async def world_of(server: EmbeddedServer, directory: Path, seed: int) -> AsyncIterator[tuple[World, Steps, Space]]:
    """Run routers, replicas and a sampler, until all is healthy."""
    rng = random.Random(seed)
    async with contextlib.AsyncExitStack() as stack:
        space = await stack.enter_async_context(on_server(server.url, NAMESPACE))
        paths = await stack.enter_async_context(running_paths(PLACES, REPLICAS))
        proxies = [await stack.enter_async_context(FaultyProxy(server.port)) for _ in range(PLACES)]
        sampler = Sampler(server.url, space.keys)
        world = World(directory, server, NAMESPACE, paths, sampler, rng, probing=probing_of(seed))
        stack.callback(world.close)
        operator = SharedReplicaRegistry(
            RouterConfig(**SETTINGS | {"redis_url": server.url, "namespace": NAMESPACE, "redis_timeout_seconds": 3.0}),
            health_checks=False,
        )
        await stack.enter_async_context(operator)
        steps = Steps(world, operator)
        for url in paths.urls:
            await steps.restore(url)
        sampling = asyncio.create_task(sampler.run())
        try:
            await world.start(proxies)
            await all_are_well(world)
            yield world, steps, space
        finally:
            sampler.is_over = True
            await sampling


async def all_are_well(world: World) -> None:
    def holds() -> bool:
        wanted = dict.fromkeys(world.urls, "healthy active")
        sample = world.sampler.last if world.sampler.samples else None
        return (
            sample is not None
            and bool(sample.leader)
            and not any("suspicion" in fields or "prober" in fields for fields in sample.replicas.values())
            and (world.probing == "leader" or sample.shares.keys() == {place.router for place in world.places})
            and all(place.process.view == wanted for place in world.places)
        )

    try:
        await until(holds, "all replicas are healthy everywhere, and nobody doubts", seconds=25.0)
    except AssertionError:
        world.note(f"shown: {[place.process.view for place in world.places]}, in Redis: {world.sampler.last}")
        raise


async def nothing_happens(world: World, space: Space) -> list[str]:
    """Return what happened in some intervals of which nothing may come but probes, by one router each.

    What happens while this machine stands still, or just after that, tells nothing: then it looks again.
    """
    for place in world.places:
        place.signal(signal.SIGUSR1)
    await until(lambda: all(place.process.lines_of("holding") for place in world.places))
    for _ in range(MOST_LOOKS):
        await asyncio.sleep(0.5)
        began = time.time()
        found = await happens(world, space)
        late = [(line["since"], line["at"]) for place in world.places for line in place.process.lines_of("late")]
        is_late = any(end > began - SETTLING_SECONDS for _, end in [*late, *world.paths.late])
        if not found or not is_late:
            break
        world.note(f"not quiet, but late: {found}")
        await all_are_well(world)
    return found


async def happens(world: World, space: Space) -> list[str]:
    """Return what happens within some intervals."""
    events = len(space.event_kinds())
    before, probes = world.sampler.last, {path: path.requests for path in world.paths}
    await asyncio.sleep(QUIET_SECONDS)
    after = world.sampler.last
    # A router says that it has recovered some seconds later, once nothing has been in its way for long.
    new = [kind for kind in space.event_kinds()[events:] if kind != EventKind.ROUTER_RECOVERED.value]
    found = [f"events in a quiet time: {new}"] if new else []
    if before.key_count != after.key_count:
        found.append(f"{before.key_count} keys are {after.key_count} after a quiet time")
    for url in world.urls:
        counts = [path.requests - probes[path] for path in world.paths.some(range(PLACES), [url])]
        if sum(count > 0 for count in counts) != 1 or sum(counts) > QUIET_SECONDS / INTERVAL + 2:
            found.append(f"{url} had probes by {counts} in a quiet time")
    return found


@takes_long
@pytest.mark.alone
@pytest.mark.parametrize("seed", RUNS)
async def test_verdicts_hold_whatever_fails(
    own_server: Callable[..., EmbeddedServer], tmp_path: Path, seed: int
) -> None:
    server = own_server(config={"appendonly": "yes", "appendfsync": "always"}, data_dir=tmp_path / "data")
    async with world_of(server, tmp_path, seed) as (world, steps, space):
        found: list[str] = []
        try:
            await make_trouble(steps, world.rng, CHAOS_SECONDS)
            world.note("all is healed")
            for url in world.urls:
                await steps.restore(url)
            await all_are_well(world)
            world.note("all is well")
            found += await nothing_happens(world, space)
            found += [str(one) for one in await find_violations(space.reader, space.keys)]
        finally:
            history = History(world, [event async for event in space.reader.all_events()])
            found += violations(history)
            print("\n".join([f"\nseed {seed}, probing: {world.probing}", *world.steps, figures(history), *found]))  # noqa: T201
        assert found == []


@takes_long
@pytest.mark.alone
async def test_a_prober_without_names_keeps_its_replica(
    own_server: Callable[..., EmbeddedServer], tmp_path: Path
) -> None:
    """Its sessions fail, and nobody can tell why from their errors. Its probes go on by the last answer."""
    async with world_of(own_server(data_dir=tmp_path / "data"), tmp_path, 1) as (world, _, space):
        url = world.urls[1]
        (blind,) = world.paths.some([world.probing_place(url).number], [url])
        await blind.fail("refused")
        await until(lambda: world.sampler.last.prober(url), "the replica is handed over")
        place = world.place_of(world.sampler.last.prober(url))
        assert place is not None
        place.set_resolver("hang")
        failed = (EventKind.REPLICA_REPORTED.value, place.router, url)
        await until(lambda: failed in events_of(space), "a session of the new prober failed")
        assert (EventKind.REPLICA_SUSPECTED.value, place.router, "") not in events_of(space)
        assert world.sampler.last.prober(url) == place.router
        place.set_resolver("up")
        await blind.heal("refused")
        await all_are_well(world)


def events_of(space: Space) -> list[tuple[str, str, str]]:
    """Return each event's kind and router, and the replica that it reports."""
    entries = space.raw.xrange(space.keys.events)
    return [(entry["kind"], entry.get("router", ""), entry.get("reported", "")) for _, entry in entries]


def figures(history: History) -> str:
    kinds = EventKind
    counts = {
        kind.value: sum(1 for _ in history.of_kind(kind))
        for kind in (
            kinds.REPLICA_SUSPECTED, kinds.REPLICA_CLEARED, kinds.REPLICA_UNHEALTHY, kinds.REPLICA_HANDED_BACK,
            kinds.LEADER_ELECTED, kinds.LEADER_RESIGNED,
        )
    }  # fmt: skip
    late = history.world.paths.late.seconds(history.begin, history.end)
    return f"{len(history.samples)} samples in {time.time() - history.begin:.1f} s, late {late:.1f} s, {counts}"
