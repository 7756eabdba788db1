"""A primary is demoted, and its address leads to the new one: at once, or late."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.failover.conftest import RunScenario
from tests.support.failover.deployments import OneAddress, one_address
from tests.support.failover.scenarios import Scenario, Scenarios
from tests.support.failover.world import World
from tests.support.until import until

SCENARIOS = Scenarios(one_address)


@SCENARIOS.add(limit_seconds=5, is_short=True)
async def demoted(redis: OneAddress, world: World) -> None:
    await switch(redis)
    redis.address.server_port = redis.servers[1].port
    redis.primary = 1
    world.named()


@SCENARIOS.add(limit_seconds=5, reason="is a replica")
async def demoted_and_switched_late(redis: OneAddress, world: World) -> None:
    await switch(redis)
    await asyncio.sleep(4)
    redis.address.server_port = redis.servers[1].port
    redis.primary = 1
    world.named()


async def switch(redis: OneAddress) -> None:
    """Promote the replica, and demote the primary, which keeps its connections. No write is lost."""
    redis.raw.execute_command("CLIENT", "PAUSE", 10_000, "WRITE")
    await asyncio.to_thread(redis.raw.wait, 1, 5000)
    await until(lambda: offset(redis.raws[0]) == offset(redis.raws[1]), "all is copied")
    redis.raws[1].replicaof("NO", "ONE")
    redis.raws[0].replicaof("127.0.0.1", redis.servers[1].port)
    redis.raws[0].execute_command("CLIENT", "UNPAUSE")


def offset(raw: Any) -> int:
    found = raw.info("replication")
    return int(found["slave_repl_offset"] if found["role"] == "slave" else found["master_repl_offset"])


@pytest.mark.timeout(180)
@pytest.mark.parametrize("scenario", SCENARIOS.params())
async def test_all_is_right_again_after(scenario: Scenario, run_scenario: RunScenario) -> None:
    await run_scenario(scenario)
