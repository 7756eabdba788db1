"""Whole registries through losses of history: sessions go on being placed, and all end up showing the truth."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeAlias

from redis import Redis

from shared_registry import ReplicaEndpoint, RouterConfig, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer
from shared_registry.errors import StoreError
from tests.support.space import A, B, C
from tests.support.until import until

NAMESPACE = "lost"
D, E = "http://10.0.0.4:8000", "http://10.0.0.5:8000"
SLOW_SECONDS = 30.0
Own: TypeAlias = Callable[..., EmbeddedServer]


async def answer(url: str, *, timeout: float) -> tuple[float, str | None]:
    """Answer for all replicas: all are well but C, which is down."""
    return 1.0, "refused" if C in url else None


def registry(
    server: EmbeddedServer, name: str, *, health_checks: bool = True, seeds: tuple[str, ...] = ()
) -> SharedReplicaRegistry:
    config = RouterConfig(
        replicas=[ReplicaEndpoint(url) for url in seeds],
        redis_url=server.url,
        namespace=NAMESPACE,
        router_id=name,
        refresh_seconds=0.1,
        heartbeat_seconds=0.1,
        router_expiry_seconds=SLOW_SECONDS,
        lease_seconds=0.6,
        renew_interval_seconds=0.1,
        health_check_interval_seconds=0.1,
        failure_threshold=1,
    )
    return SharedReplicaRegistry(config, http_get=answer, health_checks=health_checks)


@contextlib.asynccontextmanager
async def started(server: EmbeddedServer, count: int = 3) -> AsyncIterator[list[SharedReplicaRegistry]]:
    """Three registries that know of five replicas: healthy, disabled, down, removed, draining."""
    async with contextlib.AsyncExitStack() as stack:
        registries = [await stack.enter_async_context(registry(server, f"router-{number}")) for number in range(count)]
        first = registries[0]
        for url in (A, B, C, D, E):
            await first.register(ReplicaEndpoint(url, primary=url == A, weight=2.0))
        await until(lambda: statuses(first) == {A: "healthy", B: "healthy", C: "unhealthy", D: "healthy", E: "healthy"})
        await first.disable(B, reason="broken")
        await first.deregister(D)
        await first.drain(E)
        await until(lambda: len({shown(one) for one in registries}) == 1)
        yield registries


def statuses(one: SharedReplicaRegistry) -> dict[str, str]:
    return {replica.url: replica.health.status.value for replica in one.all()}


def shown(one: SharedReplicaRegistry) -> tuple[object, ...]:
    return tuple(
        (replica.endpoint.url, replica.endpoint.weight, replica.primary, replica.health.status, replica.admin)
        for replica in one.all()
    )


class Watch:
    """Asks registries again and again which replica to take, on every turn of the event loop."""

    def __init__(self, registries: list[SharedReplicaRegistry]) -> None:
        self.registries = registries
        self.answers: set[str | None] = set()
        self.questions = 0

    async def run(self) -> None:
        while True:
            for one in self.registries:
                replica = one.select()
                self.answers.add(replica.url if replica else None)
                self.questions += 1
            await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def watched(registries: list[SharedReplicaRegistry]) -> AsyncIterator[None]:
    """Fail where any of them ever selects anything but A meanwhile."""
    watch = Watch(registries)
    task = asyncio.create_task(watch.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert watch.answers == {A}
    assert watch.questions > 100


async def settled(registries: list[SharedReplicaRegistry], old_history_id: str | None) -> None:
    """Return when all follow one history other than the old one, to its end, and it is sound."""

    async def are_settled() -> bool:
        heads = {(one.history_id, one.revision) for one in registries}
        try:
            return (
                len(heads) == 1
                and old_history_id not in {one.history_id for one in registries}
                and not await violations()
            )
        except StoreError:
            return False

    async def violations() -> list[object]:
        return list(await registries[0].check())

    await until(are_settled, seconds=20)


async def test_a_flush_changes_no_routers_view(own_server: Own) -> None:
    server = own_server()
    async with started(server) as registries:
        before, history_id = shown(registries[0]), registries[0].history_id
        async with watched(registries):
            with Redis.from_url(server.url) as raw:
                raw.flushall()
            await settled(registries, history_id)
        assert {shown(one) for one in registries} == {before}
        await until(lambda: any(one.is_leader for one in registries))


async def test_a_server_emptied_twice_changes_no_routers_view(own_server: Own) -> None:
    server = own_server()
    async with started(server) as registries:
        before, history_id = shown(registries[0]), registries[0].history_id
        async with watched(registries):
            for _ in range(2):
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
                await settled(registries, history_id)
                history_id = registries[0].history_id
        assert {shown(one) for one in registries} == {before}


async def test_a_router_starting_after_the_loss_changes_nothing(own_server: Own) -> None:
    """Its config file names what was disabled and what was removed."""
    server = own_server()
    async with started(server) as registries:
        before, history_id = shown(registries[0]), registries[0].history_id
        async with watched(registries):
            with Redis.from_url(server.url) as raw:
                raw.flushall()
            async with registry(server, "new", health_checks=False, seeds=(A, B, D)) as new:
                await settled([*registries, new], history_id)
                assert {shown(one) for one in [*registries, new]} == {before}


async def test_an_older_copy_of_the_data_is_accepted(own_server: Own, tmp_path: Path) -> None:
    """As after a failover to a replica of Redis that lagged behind: the history is the same, its end is missing."""
    server = own_server(data_dir=tmp_path)
    async with started(server) as registries:
        history_id = registries[0].history_id
        with Redis.from_url(server.url) as raw:
            raw.save()
            await registries[1].deregister(C)
            await registries[1].register(ReplicaEndpoint("http://10.0.0.6:8000", weight=5.0))
            await registries[1].enable(B)
            await until(lambda: all(B not in disabled(one) for one in registries))
        async with watched(registries):
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            await until(lambda: all(disabled(one) == {B} for one in registries))
            await settled(registries, None)
        assert {one.history_id for one in registries} == {history_id}
        for one in registries:
            assert {replica.url for replica in one.all()} == {A, B, C, E}


def disabled(one: SharedReplicaRegistry) -> set[str]:
    return {replica.url for replica in one.all() if replica.admin.value == "disabled"}
