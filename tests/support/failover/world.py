"""Three router processes with sessions and waiters in front of replicas, while something happens to their Redis."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx

from shared_registry.admin.check import find_violations
from shared_registry.errors import StoreError
from shared_registry.model import AdminState
from shared_registry.store.keys import Keys
from tests.support.command import Running, running
from tests.support.failover.deployments import Deployment
from tests.support.failover.replicas import CountingReplica, Overload
from tests.support.failover.sessions import Clients
from tests.support.space import Space, on_server
from tests.support.until import until

ROUTERS, REPLICAS, CAPACITY, CLIENTS = 3, 2, 3, 15
LASTING_SECONDS = 0.4
POLL_SECONDS = 0.05
CLOCK_MS = 50
"""Two readings of the end of one lease differ by less."""
MARKER = "http://127.0.0.1:1"
"""A disabled replica. A change of the reason is a change that every router must show."""
REPORT = "more sessions than its capacity"
SETTINGS: dict[str, Any] = {
    "host": "127.0.0.1",
    "port": 0,
    "health_check_interval_seconds": 0.5,
    "recovery_threshold": 1,
    "queue_timeout_seconds": 60,
    "grace_seconds": 0,
}
"""All other settings have their defaults."""


class Router:
    """A router process.

    Attributes:
        oldest: The highest age of its view that was seen.
        failures: Why its writes failed, as its status page showed it, in order.
        warnings: The warnings of its `/readyz`, in order.
        statuses: The statuses of its `/readyz` since it was ready.
        marked: The reason that it shows for the marker.
        key: Its key; empty until it is ready.
    """

    def __init__(self, command: Running) -> None:
        self.command = command
        self.oldest = 0.0
        self.failures: list[str] = []
        self.warnings: list[str] = []
        self.marked = ""
        self.key = ""
        self.statuses: set[int] = set()

    def lines(self) -> list[dict[str, Any]]:
        """Return its log."""
        lines = self.command.err.splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]

    def logged(self, text: str) -> list[str]:
        return [line["message"] for line in self.lines() if text in line["message"]]

    @property
    def url(self) -> str:
        """Return its address; empty until it has one."""
        return next((str(line["url"]) for line in self.lines() if "url" in line), "")

    async def poll(self, http: httpx.AsyncClient) -> None:
        """Read its pages again and again."""
        while True:
            with contextlib.suppress(httpx.TransportError):
                await self._read(http)
            await asyncio.sleep(POLL_SECONDS)

    async def _read(self, http: httpx.AsyncClient) -> None:
        status = (await http.get(f"{self.url}/status")).json()
        ready = await http.get(f"{self.url}/readyz")
        if ready.status_code != HTTPStatus.OK and not self.key:
            return
        self.key = status["router"]
        self.statuses.add(ready.status_code)
        self.oldest = max(self.oldest, status["age_seconds"] or 0.0)
        for found, text in ((self.failures, status["write_failure"]), (self.warnings, ready.json().get("warning"))):
            if text and text not in found:
                found.append(text)
        self.marked = next((one["admin_reason"] for one in status["replicas"] if one["url"] == MARKER), "")


class World:
    """All that runs in a scenario.

    Attributes:
        deployment: The Redis.
        routers: The router processes.
        clients: Those of the routers.
        named_at: When a new primary was named, or the fault was over; see `named`.
    """

    def __init__(self, deployment: Deployment, routers: list[Router], clients: Clients) -> None:
        self.deployment = deployment
        self.routers = routers
        self.clients = clients
        self.replicas: list[CountingReplica] = []
        self.keys = Keys(deployment.namespace)
        self.named_at = self._leader = 0.0
        self._traces: dict[str, object] = {}
        self._changes = 0

    def named(self) -> None:
        """Record that from now on the present primary can be used. Here begins the time until all is right again."""
        self.named_at = time.monotonic()
        self._traces = {router.key: self._trace(router.key) for router in self.routers}
        self._leader = self._leader_at()

    def served_by_each(self, since: float) -> bool:
        """Return whether every router has served a session since then."""
        return {router for at, router in self.clients.outcomes.served if at > since} == set(range(ROUTERS))

    async def until_right_again(self) -> tuple[float, ...]:
        """Return how long it took until each router wrote, one of them was the leader, and all of them saw a change."""
        done = await asyncio.gather(self._until_written(), self._until_led(), self._until_seen())
        return tuple(at - self.named_at for at in done)

    async def _until_written(self) -> float:
        await until(lambda: all(self._trace(each.key) != self._traces[each.key] for each in self.routers), "a write")
        return time.monotonic()

    async def _until_led(self) -> float:
        await until(lambda: self._leader_at() > self._leader + CLOCK_MS, "a leader that has written")
        return time.monotonic()

    async def _until_seen(self) -> float:
        self._changes += 1
        text = f"change {self._changes}"
        async with on_server(self.deployment.server.url, self.keys.namespace) as space:
            await until(lambda: _lands(space, text), "a change")
        await until(lambda: all(router.marked == text for router in self.routers), "the change is seen by all")
        return time.monotonic()

    def _trace(self, router: str) -> object:
        """Return what changes at the primary whenever a router sends a heartbeat, or acquires or releases a lease."""
        raw = self.deployment.raw
        return raw.zscore(self.keys.routers, router), frozenset(raw.hkeys(self.keys.leases(router)))

    def _leader_at(self) -> float:
        """Return when the lease of the leader ends, by the server's clock; 0 if there is no leader."""
        raw = self.deployment.raw
        left: int = raw.pttl(self.keys.leader)
        seconds, microseconds = raw.time()
        return seconds * 1000 + microseconds / 1000 + left if left > 0 else 0.0

    def age(self) -> float:
        """Return the highest age of any view so far."""
        return max(router.oldest for router in self.routers)

    def overloads(self) -> list[Overload]:
        return [overload for replica in self.replicas for overload in replica.overloads()]

    def is_reported(self) -> bool:
        """Return whether a router has logged that leases were put back beyond a capacity."""
        return any(router.logged(REPORT) for router in self.routers)

    async def violations(self) -> list[Any]:
        """Return what `shared-registry check` finds."""
        async with on_server(self.deployment.server.url, self.keys.namespace) as space:
            return await find_violations(space.reader, space.keys)


async def _lands(space: Space, text: str) -> bool:
    with contextlib.suppress(StoreError):
        return await space.store.set_admin(MARKER, AdminState.DISABLED, reason=text) is not None
    return False


@contextlib.asynccontextmanager
async def world(deployment: Deployment, directory: Path, rng: random.Random) -> AsyncIterator[World]:
    """Start the replicas, the routers and the sessions, and wait until sessions are served and others wait."""
    async with contextlib.AsyncExitStack() as stack:
        replicas = [await stack.enter_async_context(CountingReplica(CAPACITY)) for _ in range(REPLICAS)]
        async with on_server(deployment.server.url, deployment.namespace) as space:
            for replica in replicas:
                await space.add(replica.url, capacity=CAPACITY)
            await space.add(MARKER)
            await space.store.set_admin(MARKER, AdminState.DISABLED)
        routers = [
            Router(stack.enter_context(running(directory, "--json", "serve", **variables(deployment, number))))
            for number in range(ROUTERS)
        ]
        await until(lambda: all(router.url for router in routers), "the routers listen", 60)
        http = await stack.enter_async_context(httpx.AsyncClient(trust_env=False, timeout=60))
        async with asyncio.TaskGroup() as group:
            pollers = [group.create_task(router.poll(http)) for router in routers]
            urls = [router.url.replace("http", "ws") for router in routers]
            clients = Clients(urls, count=CLIENTS, lasting_seconds=LASTING_SECONDS, rng=rng)
            made = World(deployment, routers, clients)
            made.replicas = replicas
            async with clients.running():
                await until(lambda: made.served_by_each(0.0) and clients.waiting, "sessions are served", 60)
                await until(lambda: all(router.key for router in routers), "the routers are ready", 60)
                yield made
            for poller in pollers:
                poller.cancel()


def variables(deployment: Deployment, number: int) -> dict[str, str]:
    """Return the variables of a router's process."""
    settings = SETTINGS | {
        "redis_url": deployment.url,
        "namespace": deployment.namespace,
        "router_id": f"r{number}",
    }
    return {f"SHARED_REGISTRY_{name.upper()}": str(value) for name, value in settings.items()}
