"""What must hold some time after the last fault, and after all routers have stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from shared_registry.admin.check import find_violations
from shared_registry.errors import StoreError
from shared_registry.model import AdminState, ReplicaRecord, ReplicaStatus
from tests.support.simulation.keyspace import Hash, SortedSet
from tests.support.simulation.pods import wrong_pods
from tests.support.simulation.router import SimulatedRouter
from tests.support.watched_mirrors import routing_state

if TYPE_CHECKING:
    from tests.support.simulation.world import World

SETTLED_SECONDS = 16.0
"""After the last fault ends: an expiry and a heartbeat, an election, a comparison, and some probes, twice."""
SERVED_SECONDS = 6.0
"""Within which all sessions that wait are served beside room."""
STOP_SECONDS = 15.0
FIRST_CHECK_SECONDS, CHECK_SECONDS = 1.0, 0.5
WHOLE_SHARE = 16
"""One seed of so many is checked at the end of these times only: what holds early must still hold then."""


async def check_settled(world: World) -> None:
    """Record the rules that are not met in time. Then end all sessions, and record what is left of them."""
    is_whole = world.seed % WHOLE_SHARE == 0
    world.problems += await _first_without_problems(
        world, lambda: _unsettled(world), SETTLED_SECONDS, SETTLED_SECONDS if is_whole else FIRST_CHECK_SECONDS
    )
    routers = world.alive()
    if not routers:
        return
    records = await _records(world, routers[0])
    for router in routers:
        router.release_all()

    async def unserved() -> list[str]:
        return _unserved(routers, records) + _wrong_leases(world, routers)

    world.problems += await _first_without_problems(
        world, unserved, SERVED_SECONDS, SERVED_SECONDS if is_whole else CHECK_SECONDS
    )


async def _first_without_problems(
    world: World, check: Callable[[], Awaitable[list[str]]], within_seconds: float, first_seconds: float
) -> list[str]:
    """Repeat a check until it finds nothing or the time is over; return what it found last."""
    deadline = world.now + within_seconds
    await asyncio.sleep(first_seconds)
    while True:
        problems = await check()
        if not problems or world.now >= deadline:
            return problems
        await asyncio.sleep(CHECK_SECONDS)


async def _unsettled(world: World) -> list[str]:
    """Return what does not hold. Redis is asked only if what can be seen without it holds."""
    routers = world.alive()
    if len(routers) < len(world.routers):
        return ["a router has not joined"]
    seen = [*_wrong_routers(world, routers), *_wrong_leaders(routers), *_wrong_leases(world, routers)]
    if seen:
        return seen
    try:
        records = await _records(world, routers[0])
        violations = await routers[0].run(find_violations(routers[0].registry._reader, world.keys))
    except StoreError as error:
        return [f"{routers[0].process.name} cannot read: {error!r}"]
    return [
        *(f"check: {one.rule} {one.key}: {one.message}" for one in violations),
        *_wrong_views(routers, records),
        *_wrong_health(world, records),
        *wrong_pods(world, records),
        *world.operators.missing(called := world.pods.called(records), routers, world.pods.away(called)),
    ]


async def check_stopped(world: World) -> None:
    """Stop all routers, and check that nothing of them is left."""
    world.pods.stop()
    routers = world.alive()
    stops = [router.run(router.stop()) for router in routers]
    done, late = await asyncio.wait(stops, timeout=STOP_SECONDS)
    if late:
        world.problems.append("stop() did not return")
    for stop in done:
        stop.result()
    await asyncio.sleep(1.0)
    processes = [one.process for one in (*routers, *world.past)] + [pod.process for pod in world.pods.past]
    for process in (one for one in processes if not one.is_dead):
        if tasks := process.alive_tasks():
            world.problems.append(f"{process.name}: after stop() there runs {tasks}")
        if world.network.links[process].connections:
            world.problems.append(f"{process.name}: after stop() there are connections")
    values = world.redis.keyspace.values
    if left := values.get(world.keys.routers):
        world.problems.append(f"after all routers have stopped, routers are listed: {left}")
    if left_keys := [key for key in values if key.startswith((world.keys.leases_prefix, world.keys.inbox_prefix))]:
        world.problems.append(f"after all routers have stopped, there is {left_keys}")


async def _records(world: World, router: SimulatedRouter) -> dict[str, ReplicaRecord]:
    reader = router.registry._reader

    async def read() -> dict[str, ReplicaRecord]:
        return await reader.records(await reader.urls())

    records: dict[str, ReplicaRecord] = await router.run(read())
    return records


def _wrong_routers(world: World, routers: list[SimulatedRouter]) -> list[str]:
    listed = world.redis.keyspace.values.get(world.keys.routers)
    keys = {router.registry.router_key for router in routers}
    if not isinstance(listed, SortedSet) or set(listed) != keys:
        return [f"the routers {sorted(keys)} are alive, but these are listed: {listed}"]
    return []


def _wrong_leaders(routers: list[SimulatedRouter]) -> list[str]:
    leaders = [router.registry.router_key for router in routers if router.registry.is_leader]
    if len(leaders) != 1:
        return [f"these routers are the leader: {leaders}"]
    return [
        f"{router.process.name} shows the leader {router.registry.leader}"
        for router in routers
        if router.registry.leader is None or router.registry.leader.router != leaders[0]
    ]


def _wrong_views(routers: list[SimulatedRouter], records: dict[str, ReplicaRecord]) -> list[str]:
    wanted = {key: routing_state(record) for key, record in records.items()}
    views = {
        router.process.name: {replica.key: routing_state(replica.record) for replica in router.registry.all()}
        for router in routers
    }
    return [f"{name} shows {shown}, but Redis has {wanted}" for name, shown in views.items() if shown != wanted]


def _wrong_health(world: World, records: dict[str, ReplicaRecord]) -> list[str]:
    return [
        f"{record.key} is {record.health.status.value}, although it answers"
        for record in records.values()
        if record.is_probed and world.pods.answers(record.key) and record.health.status is not ReplicaStatus.HEALTHY
    ]


def _wrong_leases(world: World, routers: list[SimulatedRouter]) -> list[str]:
    """Compare sessions with leases. Sessions on a replica whose registration was lost have no lease."""
    problems = []
    for router in routers:
        held = router.leases()
        listed = world.redis.keyspace.values.get(world.keys.leases(router.registry.router_key))
        stored = dict(listed) if isinstance(listed, Hash) else {}
        known = world.redis.keyspace.values
        placed = {key: url for key, url in held.items() if world.keys.replica(url) in known}
        if lost := {key: url for key, url in placed.items() if stored.get(key) != url}:
            problems.append(f"{router.process.name}: Redis lacks leases of sessions: {lost}, it has {stored}")
        if extra := {key: url for key, url in stored.items() if key not in held}:
            problems.append(f"{router.process.name}: no session has these leases: {extra}")
    return problems


def _unserved(routers: list[SimulatedRouter], records: dict[str, ReplicaRecord]) -> list[str]:
    problems = []
    for router in routers:
        if router.waiting() and any(_has_room(record) for record in records.values()):
            problems.append(f"{router.process.name}: {len(router.waiting())} sessions wait beside free slots")
        if leases := router.leases():
            problems.append(f"{router.process.name}: sessions did not end: {leases}")
    return problems


def _has_room(record: ReplicaRecord) -> bool:
    return record.admin is AdminState.ACTIVE and record.health.status is ReplicaStatus.HEALTHY
