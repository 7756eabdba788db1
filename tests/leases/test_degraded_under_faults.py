"""Sessions that are placed while Redis is away: within capacity as it was last seen, and counted afterwards."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from shared_registry import Lease, SharedReplicaRegistry, StoreUnavailable
from shared_registry.embedded import EmbeddedServer
from tests.support.leasing_registry import leases, registry_on, settle
from tests.support.space import A, B, C, Space, on_server
from tests.support.until import until

CAPACITIES = {A: 7, B: 5, C: 2}
NAMESPACE = "degraded"
LOADS = (4, 0, 1)
"""How many sessions the routers have before Redis goes away."""


@pytest.fixture
def server(own_server: Callable[..., EmbeddedServer], tmp_path: Path) -> EmbeddedServer:
    return own_server(config={"appendonly": "yes", "appendfsync": "always"}, data_dir=tmp_path / "data")


@pytest.fixture
async def space(server: EmbeddedServer) -> AsyncIterator[Space]:
    async with on_server(server.url, NAMESPACE) as space:
        for url, capacity in CAPACITIES.items():
            await space.add(url, capacity=capacity)
            await space.make("healthy", url)
        yield space


@contextlib.asynccontextmanager
async def three_routers(space: Space, server: EmbeddedServer, mode: str) -> AsyncIterator[list[SharedReplicaRegistry]]:
    changes: dict[str, Any] = {"degraded_placement": mode, "refresh_seconds": 0.1, "heartbeat_seconds": 0.3}
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(registry_on(server.url, NAMESPACE, **changes)) for _ in LOADS]


async def take(registry: SharedReplicaRegistry, count: int) -> list[Lease]:
    return [await registry.acquire() for _ in range(count)]


async def take_all(registry: SharedReplicaRegistry, *, at_most: int = 100) -> list[Lease]:
    """Take leases until there is none to be had."""
    taken: list[Lease] = []
    with contextlib.suppress(StoreUnavailable):
        while len(taken) < at_most:
            taken.append(await registry.acquire())
            await asyncio.sleep(0)
    return taken


def have_seen_all(space: Space, registries: list[SharedReplicaRegistry]) -> bool:
    """Whether every router has seen the loads as they are, and each other.

    And not in a read that began before its own last lease, which would count that one twice until the next.
    """
    wanted = Counter(leases(space).values())
    for registry in registries:
        degraded = registry._parts.placement.outage.degraded
        loads = degraded.loads
        if loads is None or Counter(loads.in_flight) != wanted or len(loads.routers) != len(registries):
            return False
        if degraded._taken:
            return False
    return True


async def test_all_routers_together_use_all_capacity_and_no_more(server: EmbeddedServer, space: Space) -> None:
    async with three_routers(space, server, "share") as registries:
        taken = [lease for one, load in zip(registries, LOADS, strict=True) for lease in await take(one, load)]
        idle = registries[1]
        await (await idle.acquire()).release()  # one that never placed any session looks at no loads
        await until(lambda: have_seen_all(space, registries))
        server.kill()
        # An answer still on its way would hide what is given back before it is read.
        await until(lambda: all(registry._mirror._trouble for registry in registries))
        for lease in taken[:2]:
            await lease.release()  # what it gives back by itself it may use again
        placed = [await take_all(registry) for registry in registries]
        assert all(lease.is_degraded for leases_of_one in placed for lease in leases_of_one)
        counts = [len(leases_of_one) for leases_of_one in placed]
        free = sum(CAPACITIES.values()) - len(taken)
        assert sum(counts) == free + 2
        assert max(counts) - min(counts) <= 1 + 2
        loads = Counter(lease.replica.key for lease in [*taken[2:], *(one for some in placed for one in some)])
        assert loads == CAPACITIES

        server.start()
        await space.clients.commands.connection_pool.disconnect()
        await settle(space, *registries)
        assert Counter(leases(space).values()) == CAPACITIES
        for lease in [*taken, *(one for some in placed for one in some)]:
            await lease.release()
        await settle(space, *registries)
        assert leases(space) == {}


async def test_in_a_panic_routers_share_out_unhealthy_replicas(server: EmbeddedServer, space: Space) -> None:
    async with three_routers(space, server, "share") as registries:
        for url in (A, B, C):
            await space.make("unhealthy", url)
        await until(lambda: all(len(registry._view.spares) == 3 for registry in registries))
        taken = [lease for one, load in zip(registries, LOADS, strict=True) for lease in await take(one, load)]
        assert all(lease.is_spare for lease in taken)
        await (await registries[1].acquire()).release()
        await until(lambda: have_seen_all(space, registries))
        server.kill()
        await until(lambda: all(registry._mirror._trouble for registry in registries))
        placed = [await take_all(registry) for registry in registries]
        everything = [*taken, *(one for some in placed for one in some)]
        assert all(lease.is_degraded and lease.is_spare for lease in everything[len(taken) :])
        assert Counter(lease.replica.key for lease in everything) == CAPACITIES

        server.start()
        await space.clients.commands.connection_pool.disconnect()
        await settle(space, *registries)
        assert Counter(leases(space).values()) == CAPACITIES
        for lease in everything:
            await lease.release()
        await settle(space, *registries)


async def test_with_off_no_session_is_placed(server: EmbeddedServer, space: Space) -> None:
    async with three_routers(space, server, "off") as registries:
        held = await take(registries[0], 2)
        server.kill()
        for registry in registries:
            with pytest.raises(StoreUnavailable):
                await registry.acquire()
        server.start()
        await space.clients.commands.connection_pool.disconnect()
        await settle(space, *registries)
        assert set(leases(space)) == {lease.id for lease in held}


async def test_unlimited_places_by_health_alone_and_reports_the_excess(
    server: EmbeddedServer, space: Space, caplog: pytest.LogCaptureFixture
) -> None:
    async with three_routers(space, server, "unlimited") as registries:
        server.kill()
        placed = [await take_all(registry, at_most=10) for registry in registries]
        assert [len(leases_of_one) for leases_of_one in placed] == [10, 10, 10]
        server.start()
        await space.clients.commands.connection_pool.disconnect()
        await settle(space, *registries)
        counted = Counter(leases(space).values())
        assert counted == Counter(one.replica.key for some in placed for one in some)
        over = {url for url, load in counted.items() if load > CAPACITIES[url]}
        text = "has more sessions than its capacity after leases were put back"
        assert over
        assert over == {message.split()[1] for message in caplog.messages if text in message}
        assert len([one for one in caplog.messages if one.startswith("placement: placing without Redis")]) == 3


async def test_a_router_that_never_read_loads_places_no_session(server: EmbeddedServer, space: Space) -> None:
    async with three_routers(space, server, "share") as registries:
        server.kill()
        with pytest.raises(StoreUnavailable):
            await registries[0].acquire()
        server.start()
        await space.clients.commands.connection_pool.disconnect()
        await settle(space, *registries)
