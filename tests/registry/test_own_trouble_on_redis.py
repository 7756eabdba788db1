"""What applications tell of their own trouble is counted by nobody, and the leader's is told to all."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import AsyncIterator

import pytest

from shared_registry import Replica, ReplicaEndpoint, RouterConfig, SharedReplicaRegistry, fastvideo
from shared_registry.embedded import EmbeddedServer
from shared_registry.model import EventKind
from shared_registry.store.replies import Resignation
from tests.support.space import A, Space
from tests.support.until import until

B = "http://10.0.0.2:8000"
EMFILE = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
REASONS = [
    EMFILE,
    ExceptionGroup("all attempts", [EMFILE]),
    "ConnectError: [Errno 24] Too many open files",
    repr(EMFILE),
]


@pytest.fixture(params=["not started", "shared", "FastVideo's"])
async def registry(
    request: pytest.FixtureRequest, server: EmbeddedServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[SharedReplicaRegistry]:
    monkeypatch.setenv("SHARED_REGISTRY_REDIS_URL", server.url)
    monkeypatch.setenv("SHARED_REGISTRY_NAMESPACE", namespace)
    replicas = [ReplicaEndpoint(A), ReplicaEndpoint(B)]
    if request.param == "FastVideo's":
        found: SharedReplicaRegistry = fastvideo.ReplicaRegistry(replicas)
    else:
        config = RouterConfig(redis_url=server.url, namespace=namespace, replicas=replicas)
        found = SharedReplicaRegistry(config, health_checks=False)
    async with contextlib.AsyncExitStack() as stack:
        if request.param != "not started":
            await stack.enter_async_context(found)
        yield found


async def first(registry: SharedReplicaRegistry) -> Replica:
    await registry.refresh(at_once=True)
    replica = registry.get(A)
    assert replica is not None
    return replica


async def make_healthy(registry: SharedReplicaRegistry) -> None:
    for replica in registry.all():
        for _ in range(2):
            await registry.record_success(replica, recovery_threshold=1, latency_ms=1.0)
    await until(lambda: all(replica.is_healthy for replica in registry.all()))


@pytest.mark.parametrize("reason", REASONS, ids=["exception", "group", "text", "repr"])
async def test_own_trouble_is_not_counted_against_a_replica(
    registry: SharedReplicaRegistry, reason: str | BaseException
) -> None:
    await make_healthy(registry)
    replica = registry.all()[0]
    for _ in range(5):
        await registry.record_failure(replica, failure_threshold=1, reason=reason)
        await registry.report_outcome(replica, False, reason)
    assert registry.is_in_trouble
    if registry.is_started:
        replica = await first(registry)
    assert replica.is_healthy
    assert replica.health.consecutive_failures == 0
    selected = registry.select()
    assert selected is not None
    assert selected.key == replica.key, "nor is it in cooldown"


@pytest.mark.parametrize(
    "reason", ["refused", "HTTP 500: [Errno 24] Too many open files", ConnectionRefusedError(111, "no")]
)
async def test_a_replicas_failure_is_counted(registry: SharedReplicaRegistry, reason: str | BaseException) -> None:
    await make_healthy(registry)
    await registry.record_failure(registry.all()[0], failure_threshold=1, reason=reason)
    await until(lambda: not registry.all()[0].is_healthy)
    assert not registry.is_in_trouble


async def test_the_event_carries_the_reason_of_a_resignation(space: Space) -> None:
    await space.elect("mine")
    assert await space.store.resign("mine", reason="out of everything") is Resignation.RESIGNED
    [event] = [one async for one in space.reader.all_events() if one.kind is EventKind.LEADER_RESIGNED]
    assert (event.reason, event.by, event.sit_out_seconds) == ("out of everything", "", None)
    await space.elect("again")
    assert await space.store.resign("again") is Resignation.RESIGNED
    assert (await space.reader.last_events(1))[0].reason == ""
