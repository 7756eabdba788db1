"""The demo's cluster: replicas and routers as processes, what the routers report, and an operator's hand on it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

from shared_registry.config import RouterConfig
from shared_registry.demo.process import Child, ReplicaProcess, RouterProcess
from shared_registry.model import AdminState, ReplicaEndpoint
from shared_registry.observer import Observer
from shared_registry.operations import Operator

REPLICAS, ROUTERS = 3, 3
FAST_SETTINGS: dict[str, float] = {
    "lease_seconds": 1.5,
    "renew_interval_seconds": 0.4,
    "heartbeat_seconds": 0.5,
    "router_expiry_seconds": 2.5,
    "health_check_interval_seconds": 1.0,
    "health_check_timeout_seconds": 1.0,
    "fast_interval_seconds": 0.3,
    "redis_timeout_seconds": 0.8,
}
"""What makes a matter of seconds out of what takes up to ten with the defaults, which spare Redis and replicas."""
POLL_SECONDS = 0.01
OPERATOR = "demo"


class StepFailed(Exception):
    """What a step wants to show cannot be seen; the message says what is seen instead."""


class Cluster:
    """`async with Cluster(redis_url, namespace)`: replica-1, a primary, two more replicas, and three routers.

    Whatever was started is gone after it.

    Attributes:
        replicas: By name, also those that were killed; likewise `routers`.
        observer: Looks at the registry from outside.
    """

    def __init__(self, redis_url: str, namespace: str) -> None:
        """Set up; nothing runs before `async with`."""
        self.config = RouterConfig(
            redis_url=redis_url,
            namespace=namespace,
            **FAST_SETTINGS,  # type: ignore[arg-type]
        )
        self.replicas = {name: ReplicaProcess(name) for name in (f"replica-{n}" for n in range(1, REPLICAS + 1))}
        self.routers = {name: RouterProcess(name) for name in (f"router-{n}" for n in range(1, ROUTERS + 1))}
        self.observer = Observer(self.config)
        self._operator = Operator(self.config, by=OPERATOR)
        self._connected = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Connect to Redis; `start` does the rest."""
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self.observer)
            await stack.enter_async_context(self._operator)
            self._connected = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill all processes: their Redis goes too, so there is nobody to take leave of."""
        for child in self._children():
            child.kill()
        await self._connected.aclose()

    async def start(self) -> None:
        """Start all processes. The routers take some moments more until they select."""
        for replica in self.replicas.values():
            await replica.start()
        await self.until(lambda: all(replica.port for replica in self.replicas.values()))
        endpoints = [self._endpoint(name, is_primary=name == "replica-1") for name in self.replicas]
        settings: dict[str, Any] = FAST_SETTINGS | {
            "redis_url": self.config.redis_url,
            "namespace": self.config.namespace,
            "replicas": [asdict(endpoint) for endpoint in endpoints],
        }
        for router in self.routers.values():
            await router.start(settings)

    @property
    def live_routers(self) -> list[RouterProcess]:
        """The routers that run."""
        return [router for router in self.routers.values() if router.pid is not None]

    def selected(self) -> dict[str, str | None]:
        """Return the name of the replica that each live router selected last."""
        names = {replica.url: name for name, replica in self.replicas.items()}
        latest = {router.name: router.latest for router in self.live_routers}
        return {router: names.get(report.selected or "") if report else None for router, report in latest.items()}

    def leader(self) -> tuple[RouterProcess, int] | None:
        """Return which live router leads, and its epoch, where it says so and all others agree."""
        reports = [router.latest for router in self.live_routers]
        views = {(report.leader, report.epoch) if report else (None, None) for report in reports}
        if len(views) != 1:
            return None
        [(key, epoch)] = views
        for router in self.live_routers:
            if epoch is not None and router.latest and router.latest.router == key and router.latest.is_leader:
                return router, epoch
        return None

    async def until(self, condition: Callable[[], bool], *, since: float | None = None) -> float:
        """Wait until the condition holds; return how many seconds that was after `since`, by default now.

        Raises:
            StepFailed: A process has ended by itself.
        """
        begun = time.monotonic() if since is None else since
        while not condition():
            self._expect_no_crash()
            await asyncio.sleep(POLL_SECONDS)
        return time.monotonic() - begun

    async def lasts(self, condition: Callable[[], bool], seconds: float) -> None:
        """Watch the condition for some time.

        Raises:
            StepFailed: It ceased to hold.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if not condition():
                raise StepFailed(f"it did not last {seconds:g} s: selected is {self.selected()}")
            self._expect_no_crash()
            await asyncio.sleep(POLL_SECONDS)

    async def drain(self, name: str) -> None:
        """Drain a replica, as an operator would."""
        [target] = await self._operator.find([name])
        await self._operator.set_admin(target, AdminState.DRAINING, reason="shown in the demo")

    async def add_primary(self, name: str) -> float:
        """Start one more replica, register it as a primary, and return when that was, on the monotonic clock."""
        replica = self.replicas[name] = ReplicaProcess(name)
        await replica.start()
        await self.until(lambda: replica.port != 0)
        endpoint = self._endpoint(name, is_primary=True)
        begun = time.monotonic()
        await self._operator.register(endpoint)
        return begun

    def _endpoint(self, name: str, *, is_primary: bool) -> ReplicaEndpoint:
        return ReplicaEndpoint(self.replicas[name].url, name, primary=is_primary)

    def _children(self) -> list[Child]:
        return [*self.replicas.values(), *self.routers.values()]

    def _expect_no_crash(self) -> None:
        for child in self._children():
            if child.has_crashed:
                raise StepFailed(f"{child.name} has ended by itself; it said:\n{child.log}")
