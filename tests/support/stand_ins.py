"""What stands in for FastVideo's registry: ours, not started and started; the drop-in, with and without its loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import pytest

from shared_registry import ReplicaEndpoint, RouterConfig, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer
from shared_registry.fastvideo import ReplicaRegistry, run_health_check_loop
from tests.support.until import until

FOREVER_SECONDS = 3600.0


@dataclass(frozen=True)
class SharedState:
    """Where the shared state lives."""

    redis_url: str
    namespace: str

    def config(self, replicas: Sequence[ReplicaEndpoint] = (), **settings: object) -> RouterConfig:
        """Return a config for it."""
        values = {"replicas": list(replicas), "redis_url": self.redis_url, "namespace": self.namespace, **settings}
        return RouterConfig(**values)  # type: ignore[arg-type]  # settings of any type, which the config checks

    def put_into(self, environment: pytest.MonkeyPatch) -> None:
        """Let `ReplicaRegistry` find it."""
        environment.setenv("SHARED_REGISTRY_REDIS_URL", self.redis_url)
        environment.setenv("SHARED_REGISTRY_NAMESPACE", self.namespace)


def make_shared_state(server: EmbeddedServer, namespace: str, monkeypatch: pytest.MonkeyPatch) -> SharedState:
    """Return a namespace of the test's own, which is in the environment too. To be made a fixture of."""
    shared_state = SharedState(server.url, namespace)
    shared_state.put_into(monkeypatch)
    return shared_state


Build = Callable[[Sequence[ReplicaEndpoint]], AbstractAsyncContextManager[SharedReplicaRegistry]]
BUILDS: dict[str, Callable[[SharedState], Build]] = {}


def stand_in(build: Callable[[SharedState], Build]) -> Callable[[SharedState], Build]:
    BUILDS[build.__name__] = build
    return build


@stand_in
def shared_not_started(shared_state: SharedState) -> Build:
    @contextlib.asynccontextmanager
    async def build(replicas: Sequence[ReplicaEndpoint]) -> AsyncIterator[SharedReplicaRegistry]:
        yield SharedReplicaRegistry(shared_state.config(replicas))

    return build


@stand_in
def shared_started(shared_state: SharedState) -> Build:
    @contextlib.asynccontextmanager
    async def build(replicas: Sequence[ReplicaEndpoint]) -> AsyncIterator[SharedReplicaRegistry]:
        async with SharedReplicaRegistry(shared_state.config(replicas), health_checks=False) as registry:
            yield registry

    return build


@stand_in
def drop_in_not_started(shared_state: SharedState) -> Build:
    @contextlib.asynccontextmanager
    async def build(replicas: Sequence[ReplicaEndpoint]) -> AsyncIterator[SharedReplicaRegistry]:
        yield ReplicaRegistry(replicas)

    return build


@stand_in
def drop_in_running(shared_state: SharedState) -> Build:
    """Return the drop-in while its loop runs, on probes that never find out anything."""

    @contextlib.asynccontextmanager
    async def build(replicas: Sequence[ReplicaEndpoint]) -> AsyncIterator[SharedReplicaRegistry]:
        registry = ReplicaRegistry(replicas)
        probed = set()

        async def hang(url: str, *, timeout: float) -> tuple[float, str | None]:
            probed.add(url)
            await asyncio.Event().wait()
            raise AssertionError

        config = shared_state.config(
            health_check_interval_seconds=FOREVER_SECONDS, health_check_timeout_seconds=FOREVER_SECONDS
        )
        async with running(registry, config, http_get=hang):
            await until(lambda: len(probed) == len(replicas))
            yield registry

    return build


@contextlib.asynccontextmanager
async def running(
    registry: SharedReplicaRegistry, config: object, **options: object
) -> AsyncIterator[asyncio.Task[None]]:
    """Run the health check loop; at the end set its `stop_event`, and let it end within seconds."""
    stop_event = asyncio.Event()
    loop = run_health_check_loop(registry=registry, config=config, stop_event=stop_event, **options)  # type: ignore[arg-type]  # passed on
    task = asyncio.create_task(loop)
    try:
        yield task
    finally:
        stop_event.set()
        async with asyncio.timeout(10):
            await task


async def read_counters(registry: SharedReplicaRegistry) -> None:
    """Do what a `SharedReplicaRegistry` asks for where counters are to be current; the drop-in does without."""
    if registry.is_started and not isinstance(registry, ReplicaRegistry):
        await registry.refresh(at_once=True)
