"""A session whose slot was given away, while its router was paused or cut off, learns that it may share the slot."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from shared_registry import RouterConfig, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer
from shared_registry.embedded.bound_process import BoundProcess
from tests.support.faulty_proxy import FaultyProxy
from tests.support.leasing_registry import leases
from tests.support.space import A, Space, on_server
from tests.support.until import until

EXPIRY = 2.5
ROOT = Path(__file__).parents[2]
PROGRAM = """
import asyncio, json, sys
from shared_registry import RouterConfig, SharedReplicaRegistry

async def main(settings):
    async with SharedReplicaRegistry(RouterConfig(**settings), health_checks=False) as registry:
        async with await registry.acquire() as lease:
            print("held", flush=True)
            while not lease.contested:
                await asyncio.sleep(0.02)
            print("contested", flush=True)

asyncio.run(main(json.loads(sys.argv[1])))
"""


def settings(url: str, space: Space) -> dict[str, Any]:
    return {
        "redis_url": url,
        "namespace": space.keys.namespace,
        "heartbeat_seconds": 0.2,
        "refresh_seconds": 0.2,
        "router_expiry_seconds": EXPIRY,
        "redis_timeout_seconds": 10.0,
    }


@pytest.fixture
async def space(server: EmbeddedServer, namespace: str) -> AsyncIterator[Space]:
    async with on_server(server.url, namespace) as space:
        await space.add(A, capacity=1)
        await space.make("healthy", A)
        yield space


@pytest.fixture
async def other(server: EmbeddedServer, space: Space) -> AsyncIterator[SharedReplicaRegistry]:
    config = RouterConfig(**settings(server.url, space))
    async with SharedReplicaRegistry(config, health_checks=False) as registry:
        yield registry


@pytest.fixture
async def registry(proxy: FaultyProxy, space: Space) -> AsyncIterator[SharedReplicaRegistry]:
    config = RouterConfig(**settings(proxy.url, space))
    async with SharedReplicaRegistry(config, health_checks=False) as registry:
        yield registry


@contextlib.asynccontextmanager
async def cut_off_until_reaped(proxy: FaultyProxy, space: Space) -> AsyncIterator[None]:
    """Cut a router off until its leases have ended; it comes back after the block."""
    proxy.refuses = True
    proxy.cut()
    await until(lambda: leases(space) == {})
    yield
    proxy.refuses = False


async def test_a_paused_process_learns_that_its_slot_was_given_away(
    server: EmbeddedServer, space: Space, other: SharedReplicaRegistry, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    argv = [sys.executable, "-c", PROGRAM, json.dumps(settings(server.url, space))]
    with output.open("wb") as file:
        process = BoundProcess(argv, cwd=ROOT, output=file)
    try:
        await until(lambda: "held" in output.read_text(), output.read_text())
        os.kill(process.pid, signal.SIGSTOP)
        async with await other.acquire(timeout=30) as lease:
            assert "contested" not in output.read_text()
            os.kill(process.pid, signal.SIGCONT)
            await until(lambda: "contested" in output.read_text())
            assert not lease.contested, "it was placed on a free slot"
    finally:
        await asyncio.to_thread(process.kill)


async def test_a_lease_back_on_its_free_slot_is_not_contested(
    proxy: FaultyProxy, space: Space, registry: SharedReplicaRegistry, other: SharedReplicaRegistry
) -> None:
    async with await registry.acquire() as lease:
        async with cut_off_until_reaped(proxy, space), await other.acquire(timeout=30):
            pass  # another session was there, and has ended
        await until(lambda: leases(space) == {lease.id: A})
        assert not lease.contested


async def test_a_lease_stays_contested_when_it_is_alone_again(
    proxy: FaultyProxy, space: Space, registry: SharedReplicaRegistry, other: SharedReplicaRegistry
) -> None:
    async with await registry.acquire() as lease:
        async with cut_off_until_reaped(proxy, space):
            newcomer = await other.acquire(timeout=30)
        await until(lambda: lease.contested)
        assert leases(space).keys() == {lease.id, newcomer.id}
        await newcomer.release()
        await registry._parts.placement.reconciler.reconcile()
        assert lease.contested
    async with await registry.acquire(timeout=30) as fresh:
        assert not fresh.contested


async def test_a_slot_given_away_after_a_loss_is_contested(
    proxy: FaultyProxy, space: Space, registry: SharedReplicaRegistry, other: SharedReplicaRegistry
) -> None:
    async with await registry.acquire() as lease:
        proxy.refuses = True
        proxy.cut()
        space.raw.delete(*space.dump())
        async with await other.acquire(timeout=30):
            proxy.refuses = False
            await until(lambda: lease.contested)
