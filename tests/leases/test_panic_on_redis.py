"""A panic as an application meets it: what `acquire()` gives, how often, and where the session stands afterwards."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from shared_registry import Lease, NoHealthyReplica, Saturated, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer
from tests.support.leasing_registry import registry_on, settle
from tests.support.space import A, B, C, D, Space, on_server
from tests.support.until import until

LONG = 30.0


@pytest.fixture
async def space(server: EmbeddedServer, namespace: str) -> AsyncIterator[Space]:
    async with on_server(server.url, namespace) as space:
        for url in (A, B, C, D):
            await space.add(url, capacity=4)
            await space.make("healthy", url)
        yield space


@pytest.fixture
async def registry(server: EmbeddedServer, space: Space) -> AsyncIterator[SharedReplicaRegistry]:
    async with registry_on(server.url, space.keys.namespace, heartbeat_seconds=0.3) as registry:
        yield registry
        assert await registry.check() == []


async def fail(space: Space, registry: SharedReplicaRegistry, *urls: str) -> None:
    for url in urls:
        await space.make("unhealthy", url)
    await until(lambda: all(not registry._view.get(url).is_healthy for url in urls))  # type: ignore[union-attr]


def line(space: Space) -> dict[str, float]:
    return dict(space.raw.zrange(space.keys.queue, 0, -1, withscores=True))


async def joined(space: Space, registry: SharedReplicaRegistry, **how: Any) -> asyncio.Task[Lease]:
    before = len(line(space))
    task = asyncio.create_task(registry.acquire(**({"timeout": LONG} | how)))
    await until(lambda: len(line(space)) > before)
    return task


async def test_by_default_half_of_the_replicas_must_be_healthy(registry: SharedReplicaRegistry, space: Space) -> None:
    await fail(space, registry, A, B)
    full = [await registry.acquire() for _ in range(8)]
    assert not any(lease.is_spare for lease in full)
    assert registry.panic is None
    with pytest.raises(Saturated):
        await registry.acquire()
    await fail(space, registry, C)
    assert str(registry.panic) == "1 of 4 active replicas healthy, panic_percent is 50"
    lease = await registry.acquire()
    assert lease.is_spare
    assert lease.replica.key in (A, B)
    for one in (*full, lease):
        await one.release()


async def test_select_keeps_to_healthy_replicas_by_default(registry: SharedReplicaRegistry, space: Space) -> None:
    await fail(space, registry, A, B, C)
    assert registry.panic is not None
    assert {replica.key for _ in range(20) if (replica := registry.select())} == {D}
    await fail(space, registry, D)
    assert registry.select() is None
    assert not await registry.wait_ready(timeout_seconds=0.05)


async def test_a_percentage_that_is_set_is_that_of_select_too(server: EmbeddedServer, space: Space) -> None:
    async with registry_on(server.url, space.keys.namespace, panic_percent=50.0) as registry:
        await fail(space, registry, A, B, C)
        assert {replica.key for _ in range(20) if (replica := registry.select())} == {A, B, C, D}


async def test_at_0_percent_nobody_gets_an_unhealthy_replica(server: EmbeddedServer, space: Space) -> None:
    async with registry_on(server.url, space.keys.namespace, panic_percent=0.0) as registry:
        await fail(space, registry, A, B, C, D)
        assert registry.panic is None
        with pytest.raises(NoHealthyReplica):
            await registry.acquire()


async def test_one_session_tries_two_and_is_refused_then(registry: SharedReplicaRegistry, space: Space) -> None:
    await fail(space, registry, A, B, C, D)
    tried: list[Lease] = []
    for _ in range(2):
        lease = await registry.acquire(exclude=tried)
        assert lease.is_spare
        await lease.release()
        tried.append(lease)
    assert len({lease.replica.key for lease in tried}) == 2
    with pytest.raises(NoHealthyReplica):
        await registry.acquire(exclude=tried)
    assert (await registry.acquire()).is_spare


@pytest.mark.parametrize("named", [lambda lease: lease.replica, lambda lease: lease.replica.url])
async def test_replicas_that_are_excluded_by_name_count_as_tries(
    registry: SharedReplicaRegistry, space: Space, named: Callable[[Lease], Any]
) -> None:
    await fail(space, registry, A, B, C, D)
    tried: list[Any] = []
    for _ in range(2):
        lease = await registry.acquire(exclude=tried)
        await registry.report_outcome(lease.replica, False, "refused")
        await lease.release()
        tried.append(named(lease))
    with pytest.raises(NoHealthyReplica):
        await registry.acquire(exclude=tried)


async def test_a_failure_on_a_healthy_replica_is_no_such_try(registry: SharedReplicaRegistry, space: Space) -> None:
    tried = [await registry.acquire(exclude=[A, B]) for _ in range(2)]
    for lease in tried:
        await lease.release()
    await fail(space, registry, A, B, C, D)
    assert (await registry.acquire(exclude=tried)).is_spare


async def test_after_two_tries_a_session_waits_at_its_own_position(
    registry: SharedReplicaRegistry, space: Space
) -> None:
    await fail(space, registry, A, B, C, D)
    tried: list[Lease] = []
    for _ in range(2):
        lease = await registry.acquire(exclude=tried, timeout=LONG)
        await lease.release()
        tried.append(lease)
    assert tried[0].sequence == tried[1].sequence != ""
    others = [await registry.acquire() for _ in range(16)]
    later = await joined(space, registry)
    [(second, late)] = line(space).items()
    first = await joined(space, registry, exclude=tried)
    assert list(line(space).values()) == [float(tried[0].sequence), late]
    assert list(line(space))[1] == second
    await space.make("healthy", A)
    await others.pop().release()
    await until(lambda: first.done() or later.done())
    for lease in list(others):
        if lease.replica.key == A and not first.done():
            await lease.release()
            others.remove(lease)
    lease = await first
    assert (lease.replica.key, lease.is_spare) == (A, False)
    for lease in others:
        await lease.release()
    assert (await later).replica.key in (A, B, C, D)
    await settle(space, registry)


async def test_a_session_that_waits_is_served_when_panic_begins(registry: SharedReplicaRegistry, space: Space) -> None:
    await fail(space, registry, A, B)
    full = [await registry.acquire() for _ in range(8)]
    waiting = await joined(space, registry)
    await fail(space, registry, C)
    lease = await waiting
    assert lease.is_spare
    assert lease.sequence
    for one in (*full, lease):
        await one.release()


async def test_who_has_tried_two_waits_for_a_healthy_one(registry: SharedReplicaRegistry, space: Space) -> None:
    await fail(space, registry, A, B, C, D)
    tried = [await registry.acquire(timeout=LONG) for _ in range(2)]
    for lease in tried:
        await lease.release()
    waiting = await joined(space, registry, exclude=tried)
    assert (await registry.acquire(timeout=LONG)).is_spare
    with pytest.raises(NoHealthyReplica):
        await registry.acquire(exclude=tried, timeout=0.2)
    assert not waiting.done()
    await space.make("healthy", B)
    lease = await waiting
    assert (lease.replica.key, lease.is_spare) == (B, False)
    assert lease.sequence == tried[0].sequence


async def test_a_healthy_one_that_comes_back_takes_the_next(registry: SharedReplicaRegistry, space: Space) -> None:
    await fail(space, registry, A, B, C, D)
    lease = await registry.acquire()
    assert lease.is_spare
    await lease.release()
    await space.make("healthy", C)
    assert [(lease.replica.key, lease.is_spare) for lease in [await registry.acquire() for _ in range(4)]] == [
        (C, False)
    ] * 4
    assert (await registry.acquire()).is_spare


async def test_five_hundred_sessions_on_ten_failed_replicas_stay_within_capacity(
    server: EmbeddedServer, space: Space
) -> None:
    urls = [f"http://10.0.3.{number}:80" for number in range(10)]
    for url in (A, B, C, D):
        await space.remove(url)
    for url in urls:
        await space.add(url, capacity=10)
        for status in ("healthy", "unhealthy"):
            await space.make(status, url)
    async with (
        registry_on(server.url, space.keys.namespace) as one,
        registry_on(server.url, space.keys.namespace) as other,
    ):
        found = await asyncio.gather(
            *((one, other)[number % 2].acquire() for number in range(500)), return_exceptions=True
        )
        placed = Counter(lease.replica.key for lease in found if isinstance(lease, Lease))
        assert placed == dict.fromkeys(urls, 10)
        assert {type(one) for one in found} == {Lease, NoHealthyReplica}
        assert await one.check() == []
        for lease in found:
            if isinstance(lease, Lease):
                await lease.release()
        assert await one.check() == []


# --- what becomes of the lease ---


async def test_a_lease_on_an_unhealthy_replica_ends_with_its_failure(
    registry: SharedReplicaRegistry, space: Space
) -> None:
    await fail(space, registry, A, B, C, D)
    lease = await registry.acquire(exclude=[B])
    key = lease.replica.key
    revision = registry.revision
    await space.add(key, weight=2.0, capacity=4)
    await until(lambda: registry.revision != revision)
    assert not lease.lost.is_set()
    await space.make("healthy", key)
    await space.make("unhealthy", key)
    await asyncio.wait_for(lease.lost.wait(), 10)


async def test_a_lease_on_an_unhealthy_replica_ends_with_its_removal(
    registry: SharedReplicaRegistry, space: Space
) -> None:
    await fail(space, registry, A, B, C, D)
    lease = await registry.acquire()
    await space.remove(lease.replica.key)
    await asyncio.wait_for(lease.lost.wait(), 10)
    await lease.release()
