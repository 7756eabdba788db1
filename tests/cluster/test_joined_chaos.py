"""Pods that join by themselves beside routers, while pods, routers, paths and Redis fail at random.

A run prints its seed and its steps:

    SHARED_REGISTRY_TEST_CHAOS_SEED=7 pytest tests/cluster/test_joined_chaos.py
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from shared_registry import AdminState, RouterConfig, SharedReplicaRegistry
from shared_registry.admin.check import find_violations
from shared_registry.embedded import EmbeddedServer
from shared_registry.model import EventKind
from tests.support.effort import IS_LONG, takes_long
from tests.support.failover.scenarios import stopped
from tests.support.faulty_proxy import FaultyProxy
from tests.support.pods import TTL, Pod, pods_of
from tests.support.router_process import RouterProcess
from tests.support.space import on_server
from tests.support.until import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs the children of a process")

CHAOS_SECONDS = float(os.environ.get("SHARED_REGISTRY_TEST_CHAOS_SECONDS", "60" if IS_LONG else "12"))
SEED = os.environ.get("SHARED_REGISTRY_TEST_CHAOS_SEED", "")
SEEDS = [int(SEED)] if SEED else list(range(1, 6 if IS_LONG else 2))
NAMESPACE = "joined"
PODS = ROUTERS = 3
PATIENCE = 60.0


class JoinedChaos:
    """Router processes, pods, and what happens to them.

    Attributes:
        alive: The pods that run, and the name of each one's instance.
        steps: What was done.
    """

    def __init__(self, server: EmbeddedServer, directory: Path, rng: random.Random) -> None:
        self._server, self._directory, self._rng = server, directory, rng
        self.routers: list[RouterProcess] = []
        self.alive: dict[Pod, str] = {}
        self.steps: list[str] = []
        self._numbers = itertools.count()
        self.proxy: FaultyProxy
        self.make: Callable[..., Pod]

    def settings(self) -> dict[str, Any]:
        return {
            "redis_url": self._server.url,
            "namespace": NAMESPACE,
            "lease_seconds": 1.5,
            "renew_interval_seconds": 0.5,
            "health_check_interval_seconds": 0.5,
            "fast_interval_seconds": 0.2,
            "router_expiry_seconds": 5.0,
        }

    def start_router(self) -> None:
        output = self._directory / f"{len(list(self._directory.iterdir()))}.jsonl"
        self.routers.append(RouterProcess(output, routers=1, replicas=[], config=self.settings()))

    async def start_pod(self, port: int | None = None) -> None:
        pod = self.make() if port is None else self.make(port=port)
        owner = f"pod-{next(self._numbers)}"
        await pod.start("--owner", owner)
        await pod.child()
        self.alive[pod] = owner

    async def step(self) -> None:
        """Do one thing; some of them take a while."""
        name = self._rng.choice([name for name in dir(self) if name.startswith("do_")])
        self.steps.append(f"{time.time():.1f} {name}")
        await getattr(self, name)()

    def _taken(self) -> Pod:
        pod = self._rng.choice(list(self.alive))
        del self.alive[pod]
        return pod

    async def do_kill_router(self) -> None:
        self.routers.pop(self._rng.randrange(ROUTERS)).kill()
        self.start_router()

    async def do_pause_router(self) -> None:
        router = self._rng.choice(self.routers)
        os.kill(router.pid, signal.SIGSTOP)
        await asyncio.sleep(self._rng.choice([0.5, 3.0]))
        os.kill(router.pid, signal.SIGCONT)

    async def do_kill_pod(self) -> None:
        """Another one starts elsewhere."""
        pod = self._taken()
        os.killpg(pod.process.pid, signal.SIGKILL)
        await pod.clean_up()
        await self.start_pod()

    async def do_kill_and_restart_pod(self) -> None:
        """It comes back at its address, as another instance."""
        pod = self._taken()
        os.killpg(pod.process.pid, signal.SIGKILL)
        await pod.clean_up()
        await self.start_pod(pod.port)

    async def do_stop_pod(self) -> None:
        pod = self._taken()
        pod.process.terminate()
        await pod.end()
        await self.start_pod()

    async def do_pause_program_of_pod(self) -> None:
        pod = self._rng.choice(list(self.alive))
        os.kill(pod.process.pid, signal.SIGSTOP)
        await asyncio.sleep(self._rng.choice([1.0, TTL + 2]))
        os.kill(pod.process.pid, signal.SIGCONT)

    async def do_cut_pods_off(self) -> None:
        self.proxy.refuses = True
        self.proxy.cut()
        await asyncio.sleep(self._rng.choice([1.0, TTL + 2]))
        self.proxy.heal()

    async def do_pause_redis(self) -> None:
        with stopped(self._server):
            await asyncio.sleep(self._rng.choice([1.0, TTL + 2]))

    async def do_lose_redis(self) -> None:
        self._server.kill()
        self._server.start()


@contextlib.asynccontextmanager
async def joined(server: EmbeddedServer, directory: Path, seed: int) -> AsyncIterator[JoinedChaos]:
    chaos = JoinedChaos(server, directory, random.Random(seed))
    async with FaultyProxy(server.port) as proxy, pods_of(proxy.url, NAMESPACE) as make:
        chaos.proxy, chaos.make = proxy, make
        try:
            for _ in range(ROUTERS):
                chaos.start_router()
            await asyncio.gather(*(chaos.start_pod() for _ in range(PODS)))
            yield chaos
        finally:
            for router in chaos.routers:
                router.kill()


def shown(registry: SharedReplicaRegistry) -> dict[str, str]:
    """Return who holds each replica, as long as it is healthy and takes sessions.

    At the address of a pod that was killed the next one serves already, and probes reach it. Still the replica belongs
    to the first instance until its time is over, and expires then.
    """
    return {
        one.key: one.record.owner if one.is_healthy and one.admin is AdminState.ACTIVE else "nobody"
        for one in registry.all()
    }


@takes_long
@pytest.mark.alone
@pytest.mark.parametrize("seed", SEEDS)
async def test_all_that_live_are_listed_and_all_others_gone(
    own_server: Callable[..., EmbeddedServer], tmp_path: Path, seed: int
) -> None:
    server = own_server()
    (directory := tmp_path / "routers").mkdir()
    async with (
        joined(server, directory, seed) as chaos,
        on_server(server.url, NAMESPACE) as space,
        SharedReplicaRegistry(RouterConfig(**chaos.settings()), health_checks=False) as registry,
    ):

        def is_well() -> bool:
            return shown(registry) == {pod.url: owner for pod, owner in chaos.alive.items()}

        try:
            await until(is_well, "all pods are healthy", PATIENCE)
            over = time.monotonic() + CHAOS_SECONDS
            while time.monotonic() < over:
                await chaos.step()
                await asyncio.sleep(0.2)
            await until(is_well, "all that live are listed and healthy, and no others", PATIENCE)
        finally:
            print("\n".join([f"\nseed {seed}", *chaos.steps, str(shown(registry))]))  # noqa: T201
        assert [str(one) for one in await find_violations(space.reader, space.keys)] == []
        events = await registry.events(count=1000)
        await asyncio.sleep(TTL + 2)
        assert is_well()
        later = [one.kind for one in (await registry.events(count=1000))[len(events) :]]
        assert EventKind.REPLICA_EXPIRED not in later
