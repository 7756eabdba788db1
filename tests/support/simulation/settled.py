"""What must hold some time after the last fault, and after all routers have stopped."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from shared_registry.admin.check import find_violations
from shared_registry.model import AdminState, ReplicaRecord, ReplicaStatus
from tests.support.simulation.keyspace import Hash, SortedSet
from tests.support.simulation.router import SimulatedRouter
from tests.support.watched_mirrors import routing_state

if TYPE_CHECKING:
    from tests.support.simulation.world import World

SERVED_SECONDS = 6.0
"""Within which all sessions that wait are served beside room."""
STOP_SECONDS = 15.0


async def check_settled(world: World) -> None:
    """Check everything, then let all sessions end and check that nobody waits and nothing is left."""
    routers = world.alive()
    if len(routers) < len(world.routers):
        world.problems.append("a router has not joined")
        return
    records = await _records(world, routers[0])
    await _check_data(world, routers)
    _check_leader(world, routers)
    _check_views(world, routers, records)
    _check_health(world, records)
    _check_leases(world, routers)
    world.problems += world.operators.missing(records, routers)
    for router in routers:
        router.release_all()
    await asyncio.sleep(SERVED_SECONDS)
    for router in routers:
        if router.waiting() and any(_has_room(record) for record in records.values()):
            world.problems.append(f"{router.process.name}: {len(router.waiting())} sessions wait beside free slots")
        if leases := router.leases():
            world.problems.append(f"{router.process.name}: sessions did not end: {leases}")
    _check_leases(world, routers)


async def check_stopped(world: World) -> None:
    """Stop all routers, and check that nothing of them is left."""
    routers = world.alive()
    stops = [router.run(router.stop()) for router in routers]
    done, late = await asyncio.wait(stops, timeout=STOP_SECONDS)
    if late:
        world.problems.append("stop() did not return")
    for stop in done:
        stop.result()
    await asyncio.sleep(1.0)
    for router in [*routers, *(one for one in world.past if not one.process.is_dead)]:
        if tasks := router.process.alive_tasks():
            world.problems.append(f"{router.process.name}: after stop() there runs {tasks}")
        if world.network.links[router.process].connections:
            world.problems.append(f"{router.process.name}: after stop() there are connections")
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


async def _check_data(world: World, routers: list[SimulatedRouter]) -> None:
    violations = await routers[0].run(find_violations(routers[0].registry._reader, world.keys))
    world.problems += [f"check: {one.rule} {one.key}: {one.message}" for one in violations]
    listed = world.redis.keyspace.values.get(world.keys.routers)
    keys = {router.registry.router_key for router in routers}
    if not isinstance(listed, SortedSet) or set(listed) != keys:
        world.problems.append(f"the routers {sorted(keys)} are alive, but these are listed: {listed}")


def _check_leader(world: World, routers: list[SimulatedRouter]) -> None:
    leaders = [router.registry.router_key for router in routers if router.registry.is_leader]
    if len(leaders) != 1:
        world.problems.append(f"these routers are the leader: {leaders}")
    for router in routers:
        shown = router.registry.leader
        if leaders and (shown is None or shown.router != leaders[0]):
            world.problems.append(f"{router.process.name} shows the leader {shown}")


def _check_views(world: World, routers: list[SimulatedRouter], records: dict[str, ReplicaRecord]) -> None:
    wanted = {key: routing_state(record) for key, record in records.items()}
    for router in routers:
        shown = {replica.key: routing_state(replica.record) for replica in router.registry.all()}
        if shown != wanted:
            world.problems.append(f"{router.process.name} shows {shown}, but Redis has {wanted}")


def _check_health(world: World, records: dict[str, ReplicaRecord]) -> None:
    for record in records.values():
        if record.is_probed and record.health.status is not ReplicaStatus.HEALTHY:
            world.problems.append(f"{record.key} is {record.health.status.value}, although it answers")


def _check_leases(world: World, routers: list[SimulatedRouter]) -> None:
    """Compare sessions with leases. Sessions on a replica whose registration was lost have no lease."""
    for router in routers:
        held = router.leases()
        listed = world.redis.keyspace.values.get(world.keys.leases(router.registry.router_key))
        stored = dict(listed) if isinstance(listed, Hash) else {}
        known = world.redis.keyspace.values
        placed = {key: url for key, url in held.items() if world.keys.replica(url) in known}
        if lost := {key: url for key, url in placed.items() if stored.get(key) != url}:
            world.problems.append(f"{router.process.name}: Redis lacks leases of sessions: {lost}, it has {stored}")
        if extra := {key: url for key, url in stored.items() if key not in held}:
            world.problems.append(f"{router.process.name}: no session has these leases: {extra}")


def _has_room(record: ReplicaRecord) -> bool:
    return record.admin is AdminState.ACTIVE and record.health.status is ReplicaStatus.HEALTHY
