"""Pods, wrappers and replicas that are killed while something else answers at their address at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from typing import Self

import pytest

from shared_registry import NoHealthyReplica, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer
from shared_registry.model import EventKind
from tests.support.pauses import Pauses
from tests.support.pods import TTL, Pod, event_kinds, pod_settings, pods_of, serves
from tests.support.replica_server import ReplicaServer
from tests.support.space import Space
from tests.support.until import until

STUBBORN = (
    "import asyncio, signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "from tests.support.replica_server import ReplicaServer\n"
    "async def serve():\n    async with ReplicaServer(port=%d):\n        await asyncio.Event().wait()\n"
    "asyncio.run(serve())"
)
"""A replica that outlives the program that announces it."""


class Sessions:
    """Places one session after another, from `async with` on.

    Attributes:
        last_asked_at: When the last session that got a slot was asked for, on the monotonic clock.
    """

    def __init__(self, registry: SharedReplicaRegistry) -> None:
        self._registry = registry
        self.last_asked_at = 0.0

    async def _run(self) -> None:
        while True:
            asked_at = time.monotonic()
            with contextlib.suppress(NoHealthyReplica):
                async with await self._registry.acquire():
                    self.last_asked_at = asked_at
            await asyncio.sleep(0.02)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait((self._task,))


@contextlib.asynccontextmanager
async def something_else(port: int) -> AsyncIterator[None]:
    """Answer at a port as soon as it is free."""
    foreign = ReplicaServer(port=port)

    async def listens() -> bool:
        with contextlib.suppress(OSError):
            await foreign.start()
        return foreign.is_listening

    await until(listens, "something else answers there")
    try:
        yield
    finally:
        await foreign.stop()


async def kill(pod: Pod, what: str) -> None:
    """Kill the whole pod, its wrapper, or its replica."""
    child = await pod.child()
    if what in ("pod", "wrapper"):
        os.kill(pod.process.pid, signal.SIGKILL)
    if what in ("pod", "replica"):
        with contextlib.suppress(ProcessLookupError):  # it ends with its wrapper
            os.kill(child, signal.SIGKILL)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("heartbeat_seconds", [1.0, 6.0])
@pytest.mark.parametrize(
    ("what", "limit_seconds"),
    [("pod", TTL + 1), ("wrapper", TTL + 1), ("wrapper of a stubborn replica", TTL + 1), ("replica", 3.0)],
)
async def test_a_killed_pod_takes_no_session_after_its_time(
    space: Space, server: EmbeddedServer, namespace: str, what: str, limit_seconds: float, heartbeat_seconds: float
) -> None:
    """It is killed right after it was announced, when routers may send few heartbeats."""
    config = pod_settings(
        server,
        namespace,
        heartbeat_seconds=heartbeat_seconds,
        router_expiry_seconds=2.5 * heartbeat_seconds,
    )
    async with SharedReplicaRegistry(config) as registry, pods_of(server.url, namespace) as pods:
        pod = pods()
        before = space.raw.hget(space.keys.meta, "heartbeat_at_ms")
        await until(lambda: space.raw.hget(space.keys.meta, "heartbeat_at_ms") != before, "a heartbeat")
        is_stubborn = what.endswith("stubborn replica")
        await pod.start(command=(sys.executable, "-c", STUBBORN % pod.port) if is_stubborn else None)
        await until(lambda: serves(registry), "it serves")
        async with Sessions(registry) as sessions, Pauses() as pauses:
            await until(lambda: sessions.last_asked_at, "a session")
            await kill(pod, what.partition(" ")[0])
            killed_at = time.monotonic()
            async with contextlib.nullcontext() if is_stubborn else something_else(pod.port):
                answers_at = time.monotonic()
                if what != "replica" and answers_at < killed_at + TTL / 2:  # else it may have expired before
                    await until(lambda: sessions.last_asked_at > answers_at, "a session goes to the wrong replica")
                await until(lambda: not registry.all(), "the replica has gone")
                expired = EventKind.REPLICA_EXPIRED in await event_kinds(registry)
                assert expired == (what != "replica")
                assert not serves(registry)
                await asyncio.sleep(0.5)
        assert sessions.last_asked_at < killed_at + limit_seconds + pauses.seconds
