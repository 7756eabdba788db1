"""Registries that take leases, what Redis has of these, and coroutines that are cancelled at a chosen point."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar
from unittest import mock

from shared_registry import Lease, RouterConfig, SharedReplicaRegistry
from shared_registry.admin.check import find_violations
from shared_registry.model import RouterInfo
from shared_registry.store.commands import Store
from shared_registry.store.replies import Heartbeat
from tests.support.space import Space
from tests.support.until import SECONDS, until

T = TypeVar("T")

NEVER = 30.0
"""Seconds after which nothing of interest happens in a test any more."""


class KeepingRegistry(SharedReplicaRegistry):
    """Keeps its leases as long as it lives, so that a test need not: a lease that nobody keeps warns."""

    def __init__(self, config: RouterConfig, **options: Any) -> None:
        super().__init__(config, **options)
        self.acquired: list[Lease] = []

    async def acquire(self, *args: Any, **options: Any) -> Lease:
        lease = await super().acquire(*args, **options)
        self.acquired.append(lease)
        return lease


@contextlib.asynccontextmanager
async def registry_on(url: str, namespace: str, **changes: Any) -> AsyncIterator[SharedReplicaRegistry]:
    """Run a registry; when it is there nothing happens by itself any more, but what the changes say."""
    settings: dict[str, Any] = {
        "heartbeat_seconds": NEVER,
        "router_expiry_seconds": 3 * NEVER,
        "refresh_seconds": NEVER,
        "redis_timeout_seconds": 10.0,
    }
    config = RouterConfig(redis_url=url, namespace=namespace, **(settings | changes))
    registry = KeepingRegistry(config, health_checks=False)
    heartbeats: list[Heartbeat] = []
    send = Store.heartbeat

    async def counted(store: Store, info: RouterInfo, **options: Any) -> Heartbeat:
        heartbeat = await send(store, info, **options)
        if info.key == registry.router_key:
            heartbeats.append(heartbeat)
        return heartbeat

    with mock.patch.object(Store, "heartbeat", counted):
        await registry.start()
        try:
            await until(lambda: len(heartbeats) >= 2 and registry._mirror._polled_at > 0)
            yield registry
        finally:
            await registry.stop()


def held(registry: SharedReplicaRegistry) -> dict[str, str]:
    """Return what a router holds, as lease id to url."""
    return {lease_id: lease.replica.key for lease_id, lease in registry._parts.placement.ledger.held.items()}


def leases(space: Space) -> dict[str, str]:
    """Return what Redis has, as lease id to url, over all routers."""
    found: dict[str, str] = {}
    for key in space.raw.scan_iter(match=f"{space.keys.leases_prefix}*", count=1000):
        found |= space.raw.hgetall(key)
    return found


def is_settled(space: Space, *registries: SharedReplicaRegistry) -> bool:
    """Whether Redis has exactly what the routers hold, and nothing is on its way any more."""
    all_held: dict[str, str] = {}
    for registry in registries:
        all_held |= held(registry)
    moving = sum(registry._parts.placement.ledger.mark().moving for registry in registries)
    return moving == 0 and leases(space) == all_held


async def settle(space: Space, *registries: SharedReplicaRegistry, seconds: float = SECONDS) -> None:
    """Wait until Redis and these routers, which are all that there are, agree on leases and counts."""
    await until(lambda: is_settled(space, *registries), seconds=seconds)
    counted: dict[str, int] = {}
    for url in leases(space).values():
        counted[url] = counted.get(url, 0) + 1
    prefix = space.keys.replica_prefix
    loads = {
        key.removeprefix(prefix): int(space.raw.hget(key, "in_flight"))
        for key in space.raw.scan_iter(match=f"{prefix}*", count=1000)
    }
    assert {url: load for url, load in loads.items() if load} == counted
    assert await find_violations(space.reader, space.keys) == []


class CancelledAt(Generic[T]):
    """Awaits a coroutine, and cancels the task around it where the coroutine is suspended for the n-th time.

    Attributes:
        was_reached: Whether there was such a point.
    """

    def __init__(self, work: Coroutine[Any, Any, T], point: int, *, after_seconds: float = 0.0) -> None:
        """Set up.

        Args:
            work: What to cancel.
            point: 1 for the first suspension.
            after_seconds: How long it is left suspended first; if it goes on before that, it is cancelled later.
        """
        self.was_reached = False
        self._work = work
        self._point = point
        self._after_seconds = after_seconds

    def __await__(self) -> Generator[Any, None, T]:
        steps = self._work.__await__()
        error: BaseException | None = None
        suspensions = 0
        while True:
            try:
                waited_for = steps.send(None) if error is None else steps.throw(error)
            except StopIteration as end:
                result: T = end.value
                return result
            suspensions += 1
            if suspensions == self._point:
                self._cancel()
            error = None
            try:
                yield waited_for
            except BaseException as raised:  # noqa: BLE001  belongs to the coroutine inside
                error = raised

    def _cancel(self) -> None:
        self.was_reached = True
        task = asyncio.current_task()
        assert task is not None
        if self._after_seconds:
            asyncio.get_running_loop().call_later(self._after_seconds, task.cancel)
        else:
            task.cancel()


async def cancel_at(work: Callable[[], Coroutine[Any, Any, T]], point: int, *, after_seconds: float = 0.0) -> bool:
    """Run work in a task of its own, cancelled at a point; return whether it came that far."""
    cancelled_at = CancelledAt(work(), point, after_seconds=after_seconds)

    async def run() -> None:
        await cancelled_at

    task = asyncio.create_task(run())
    await asyncio.wait([task])
    if not cancelled_at.was_reached:
        task.result()
    else:
        assert task.cancelled() or after_seconds, "a cancellation is not swallowed"
    return cancelled_at.was_reached
