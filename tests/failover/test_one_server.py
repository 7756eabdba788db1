"""One server that refuses writes, hangs, loads, is busy, closes connections, or takes no new ones."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from tests.failover.conftest import RunScenario
from tests.support.failover.deployments import Deployment, standalone
from tests.support.failover.scenarios import Act, Scenario, Scenarios, stopped
from tests.support.failover.world import World
from tests.support.until import until

SCENARIOS = Scenarios(standalone)
LOADING_SLOWLY: dict[str, str | int] = {"loading-process-events-interval-bytes": 1024, "key-load-delay": 20_000}
"""Settings for debugging: how often a server that loads replies to clients, and how long each key takes."""


def refused(words: str, back: str, reason: str, *, is_short: bool = False) -> Act:
    """Return a scenario in which commands let a server refuse writes for some time."""

    async def act(redis: Deployment, world: World) -> None:
        redis.raw.execute_command(*words.split())
        await until_shown(world, reason)
        redis.raw.execute_command(*back.split())
        world.named()

    act.__name__ = reason
    return SCENARIOS.add(limit_seconds=2, reason=reason, is_short=is_short)(act)


refused("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0", "NOREPLICAS", is_short=True)
refused("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0", "maxmemory")
refused("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE", "is a replica")


@SCENARIOS.add(limit_seconds=2)
async def replica_without_data(redis: Deployment, world: World) -> None:
    """Its primary cannot be reached, and it is not allowed to reply with old data: MASTERDOWN."""
    redis.raw.config_set("replica-serve-stale-data", "no")
    redis.raw.replicaof("127.0.0.1", 1)
    await until(lambda: all(router.logged("Link with MASTER is down") for router in world.routers), "it is logged")
    await asyncio.sleep(2)
    redis.raw.replicaof("NO", "ONE")
    world.named()


@SCENARIOS.add(limit_seconds=2, reason="MISCONF")
async def snapshot_failed(redis: Deployment, world: World) -> None:
    """The server could not write its snapshot, as on a full disk."""
    in_the_way = redis.server.data_dir / "dump.rdb"
    in_the_way.mkdir()
    redis.raw.bgsave()
    await until_shown(world, "MISCONF")
    in_the_way.rmdir()
    redis.raw.bgsave()
    await until(lambda: redis.raw.info("persistence")["rdb_last_bgsave_status"] == "ok", "a snapshot")
    world.named()


@SCENARIOS.add(limit_seconds=2)
async def restarted_and_loading(redis: Deployment, world: World) -> None:
    """With all data; the loading takes some seconds."""
    if not redis.raw.config_get(next(iter(LOADING_SLOWLY))):
        pytest.skip("this server cannot be told to load slowly")
    redis.server._config |= LOADING_SLOWLY
    for number in range(150):
        redis.raw.set(f"ballast-{number}", secrets.token_hex(1000))
    await asyncio.to_thread(redis.server.stop)
    await asyncio.to_thread(redis.server.start)
    world.named()
    await until(lambda: all(router.logged("loading the dataset") for router in world.routers), "it is logged")


@SCENARIOS.add(limit_seconds=2)
async def long_script(redis: Deployment, world: World) -> None:
    redis.raw.config_set("lua-time-limit", 100)
    with Redis.from_url(redis.server.url, socket_timeout=30) as other:
        running = asyncio.create_task(asyncio.to_thread(run_for_ever, other))
        await asyncio.sleep(3)
        redis.raw.execute_command("SCRIPT", "KILL")
        await running
        world.named()


@SCENARIOS.add(limit_seconds=2)
async def too_many_clients(redis: Deployment, world: World) -> None:
    redis.raw.ping()
    redis.raw.config_set("maxclients", 1)
    redis.raw.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    await until(lambda: all(each.logged("max number of clients") for each in world.routers), "it is logged")
    redis.raw.config_set("maxclients", 10_000)
    world.named()


@SCENARIOS.add(limit_seconds=2, is_short=True)
async def connections_killed(redis: Deployment, world: World) -> None:
    redis.raw.ping()
    for _ in range(3):
        redis.raw.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await asyncio.sleep(0.5)
    world.named()


@SCENARIOS.add(limit_seconds=5)
async def password_changed_and_back(redis: Deployment, world: World) -> None:
    redis.raw.ping()
    redis.raw.execute_command("ACL", "SETUSER", "default", "resetpass", ">another")
    redis.raw.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    await until(lambda: all(each.logged("check the user and password") for each in world.routers), "it is logged")
    await asyncio.sleep(2)
    redis.raw.execute_command("ACL", "SETUSER", "default", "nopass")
    world.named()


@SCENARIOS.add(limit_seconds=2)
async def server_stopped_and_continued(redis: Deployment, world: World) -> None:
    with stopped(redis.server):
        await asyncio.sleep(4)
    world.named()


async def until_shown(world: World, reason: str) -> None:
    """Wait until every router shows why its writes fail, on both pages."""
    await until(
        lambda: all(
            any(reason in text for text in router.failures) and any(reason in text for text in router.warnings)
            for router in world.routers
        ),
        f"{reason} is shown",
    )
    await asyncio.sleep(3)


def run_for_ever(raw: Any) -> None:
    with contextlib.suppress(ResponseError):
        raw.eval("while true do end", 0)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("scenario", SCENARIOS.params())
async def test_all_is_right_again_after(scenario: Scenario, run_scenario: RunScenario) -> None:
    await run_scenario(scenario)
