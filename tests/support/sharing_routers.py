"""Routers of one process that share the probing of real HTTP replicas, and what each of them probed."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from typing import Any

from shared_registry import ReplicaEndpoint, RouterConfig, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer
from shared_registry.probing import HttpProber
from tests.support.replica_server import ReplicaServer
from tests.support.until import until

QUICK: dict[str, Any] = {
    "probing": "shared",
    "health_check_interval_seconds": 0.5,
    "fast_interval_seconds": 0.2,
    "health_check_timeout_seconds": 0.5,
    "lease_seconds": 30.0,  # a pause of this machine changes neither the leader nor the plan
    "renew_interval_seconds": 0.4,
    "heartbeat_seconds": 0.3,
    "router_expiry_seconds": 30.0,
    "refresh_seconds": 0.3,
}
LONG_AGO = -1e9


class SharingRouter:
    """One started router.

    Attributes:
        registry: Its registry.
        probes: When it probed which replica, by the monotonic clock, oldest first.
        is_blind: Whether its probes reach nothing.
    """

    def __init__(self, config: RouterConfig, prober: HttpProber) -> None:
        self.probes: list[tuple[float, str]] = []
        self.is_blind = False
        self._prober = prober
        self.registry = SharedReplicaRegistry(config, http_get=self._probe)

    async def _probe(self, url: str, *, timeout: float) -> tuple[float, str | None]:
        self.probes.append((time.monotonic(), url.removesuffix("/health")))
        if self.is_blind:
            return 0.0, "blind"
        return await self._prober(url, timeout=timeout)

    @property
    def key(self) -> str:
        return self.registry.router_key

    @property
    def plan(self) -> Any:
        return self.registry._mirror.plan

    def probed_since(self, at: float) -> Counter[str]:
        return Counter(url for when, url in self.probes if when >= at)


class Sharing:
    """Started routers on one namespace, and their replicas."""

    def __init__(self, server: EmbeddedServer, namespace: str, replicas: ReplicaServer, count: int) -> None:
        self.replicas = replicas
        self.hosts = [f"127.0.{1 + number // 200}.{1 + number % 200}" for number in range(count)]
        self.urls = [replicas.url(host) for host in self.hosts]
        self.routers: list[SharingRouter] = []
        self._server = server
        self._namespace = namespace
        self._stack = contextlib.AsyncExitStack()

    async def start(self, **settings: Any) -> SharingRouter:
        """Start one more router, as if it were on a machine of its own."""
        config = RouterConfig(
            replicas=[ReplicaEndpoint(url) for url in self.urls],
            namespace=self._namespace,
            router_id=f"r{len(self.routers)}",
            **{"redis_url": self._server.url, **QUICK, **settings},
        )
        prober = await self._stack.enter_async_context(HttpProber(config))
        router = SharingRouter(config, prober)
        self.routers.append(router)
        await self._stack.enter_async_context(router.registry)
        router.registry._parts.membership._probers.machine = f"machine-{len(self.routers)}"
        return router

    async def stop(self) -> None:
        await self._stack.aclose()

    @property
    def leader(self) -> SharingRouter:
        (leader,) = [router for router in self.routers if router.registry.is_leader]
        return leader

    async def until_led(self) -> SharingRouter:
        """Wait until one router leads, and return it: nobody leads for a moment after a lease has ended."""
        await until(lambda: sum(router.registry.is_leader for router in self.routers) == 1, "one leads")
        return self.leader

    @property
    def others(self) -> list[SharingRouter]:
        return [router for router in self.routers if not router.registry.is_leader]

    async def until_shared_by(self, routers: Iterable[SharingRouter]) -> None:
        """Wait until every router knows a plan of exactly these, and one of them leads."""
        keys = {router.key for router in routers}

        def is_shared() -> bool:
            plans = [router.plan for router in self._started()]
            leading = [router for router in self.routers if router.registry.is_leader]
            return len(leading) == 1 and all(plan is not None and plan.routers == keys for plan in plans)

        await until(is_shared, f"a plan of {sorted(keys)}")

    async def until_all_healthy(self) -> None:
        await until(lambda: all(len(self.healthy(router)) == len(self.urls) for router in self._started()))

    def healthy(self, router: SharingRouter) -> set[str]:
        return {replica.key for replica in router.registry.all() if replica.is_healthy}

    def probed_since(self, at: float, *, but: SharingRouter | None = None) -> set[str]:
        """Return what was probed since then by any router, or by any but one."""
        return {url for router in self.routers if router is not but for url in router.probed_since(at)}

    def _started(self) -> list[SharingRouter]:
        return [router for router in self.routers if router.registry.is_started]

    def longest_gap(self, since: float, until: float) -> float:
        """Return for how long any replica was not probed by anybody."""
        longest = 0.0
        for url in self.urls:
            at = sorted(when for router in self.routers for when, one in router.probes if one == url and when >= since)
            longest = max(
                [longest, *(after - before for before, after in zip([since, *at], [*at, until], strict=True))]
            )
        return longest


@contextlib.asynccontextmanager
async def sharing(
    server: EmbeddedServer, namespace: str, *, routers: int, replicas: int, **settings: Any
) -> AsyncIterator[Sharing]:
    """Start routers that share the probing of so many replicas, all healthy at the beginning."""
    async with ReplicaServer("0.0.0.0") as fleet:
        started = Sharing(server, namespace, fleet, replicas)
        try:
            for _ in range(routers):
                await started.start(**settings)
            await started.until_all_healthy()
            yield started
        finally:
            await started.stop()
