"""A Redis Cluster: nodes of this and of other shards die and hang, and the namespace moves to another shard."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess

import pytest
from redis.exceptions import RedisError, ResponseError

from tests.failover.conftest import RunScenario
from tests.support.failover.deployments import LOW_SLOTS, ClusterDeployment, cluster
from tests.support.failover.scenarios import Scenario, Scenarios, scripts_done, stopped
from tests.support.failover.world import World
from tests.support.redis_cluster import PRIMARIES
from tests.support.until import until

SCENARIOS = Scenarios(cluster)


@SCENARIOS.add(limit_seconds=1, loses_writes=True, is_short=True)
async def own_primary_killed(redis: ClusterDeployment, world: World) -> None:
    redis.server.kill()
    await until(lambda: redis.cluster.is_promoted(0), "the replica is promoted", 60)
    redis.primary = PRIMARIES
    world.named()


@SCENARIOS.add(limit_seconds=1, loses_writes=True)
async def own_primary_stopped_and_continued(redis: ClusterDeployment, world: World) -> None:
    with stopped(redis.server):
        await until(lambda: redis.cluster.is_promoted(0), "the replica is promoted", 60)
        redis.primary = PRIMARIES
        world.named()
        await asyncio.sleep(2)
    await until(lambda: redis.is_in_sync(0), "the old primary is a replica", 60)


@SCENARIOS.add(limit_seconds=1, oldest_seconds=3)
async def another_primary_killed(redis: ClusterDeployment, world: World) -> None:
    redis.servers[1].kill()
    world.named()
    await until(lambda: redis.cluster.is_promoted(1), "the replica is promoted", 60)


@SCENARIOS.add(limit_seconds=1, oldest_seconds=3)
async def another_primary_stopped(redis: ClusterDeployment, world: World) -> None:
    with stopped(redis.servers[1]):
        world.named()
        await until(lambda: redis.cluster.is_promoted(1), "the replica is promoted", 60)


@SCENARIOS.add(limit_seconds=1, oldest_seconds=3)
async def own_replica_killed(redis: ClusterDeployment, world: World) -> None:
    redis.servers[PRIMARIES].kill()
    world.named()
    await asyncio.sleep(2)


@SCENARIOS.add(limit_seconds=2, oldest_seconds=3)
async def planned_cluster_failover(redis: ClusterDeployment, world: World) -> None:
    old = redis.raw

    async def is_promoted() -> bool:
        if not redis.cluster.is_promoted(0):  # a busy server gives a planned failover up after some seconds
            with contextlib.suppress(ResponseError):
                redis.raws[PRIMARIES].execute_command("CLUSTER", "FAILOVER")
            await asyncio.sleep(0.3)
        return redis.cluster.is_promoted(0)

    await until(is_promoted, "the replica is promoted", 60)
    redis.primary = PRIMARIES
    world.named()
    await asyncio.sleep(2)
    known = scripts_done(old)
    await asyncio.sleep(1)
    assert scripts_done(old) == known, "a router wrote to the old primary"


@SCENARIOS.add(limit_seconds=2)
async def resharded(redis: ClusterDeployment, world: World) -> None:
    cli = shutil.which("redis-cli") or shutil.which("valkey-cli")
    if cli is None:
        pytest.skip("there is no redis-cli")
    words = ["--cluster-from", redis.id_of(0), "--cluster-to", redis.id_of(1), "--cluster-slots", str(LOW_SLOTS)]
    command = [cli, "--cluster", "reshard", f"127.0.0.1:{redis.server.port}", *words, "--cluster-yes"]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    redis.primary = 1
    world.named()


@SCENARIOS.add(limit_seconds=2)
async def migrated_atomically(redis: ClusterDeployment, world: World) -> None:
    words = ["SLOTSRANGE", 0, LOW_SLOTS - 1, "NODE", redis.id_of(1)]
    try:
        redis.raw.execute_command("CLUSTER", "MIGRATESLOTS", *words)
    except ResponseError as error:
        pytest.skip(f"this server does not migrate slots atomically: {error}")
    await until(lambda: has_moved(redis), "the slots have moved", 30)
    redis.primary = 1
    world.named()


def has_moved(redis: ClusterDeployment) -> bool:
    """Return whether the other node serves the namespace."""
    with contextlib.suppress(RedisError):
        redis.raws[1].exists(f"sr:{{{redis.namespace}}}:meta")
        return True
    return False


@pytest.mark.timeout(180)
@pytest.mark.parametrize("scenario", SCENARIOS.params())
async def test_all_is_right_again_after(scenario: Scenario, run_scenario: RunScenario) -> None:
    await run_scenario(scenario)
