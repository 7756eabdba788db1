"""A primary and its replica behind sentinels: the primary dies, hangs, and is replaced as planned."""

from __future__ import annotations

import asyncio

import pytest

from tests.failover.conftest import RunScenario
from tests.support.failover.deployments import SentinelDeployment, sentinels
from tests.support.failover.scenarios import Scenario, Scenarios, scripts_done, stopped
from tests.support.failover.world import World
from tests.support.until import until

SCENARIOS = Scenarios(sentinels)


@SCENARIOS.add(limit_seconds=1, loses_writes=True, is_short=True)
async def primary_killed(redis: SentinelDeployment, world: World) -> None:
    redis.server.kill()
    await redis.until_new_is_named()
    world.named()


@SCENARIOS.add(limit_seconds=1, loses_writes=True)
async def primary_killed_and_back(redis: SentinelDeployment, world: World) -> None:
    old = redis.primary
    redis.server.kill()
    await redis.until_new_is_named()
    world.named()
    await asyncio.to_thread(redis.servers[old].start)
    await until(lambda: redis.is_in_sync(old), "the old primary is a replica", 60)


@SCENARIOS.add(limit_seconds=2, loses_writes=True)
async def planned_failover(redis: SentinelDeployment, world: World) -> None:
    """Sentinels demote the old primary some seconds after they name the new one. Writes until then are lost."""
    old = redis.raw
    await redis.copied()
    await redis.begin_failover()
    await redis.until_new_is_named()
    world.named()
    await asyncio.sleep(2)
    known = scripts_done(old)
    await asyncio.sleep(2)
    assert scripts_done(old) == known, "a router wrote to the old primary"


@SCENARIOS.add(limit_seconds=1, loses_writes=True)
async def primary_stopped_and_continued(redis: SentinelDeployment, world: World) -> None:
    old = redis.server
    with stopped(old):
        await redis.until_new_is_named()
        world.named()
        await asyncio.sleep(2)
    known = scripts_done(redis.raws[1 - redis.primary])
    await until(lambda: redis.is_in_sync(1 - redis.primary), "the old primary is a replica", 60)
    assert scripts_done(redis.raws[1 - redis.primary]) == known, "a router wrote to the old primary"


@pytest.mark.timeout(180)
@pytest.mark.parametrize("scenario", SCENARIOS.params())
async def test_all_is_right_again_after(scenario: Scenario, run_scenario: RunScenario) -> None:
    await run_scenario(scenario)
