"""What makes a router compare its leases with Redis: each of the reasons alone, while nothing else would."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from shared_registry import StoreUnavailable
from shared_registry.embedded import EmbeddedServer
from shared_registry.store.replies import Departure
from tests.support.faulty_proxy import FaultyProxy
from tests.support.leasing_registry import NEVER, held, leases, registry_on, settle
from tests.support.space import A, B, Space, info, on_server
from tests.support.until import until

HEARTBEAT = 0.2
ORPHANED = "f" * 32


@pytest.fixture
async def space(server: EmbeddedServer, namespace: str) -> AsyncIterator[Space]:
    async with on_server(server.url, namespace) as space:
        await add_replicas(space)
        yield space


@pytest.fixture
def mortal(own_server: Callable[..., EmbeddedServer], tmp_path: Path) -> EmbeddedServer:
    """A server that the test may kill and flush."""
    return own_server(config={"appendonly": "yes", "appendfsync": "always"}, data_dir=tmp_path / "data")


@pytest.fixture
async def mortal_space(mortal: EmbeddedServer) -> AsyncIterator[Space]:
    async with on_server(mortal.url, "mortal") as space:
        await add_replicas(space)
        yield space


async def add_replicas(space: Space) -> None:
    for url in (A, B):
        await space.add(url, capacity=100)
        await space.make("healthy", url)


async def plant(space: Space, router: str) -> None:
    """Let Redis have a lease that the router knows nothing of."""
    assert (await space.store_of(router).restore_leases({ORPHANED: A})) is not None
    assert ORPHANED in leases(space)


async def reap(space: Space, router: str) -> None:
    """Let others take the router for dead."""
    while await space.store.reap(router) is not Departure.DONE:  # it may beat in between
        space.expire_router(router)
    assert leases(space) == {}


async def test_a_reconnect_triggers_a_comparison(server: EmbeddedServer, space: Space) -> None:
    async with (
        FaultyProxy(server.port) as proxy,
        registry_on(proxy.url, space.keys.namespace, refresh_seconds=0.2) as registry,
    ):
        await registry.acquire()
        await plant(space, registry.router_key)
        proxy.cut()
        await until(lambda: ORPHANED not in leases(space))
        await settle(space, registry)


async def test_a_move_to_another_server_triggers_a_comparison(server: EmbeddedServer, space: Space) -> None:
    """No connection fails in a planned move, and while a session waits, no count shows a lease too many."""
    async with registry_on(server.url, space.keys.namespace, heartbeat_seconds=HEARTBEAT) as registry:
        taken = [await registry.acquire() for _ in range(2)]
        for url in {lease.replica.key for lease in taken}:
            await space.add(url, capacity=1)
        waiting = asyncio.create_task(registry.acquire(timeout=30))
        await until(registry.queue_depth)
        await plant(space, registry.router_key)
        await asyncio.sleep(3 * HEARTBEAT)  # heartbeats count it, and find nothing wrong
        assert ORPHANED in leases(space)
        registry._clients.failover.moved()
        await until(lambda: ORPHANED not in leases(space))
        for lease in taken:
            await lease.release()
        await (await waiting).release()
        await settle(space, registry)


async def test_a_restarted_server_triggers_a_comparison(mortal: EmbeddedServer, mortal_space: Space) -> None:
    """It has lost a lease that it had acknowledged, and has another one that had been given back: no count tells."""
    async with registry_on(mortal.url, mortal_space.keys.namespace, refresh_seconds=0.2) as registry:
        lost = await registry.acquire()
        await mortal_space.store_of(registry.router_key).release(lost.id)
        await plant(mortal_space, registry.router_key)
        mortal.kill()
        mortal.start()
        await mortal_space.clients.commands.connection_pool.disconnect()
        await until(lambda: list(leases(mortal_space)) == [lost.id])
        await settle(mortal_space, registry)


async def test_another_history_triggers_a_comparison(mortal: EmbeddedServer, mortal_space: Space) -> None:
    async with registry_on(mortal.url, mortal_space.keys.namespace, refresh_seconds=0.2) as registry:
        taken = [await registry.acquire() for _ in range(4)]
        mortal_space.raw.flushall()
        await mortal_space.store.heartbeat(info("other~1"), expiry_seconds=NEVER)
        await until(lambda: leases(mortal_space) == held(registry))
        await settle(mortal_space, registry)
        assert len(leases(mortal_space)) == 4
        assert not any(lease.lost.is_set() for lease in taken), "a loss of history is no news of a replica"
        for lease in taken:
            await lease.release()
        await settle(mortal_space, registry)


async def test_a_flush_during_new_acquires_triggers_a_comparison(mortal: EmbeddedServer, mortal_space: Space) -> None:
    async with registry_on(
        mortal.url, mortal_space.keys.namespace, refresh_seconds=0.2, heartbeat_seconds=0.2
    ) as registry:
        for _ in range(3):
            await registry.acquire()
            mortal_space.raw.flushall()
            await settle(mortal_space, registry)
        assert len(held(registry)) == 3


async def test_an_acquire_that_notices_a_reaping_triggers_a_comparison(server: EmbeddedServer, space: Space) -> None:
    async with registry_on(server.url, space.keys.namespace) as registry:
        before = await registry.acquire()
        await reap(space, registry.router_key)
        after = await registry.acquire()
        assert leases(space).keys() == {before.id, after.id}, "what was held counts before anything new"
        await settle(space, registry)


async def test_a_heartbeat_that_notices_a_reaping_triggers_a_comparison(server: EmbeddedServer, space: Space) -> None:
    async with registry_on(server.url, space.keys.namespace, heartbeat_seconds=HEARTBEAT) as registry:
        lease = await registry.acquire()
        await reap(space, registry.router_key)
        await until(lambda: list(leases(space)) == [lease.id])
        await settle(space, registry)


async def test_an_acquire_of_unknown_outcome_triggers_a_comparison(server: EmbeddedServer, space: Space) -> None:
    async with (
        FaultyProxy(server.port) as proxy,
        registry_on(proxy.url, space.keys.namespace, degraded_placement="off") as registry,
    ):
        await registry.acquire()
        proxy.cuts_at_reply = proxy.refuses = True
        with pytest.raises(StoreUnavailable):
            await registry.acquire()
        proxy.heal()
        await settle(space, registry)
        assert len(leases(space)) == 1


@pytest.mark.parametrize("fault", ["cuts_at_reply", "loses_commands"])
async def test_a_release_of_unknown_outcome_is_completed(server: EmbeddedServer, space: Space, fault: str) -> None:
    haste = {"redis_timeout_seconds": 2.0}
    async with FaultyProxy(server.port) as proxy, registry_on(proxy.url, space.keys.namespace, **haste) as registry:
        lease = await registry.acquire()
        setattr(proxy, fault, True)
        await lease.release()
        proxy.heal()
        await until(lambda: leases(space) == {})
        await settle(space, registry)


async def test_a_heartbeat_that_counts_too_many_triggers_a_comparison(server: EmbeddedServer, space: Space) -> None:
    async with registry_on(server.url, space.keys.namespace, heartbeat_seconds=HEARTBEAT) as registry:
        await registry.acquire()
        await plant(space, registry.router_key)
        await until(lambda: ORPHANED not in leases(space), seconds=NEVER / 2)
        await settle(space, registry)


async def test_a_heartbeat_that_counts_too_few_triggers_a_comparison(server: EmbeddedServer, space: Space) -> None:
    async with registry_on(server.url, space.keys.namespace, heartbeat_seconds=HEARTBEAT) as registry:
        lease = await registry.acquire()
        await space.store_of(registry.router_key).release(lease.id)
        await until(lambda: list(leases(space)) == [lease.id])
        await settle(space, registry)


async def test_a_release_during_an_outage_returns_at_once(mortal: EmbeddedServer, mortal_space: Space) -> None:
    """Redis receives it later."""
    async with registry_on(mortal.url, mortal_space.keys.namespace, redis_timeout_seconds=NEVER) as registry:
        ended, kept = await registry.acquire(), await registry.acquire()
        mortal.kill()
        began = time.monotonic()
        await ended.release()
        assert time.monotonic() - began < NEVER / 3
        mortal.start()
        await mortal_space.clients.commands.connection_pool.disconnect()
        await until(lambda: list(leases(mortal_space)) == [kept.id])
        await settle(mortal_space, registry)
