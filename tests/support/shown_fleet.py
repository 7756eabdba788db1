"""A router with an admin address in front of any number of mock replicas, which one server is."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator
from typing import Any

from shared_registry.config import RouterConfig
from shared_registry.model import ReplicaEndpoint
from shared_registry.proxy import descriptors
from tests.proxy.conftest import FAST, RunningRouter, running_router
from tests.support.replica_server import MockReplica, ReplicaServer
from tests.support.until import until

SECONDS = 120.0


class ShownFleet:
    """A router, and its replicas `gpu-0`, `gpu-1` and so on."""

    def __init__(self, config: RouterConfig, router: RunningRouter, server: ReplicaServer) -> None:
        self.config = config
        self.router = router
        self._server = server

    def replica(self, number: int) -> MockReplica:
        return self._server.replica(address_of(number))

    def are_healthy(self) -> bool:
        [pool] = self.router.router.pools.values()
        return len(pool.registry.all()) == len(self.config.replicas) and all(
            one.is_healthy for one in pool.registry.all()
        )


def address_of(number: int) -> str:
    """Return an address of this machine; each number has one of its own."""
    return f"127.1.{number // 250}.{number % 250 + 1}"


@contextlib.asynccontextmanager
async def shown_fleet(
    redis_url: str, count: int, *, is_awaited: bool = True, **settings: Any
) -> AsyncIterator[ShownFleet]:
    """Run a router in front of that many replicas, and wait until all are healthy, unless told not to."""
    descriptors.raise_soft_limit()  # each probe has a connection, and both of its ends are in this process
    async with ReplicaServer("0.0.0.0") as server:
        replicas = [
            ReplicaEndpoint(
                server.url(address_of(number)), f"gpu-{number}", capacity=4, labels={"zone": "ab"[number % 2]}
            )
            for number in range(count)
        ]
        own = {"redis_url": redis_url, "namespace": f"shown.{secrets.token_hex(4)}", "replicas": replicas}
        slow = {
            "health_check_interval_seconds": 60.0,
            "health_check_timeout_seconds": 15.0,
            "fast_interval_seconds": 60.0,
            "recovery_threshold": 1,
            "failure_threshold": 1,
            "lease_seconds": 30.0,
            "refresh_seconds": 2.0,
            "redis_timeout_seconds": 10.0,
        }
        config = RouterConfig(**{**FAST, "admin_port": 0, **(slow if count > 100 else {}), **own, **settings})
        async with running_router(config) as router:
            fleet = ShownFleet(config, router, server)
            if is_awaited:
                await until(fleet.are_healthy, "all replicas are healthy", SECONDS)
            yield fleet
