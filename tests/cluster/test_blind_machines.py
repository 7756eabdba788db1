"""Two of four machines do not reach a replica, as processes with sessions: it stays in use for the others."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from shared_registry import ReplicaEndpoint, RouterConfig, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer
from shared_registry.model import EventKind
from tests.support.chaos.paths import Paths, running_paths
from tests.support.chaos.routers import ChaosRouter
from tests.support.chaos.world import CAPACITY, INTERVAL, SETTINGS
from tests.support.space import Space
from tests.support.until import SECONDS, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs 127.x.y.z")

PLACES, REPLICAS, SESSIONS = 4, 6, 4
WATCHED_SECONDS = 12 * INTERVAL
"""Long enough for many reports of failed sessions, and for the windows in which they count together."""
LEARNING_SECONDS = 4 * INTERVAL
"""Within which a router usually has found out that it does not reach a replica."""


class Machines:
    """Four routers, each on a machine of its own, with a path of its own to each replica."""

    def __init__(self, space: Space, paths: Paths, routers: list[ChaosRouter]) -> None:
        self.space = space
        self.paths = paths
        self.routers = routers

    async def leading(self) -> int:
        """Return the number of the router that leads; wait for one, since nobody leads for a moment now and then."""
        found: list[str] = []

        def is_found() -> bool:
            found[:] = filter(None, [self.space.raw.hget(self.space.keys.leader, "router")])
            return bool(found)

        await until(is_found, "somebody leads")
        return int(found[0].partition("~")[0].removeprefix("r"))

    def placed(self, number: int, url: str, since: float) -> int:
        """Return how many sessions a router began on a replica since then."""
        return sum(line["url"] == url and line["at"] >= since for line in self.routers[number].lines_of("acquired"))

    def is_rare(self, number: int, url: str, since: float) -> bool:
        """Whether few of a router's sessions got a slot there, as where all others were full at that moment."""
        all_placed: int = sum(line["at"] >= since for line in self.routers[number].lines_of("acquired"))
        return self.placed(number, url, since) * 5 * REPLICAS <= all_placed

    async def end_sessions(self, numbers: list[int]) -> None:
        for number in numbers:
            os.kill(self.routers[number].pid, signal.SIGUSR1)
            os.kill(self.routers[number].pid, signal.SIGUSR2)
        await until(lambda: all(self.routers[number].lines_of("empty") for number in numbers))


@contextlib.asynccontextmanager
async def machines(directory: Path, server: EmbeddedServer, space: Space, **settings: Any) -> AsyncIterator[Machines]:
    shared = {"redis_url": server.url, "namespace": space.keys.namespace}
    async with contextlib.AsyncExitStack() as stack:
        paths = await stack.enter_async_context(running_paths(PLACES, REPLICAS))
        operator = await stack.enter_async_context(
            SharedReplicaRegistry(RouterConfig(**SETTINGS | shared), health_checks=False)
        )
        for url in paths.urls:
            await operator.register(ReplicaEndpoint(url, capacity=CAPACITY))
        routers = []
        for number in range(PLACES):
            hosts, machine = directory / f"hosts-{number}.json", directory / f"machine-{number}"
            hosts.write_text(json.dumps({"mode": "up", "addresses": paths.addresses(number)}))
            machine.write_text(f"machine {number}\n")
            config = SETTINGS | shared | settings | {"router_id": f"r{number}"}
            router = ChaosRouter(
                directory / f"router-{number}.jsonl",
                {
                    "hosts": str(hosts),
                    "machine": str(machine),
                    "sessions": SESSIONS,
                    "lasting_seconds": 0.2,
                    "patience_seconds": 0.5,
                    "seed": number,
                    "config": config,
                },
            )
            stack.callback(router.kill)
            routers.append(router)
        wanted = dict.fromkeys(paths.urls, "healthy active")
        await until(lambda: all(router.view == wanted for router in routers), "all is healthy")
        await until(lambda: all(router.lines_of("acquired") for router in routers), "all have sessions")
        yield Machines(space, paths, routers)


@pytest.mark.parametrize(("probing", "others_are"), [("leader", "idle"), ("shared", "busy")])
async def test_two_blind_machines_take_no_replica_from_others(
    server: EmbeddedServer, space: Space, tmp_path: Path, probing: str, others_are: str
) -> None:
    """Also where no session of the others contradicts, and where one of the blind is the replica's prober."""
    settings = {"probing": probing, "local_cooldown_seconds": 0.3, "health_check_timeout_seconds": 5.0}
    async with machines(tmp_path, server, space, **settings) as running:
        url = running.paths.urls[2]
        leading = await running.leading()
        blind = [number for number in range(PLACES) if number != leading][:2]
        others = [number for number in range(PLACES) if number not in blind]
        if others_are == "idle":
            await running.end_sessions(others)
        for path in running.paths.some(blind, [url]):
            await path.fail("refused")
        began = time.monotonic()

        def they_place_elsewhere() -> bool:
            """Whether they did so all the time that was watched, in which they had learned of it before."""
            fields = space.fields(url)
            assert (fields["status"], fields.get("ejected_until_ms")) == ("healthy", None)
            if time.monotonic() < began + LEARNING_SECONDS + WATCHED_SECONDS:
                return False
            return all(running.is_rare(number, url, time.time() - WATCHED_SECONDS) for number in blind)

        await until(they_place_elsewhere, "they place elsewhere", LEARNING_SECONDS + WATCHED_SECONDS + SECONDS)
        since = time.time() - WATCHED_SECONDS
        assert EventKind.REPLICA_EJECTED.value not in space.event_kinds()
        assert others_are == "idle" or all(running.placed(number, url, since) for number in others)
        for path in running.paths.some(blind, [url]):
            await path.heal("refused")
        healed = time.time()
        await until(lambda: all(running.placed(number, url, healed) for number in blind), "they use it again")
