"""Policies over a real server: the loads that they go by arrive by themselves, and panic is told once."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from shared_registry import EventKind, Fenced, ReplicaEndpoint, RouterConfig, SharedReplicaRegistry
from shared_registry.admin.observer import Observer
from shared_registry.embedded import EmbeddedServer
from shared_registry.model import Term
from shared_registry.proxy.status import Queue, status_document
from tests.support.space import A, B, C, D, Space, info, on_server
from tests.support.until import until

URLS = (A, B, C, D)
PANIC = (EventKind.PANIC_BEGAN, EventKind.PANIC_ENDED)


class Fleet:
    """Probes that fail where the test says."""

    def __init__(self) -> None:
        self.down: set[str] = set()

    async def probe(self, url: str, *, timeout: float) -> tuple[float, str | None]:
        return 1.0, "refused" if any(url.startswith(down) for down in self.down) else None


class Routers:
    """Registries of one namespace, which all may lead."""

    def __init__(self, server: EmbeddedServer, namespace: str) -> None:
        self.fleet = Fleet()
        self.settings: dict[str, Any] = {
            "redis_url": server.url,
            "namespace": namespace,
            "replicas": [ReplicaEndpoint(url) for url in URLS],
            "health_check_interval_seconds": 0.05,
            "fast_interval_seconds": 0.05,
            "refresh_seconds": 0.1,
            "heartbeat_seconds": 0.2,
        }

    @contextlib.asynccontextmanager
    async def running(self, **settings: Any) -> AsyncIterator[SharedReplicaRegistry]:
        config = RouterConfig(**(self.settings | settings))
        async with SharedReplicaRegistry(config, http_get=self.fleet.probe, seed=1) as registry:
            await until(lambda: all(replica.is_healthy for replica in registry.all()) or bool(self.fleet.down))
            yield registry


@pytest.fixture
def routers(server: EmbeddedServer, namespace: str) -> Routers:
    return Routers(server, namespace)


def shares(registry: SharedReplicaRegistry, **call: Any) -> Counter[str]:
    return Counter(replica.key for _ in range(40) if (replica := registry.select(**call)))


async def test_loads_of_other_routers_arrive_automatically(routers: Routers) -> None:
    async with routers.running() as placing, routers.running(policy="least_loaded") as selecting:
        leases = [await placing.acquire(exclude=[C, D]) for _ in range(60)]

        def avoids_the_loaded() -> bool:
            counts = shares(selecting)
            return counts[C] + counts[D] > 30

        await until(avoids_the_loaded)
        for lease in leases:
            await lease.release()

        def is_even_again() -> bool:
            return min(shares(selecting).values()) >= 7

        await until(is_even_again)


async def test_loads_arrive_for_per_call_policies_and_bounded_hash(routers: Routers) -> None:
    async with routers.running(hash_max_load=1.25) as registry:
        home = registry.select(key="k", policy="hash")
        assert home is not None
        others = [url for url in URLS if url != home.key]
        leases = [await registry.acquire(exclude=others) for _ in range(20)]

        load = registry._view.selection.loads.known[home]
        registry.select(policy="least_loaded")
        await until(lambda: load.count >= 20)
        picked = [registry.select(key="k", policy="hash"), registry.select(policy="least_loaded")]
        assert home not in picked
        for lease in leases:
            await lease.release()


async def test_all_routers_together_record_one_panic_and_one_end(
    routers: Routers, namespace: str, server: EmbeddedServer
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        running = [
            await stack.enter_async_context(routers.running(panic_percent=50.0, router_id=f"r{number}"))
            for number in range(3)
        ]
        observer = await stack.enter_async_context(Observer(running[0].config))
        assert (await observer.overview()).panic == ""

        routers.fleet.down = {A, B, C}
        await until(lambda: all(registry.panic is not None for registry in running))
        await until(lambda: all(set(shares(registry)) == set(URLS) for registry in running))
        why = "1 of 4 active replicas healthy, panic_percent is 50"
        assert status_document(running[1], url="", live_sessions=0, queue=Queue(0, 0))["panic"] == why

        async def told() -> list[tuple[EventKind, str]]:
            events = [event for event in await observer.last_events(1000) if event.kind in PANIC]
            return [(event.kind, event.reason) for event in events]

        async def is_told() -> bool:
            return bool(await told())

        await until(is_told)
        began = await told()
        assert [kind for kind, _ in began] == [EventKind.PANIC_BEGAN]
        assert began[0][1].endswith("of 4 active replicas healthy, panic_percent is 50")
        assert (await observer.overview()).panic == began[0][1]

        await until(lambda: any(registry.is_leader for registry in running))
        leader = next(registry for registry in running if registry.is_leader)
        await leader.stop()
        rest = [registry for registry in running if registry is not leader]
        await until(lambda: any(registry.is_leader for registry in rest))
        routers.fleet.down = {A}
        await until(lambda: all(registry.panic is None for registry in rest))
        # Panic ends with the first of the two that heal.
        await until(lambda: set(URLS) - set(shares(rest[0], policy="round_robin")) == {A})

        async def has_ended() -> bool:
            return len(await told()) > 1

        await until(has_ended)
        assert [kind for kind, _ in await told()] == list(PANIC)
        assert (await observer.overview()).panic == ""
        assert await rest[0].check() == []


async def test_without_a_threshold_an_earlier_leaders_panic_ends(
    routers: Routers, namespace: str, server: EmbeddedServer
) -> None:
    async with on_server(server.url, namespace) as space:
        await space.add(A)
        epoch = await space.elect()
        assert await space.store.declare_panic(Term(epoch, "token"), "few")
        space.raw.delete(space.keys.leader)
        routers.fleet.down = set(URLS)
        async with routers.running() as registry:
            await until(lambda: "panic_ended" in space.event_kinds())
            await until(lambda: not any(replica.is_healthy for replica in registry.all()))
            assert (registry.panic, registry.select()) == (None, None)
        assert space.event_kinds().count("panic_began") == 1


async def test_only_the_leader_declares_panic_and_only_changes(space: Space) -> None:
    await space.store.heartbeat(info(), expiry_seconds=60)
    epoch = await space.elect()
    term = Term(epoch, "token")
    for refused in (Term(epoch, "other"), Term(epoch - 1, "token")):
        with pytest.raises(Fenced):
            await space.store.declare_panic(refused, "few")
    assert not await space.store.declare_panic(term, "")
    assert await space.store.declare_panic(term, "few")
    before = space.dump()
    assert not await space.store.declare_panic(term, "fewer")
    assert space.dump() == before
    assert space.raw.hget(space.keys.meta, "panic") == "few"
    assert await space.store.declare_panic(term, "")
    assert not space.raw.hexists(space.keys.meta, "panic")
    began, ended = await space.reader.last_events(2)
    assert [(one.kind, one.router, one.reason) for one in (began, ended)] == [
        (EventKind.PANIC_BEGAN, "router~1", "few"),
        (EventKind.PANIC_ENDED, "router~1", ""),
    ]


async def test_a_running_router_puts_large_work_of_policies_off(routers: Routers) -> None:
    pieces = iter(range(3))
    async with routers.running(policy="hash") as registry:
        later = registry._view.selection.later
        assert later.put_off(lambda: next(pieces, None) is None)
        await until(lambda: later.is_done)
    assert not later.put_off(lambda: True)
