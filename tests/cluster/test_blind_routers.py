"""Routers that lose their way to replicas which the others reach: several registries of one process on one server."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from shared_registry import EventKind, ReplicaEndpoint, RouterConfig, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer
from tests.support.until import until

QUICK: dict[str, Any] = {
    "health_check_interval_seconds": 0.6,
    "fast_interval_seconds": 0.2,
    "health_check_timeout_seconds": 3.0,  # so long, and a little more, those asked may keep silent
    "lease_seconds": 15.0,  # so long that nobody loses the lead by a pause of the machine
    "renew_interval_seconds": 0.5,
    "heartbeat_seconds": 0.4,
    "router_expiry_seconds": 15.0,
    "refresh_seconds": 0.3,
}
WATCHED_SECONDS = 8.0


class Paths:
    """The paths between routers and replicas: a probe of a router reaches what the test lets it reach."""

    def __init__(self) -> None:
        self.cut: set[tuple[str, str]] = set()
        self.down: set[str] = set()

    def probe_of(self, router: str) -> Probe:
        return Probe(self, router)


class Probe:
    """One router's probe."""

    def __init__(self, paths: Paths, router: str) -> None:
        self._paths = paths
        self._router = router

    async def __call__(self, url: str, *, timeout: float) -> tuple[float, str | None]:
        await asyncio.sleep(0.001)
        key = url.removesuffix("/health")
        is_reached = key not in self._paths.down and (self._router, key) not in self._paths.cut
        return 1.0, None if is_reached else "no route"


def urls(count: int) -> list[str]:
    return [f"http://127.0.1.{number}:8000" for number in range(1, count + 1)]


class Fleet:
    """Started routers, and what they have to select from."""

    def __init__(self, registries: dict[str, SharedReplicaRegistry], paths: Paths) -> None:
        self.registries = registries
        self.paths = paths
        self.late_seconds = 0.0

    @property
    def leader(self) -> str | None:
        return next((name for name, one in self.registries.items() if one.is_leader), None)

    def blind(self, router: str, *keys: str) -> None:
        self.paths.cut |= {(router, key) for key in keys}

    def healthy(self, router: str) -> set[str]:
        return {replica.key for replica in self.registries[router].all() if replica.is_healthy}

    async def moments(self, pause_seconds: float = 0.05) -> AsyncIterator[float]:
        """Yield again and again for some time; sum up in `late_seconds` for how long this process stood still."""
        began = time.monotonic()
        while (at := time.monotonic() - began) < WATCHED_SECONDS:
            yield at
            paused_at = time.monotonic()
            await asyncio.sleep(pause_seconds)
            self.late_seconds += time.monotonic() - paused_at - pause_seconds

    async def events(self, *kinds: EventKind) -> int:
        some = next(iter(self.registries.values()))
        return sum(len(event.apart()) for event in await some.events(count=5000) if event.kind in kinds)


@contextlib.asynccontextmanager
async def fleet(server: EmbeddedServer, namespace: str, *, routers: int, replicas: int) -> AsyncIterator[Fleet]:
    paths, registries = Paths(), dict[str, SharedReplicaRegistry]()
    endpoints = [ReplicaEndpoint(url) for url in urls(replicas)]
    async with contextlib.AsyncExitStack() as stack:
        for number in range(routers):
            name = f"r{number}"
            config = RouterConfig(
                replicas=endpoints, redis_url=server.url, namespace=namespace, router_id=name, **QUICK
            )
            registry = SharedReplicaRegistry(config, http_get=paths.probe_of(name))
            # All routers of this process are on one machine; here each is on its own.
            registries[name] = registry
        for name, registry in registries.items():
            await stack.enter_async_context(registry)
            registry._parts.membership._probers.machine = f"machine-{name}"
            await registry._parts.membership.heartbeat()
        started = Fleet(registries, paths)
        await until(lambda: all(len(started.healthy(name)) == replicas for name in registries))
        await until(lambda: started.leader is not None)
        yield started


async def test_a_blind_leader_takes_no_replica_away(server: EmbeddedServer, namespace: str) -> None:
    async with fleet(server, namespace, routers=4, replicas=6) as routers:
        blind = routers.leader
        assert blind is not None
        routers.blind(blind, *urls(6))
        others = {name: one for name, one in routers.registries.items() if name != blind}
        async for _ in routers.moments():
            for registry in others.values():
                assert registry.select() is not None
                await (await registry.acquire()).release()
            assert routers.registries[blind].select() is not None, "the view is shared"
        await until(lambda: routers.leader in others, "another router leads")
        assert await routers.events(EventKind.REPLICA_UNHEALTHY) == 0


async def test_a_leader_blind_to_one_replica_stays_quiet(server: EmbeddedServer, namespace: str) -> None:
    """The router that reaches the replica probes it: few events, however long the disagreement lasts."""
    async with fleet(server, namespace, routers=4, replicas=12) as routers:
        blind = routers.leader
        assert blind is not None
        routers.blind(blind, urls(12)[4])
        async for _ in routers.moments():
            assert all(len(routers.healthy(name)) == 12 for name in routers.registries)
        assert routers.leader == blind
        (record,) = [one.record for one in routers.registries[blind].all() if one.key == urls(12)[4]]
        assert record.doubt.prober.partition("~")[0] in routers.registries.keys() - {blind}
        assert await routers.events(EventKind.REPLICA_SUSPECTED, EventKind.REPLICA_CLEARED) <= 4


async def test_half_the_routers_blind_to_a_quarter_lose_nothing_long(server: EmbeddedServer, namespace: str) -> None:
    async with fleet(server, namespace, routers=6, replicas=40) as routers:
        keys, rng = urls(40), random.Random(1)
        for name in rng.sample(sorted(routers.registries), 3):
            routers.blind(name, *keys[:10])
        out: dict[str, float] = {}
        longest = 0.0
        async for at in routers.moments(0.02):
            healthy = routers.healthy("r0")
            for key in keys:
                if key in healthy:
                    out.pop(key, None)
                else:
                    longest = max(longest, at - out.setdefault(key, at))
        limit = 7 * QUICK["health_check_interval_seconds"] + routers.late_seconds
        assert longest <= limit, "one turn of all routers, and a timeout"
        await until(lambda: len(routers.healthy("r0")) == 40)


@pytest.mark.parametrize("count", [1, 5, 12])
async def test_replicas_dead_for_all_are_unhealthy_as_soon_as_before(
    server: EmbeddedServer, namespace: str, count: int
) -> None:
    async with fleet(server, namespace, routers=3, replicas=12) as routers:
        routers.paths.down |= set(urls(12)[:count])
        began = time.monotonic()
        await until(lambda: all(len(routers.healthy(name)) == 12 - count for name in routers.registries))
        took = time.monotonic() - began
        interval, fast = QUICK["health_check_interval_seconds"], QUICK["fast_interval_seconds"]
        assert took < interval + 2 * fast + 5.0, f"{took:.1f} s; a busy machine gets 5 s more"
        assert await routers.events(EventKind.REPLICA_UNHEALTHY) == count
        assert await routers.events(EventKind.REPLICA_CLEARED) == 0


async def test_without_a_disagreement_nothing_is_asked(server: EmbeddedServer, namespace: str) -> None:
    async with fleet(server, namespace, routers=3, replicas=12) as routers:
        before = len(await routers.registries["r0"].events(count=5000))
        await asyncio.sleep(4 * QUICK["health_check_interval_seconds"])
        assert len(await routers.registries["r0"].events(count=5000)) == before
