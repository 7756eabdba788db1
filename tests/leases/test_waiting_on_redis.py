"""Waiting for a slot through the registry: who gets it, what the others are told, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis import Redis

from shared_registry import (
    Lease,
    NoHealthyReplica,
    ReplicaEndpoint,
    RouterConfig,
    Saturated,
    SharedReplicaRegistry,
    UsageError,
)
from shared_registry.embedded import EmbeddedServer
from shared_registry.leases import queue
from shared_registry.store.keys import Keys
from tests.support.space import A, B, C
from tests.support.until import until

LONG = 30.0


async def healthy(url: str, *, timeout: float) -> tuple[float, str | None]:
    return 1.0, None


@pytest.fixture
def config(server: EmbeddedServer, namespace: str) -> RouterConfig:
    return RouterConfig(
        redis_url=server.url,
        namespace=namespace,
        replicas=[ReplicaEndpoint(A, "gpu-1", capacity=1)],
        heartbeat_seconds=0.1,
        max_queue=3,
    )


@pytest.fixture
async def registry(config: RouterConfig) -> AsyncIterator[SharedReplicaRegistry]:
    async with SharedReplicaRegistry(config, http_get=healthy) as registry:
        await until(lambda: all(replica.is_healthy for replica in registry.all()))
        yield registry
        assert await registry.check() == []


@pytest.fixture
async def other(registry: SharedReplicaRegistry, config: RouterConfig) -> AsyncIterator[SharedReplicaRegistry]:
    async with SharedReplicaRegistry(config, health_checks=False) as other:
        yield other


class RouterQueue:
    """Sessions that wait, in the order in which they came, and the line as Redis has it."""

    def __init__(self, config: RouterConfig) -> None:
        self.keys = Keys(config.namespace)
        self.raw = Redis.from_url(config.redis_url, decode_responses=True)
        self.tasks: list[asyncio.Task[Lease]] = []

    def depth(self) -> int:
        return int(self.raw.zcard(self.keys.queue))

    async def join(
        self, registry: SharedReplicaRegistry, session: str | None = None, *, timeout: float = LONG, **how: Any
    ) -> asyncio.Task[Lease]:
        """Let one more session wait; return when it does."""
        before = self.depth()
        task = asyncio.create_task(registry.acquire(session, timeout=timeout, **how))
        self.tasks.append(task)
        await until(lambda: self.depth() == before + 1 or task.done())
        return task


@pytest.fixture
async def line(config: RouterConfig, registry: SharedReplicaRegistry) -> AsyncIterator[RouterQueue]:
    line = RouterQueue(config)
    yield line
    for task in line.tasks:
        task.cancel()
    for result in await asyncio.gather(*line.tasks, return_exceptions=True):
        if isinstance(result, Lease):
            await result.release()
    await until(lambda: line.depth() == 0)
    line.raw.close()


async def test_a_free_slot_goes_to_the_longest_waiter_anywhere(
    registry: SharedReplicaRegistry, other: SharedReplicaRegistry, line: RouterQueue
) -> None:
    lease = await registry.acquire()
    waiting = [await line.join(each) for each in (registry, other, registry)]
    for number, task in enumerate(waiting):
        assert not any(later.done() for later in waiting[number:])
        await lease.release()
        lease = await task
        assert lease.replica.url == A
    assert line.depth() == 0


async def test_no_later_session_overtakes_a_waiter(
    registry: SharedReplicaRegistry, other: SharedReplicaRegistry, line: RouterQueue
) -> None:
    lease = await registry.acquire()
    waiting = await line.join(other)
    with pytest.raises(Saturated, match=r"and 1 more wait; try again later") as caught:
        await registry.acquire()
    assert caught.value.depth == 1
    await lease.release()
    with pytest.raises(Saturated):
        await registry.acquire()
    assert (await waiting).replica.url == A


async def test_a_waiter_receives_its_position_and_every_change(
    registry: SharedReplicaRegistry, other: SharedReplicaRegistry, line: RouterQueue
) -> None:
    lease = await registry.acquire()
    told: list[list[tuple[int, int]]] = [[], [], []]
    for number, each in enumerate((registry, other, other)):
        await line.join(each, on_position=lambda *where, number=number: told[number].append(where))
    await until(lambda: [seen[-1:] for seen in told] == [[(1, 3)], [(2, 3)], [(3, 3)]])
    assert [seen[0] for seen in told] == [(1, 1), (2, 2), (3, 3)]
    assert all(len(seen) == len(set(seen)) for seen in told), "nobody is told the same twice"
    await lease.release()
    second = await line.tasks[0]
    await until(lambda: [seen[-1] for seen in told[1:]] == [(1, 2), (2, 2)])
    await second.release()


async def test_an_error_in_the_position_callback_ends_the_wait(
    registry: SharedReplicaRegistry, line: RouterQueue
) -> None:
    lease = await registry.acquire()

    def refuse(position: int, depth: int) -> None:
        raise ValueError(f"{position} of {depth}")

    with pytest.raises(ValueError, match="1 of 1"):
        await registry.acquire(timeout=LONG, on_position=refuse)
    await until(lambda: line.depth() == 0)
    await lease.release()
    await (await registry.acquire()).release()


async def test_the_wait_ends_at_the_timeout_and_leaves_the_queue(
    registry: SharedReplicaRegistry, line: RouterQueue
) -> None:
    lease = await registry.acquire()
    began = time.monotonic()
    with pytest.raises(Saturated) as caught:
        await registry.acquire(timeout=0.3)
    assert 0.3 <= time.monotonic() - began < 5.0
    assert (caught.value.depth, caught.value.retry_after_seconds) == (0, None)
    assert line.depth() == 0
    await lease.release()


async def test_a_full_queue_refuses_at_once(registry: SharedReplicaRegistry, line: RouterQueue) -> None:
    lease = await registry.acquire()
    for _ in range(3):
        await line.join(registry)
    with pytest.raises(Saturated) as caught:
        await registry.acquire(timeout=LONG)
    assert caught.value.depth == 3
    await lease.release()


async def test_a_cancelled_waiter_leaves_the_queue_at_once(
    registry: SharedReplicaRegistry, line: RouterQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "POLL_SECONDS", LONG)
    lease = await registry.acquire()
    first, second = await line.join(registry), await line.join(registry)
    first.cancel()
    await until(lambda: line.depth() == 1)
    await lease.release()
    assert (await second).replica.url == A


async def test_a_replica_that_heals_is_enabled_or_grows_serves_waiters(
    registry: SharedReplicaRegistry, other: SharedReplicaRegistry, line: RouterQueue
) -> None:
    await registry.disable(A)
    with pytest.raises(NoHealthyReplica):
        await registry.acquire(timeout=0.05)
    waiting = [await line.join(other) for _ in range(3)]
    await registry.enable(A)
    first = await waiting[0]
    await registry.register(ReplicaEndpoint(A, capacity=2))
    second = await waiting[1]
    await registry.register(B)  # unlimited, and soon probed
    third = await waiting[2]
    assert [lease.replica.key for lease in (first, second, third)] == [A, A, B]
    for lease in (first, second, third):
        await lease.release()


async def test_a_session_excluding_the_free_replicas_makes_no_other_wait(
    registry: SharedReplicaRegistry, line: RouterQueue
) -> None:
    """It takes the first slot that it can use."""
    picky = asyncio.create_task(registry.acquire(timeout=LONG, exclude=[A]))
    line.tasks.append(picky)
    await asyncio.sleep(0.1)
    assert line.depth() == 0
    lease = await registry.acquire()
    await registry.register(C)
    assert (await picky).replica.key == C
    with pytest.raises(Saturated):
        await registry.acquire(timeout=0.1, exclude=[C])
    await lease.release()


async def test_a_waiter_accepts_any_replica_but_prefers_its_own(
    registry: SharedReplicaRegistry, line: RouterQueue
) -> None:
    await registry.register(ReplicaEndpoint(B, capacity=1, primary=True))
    await until(lambda: all(replica.is_healthy for replica in registry.all()))
    blockers = {lease.replica.key: lease for lease in [await registry.acquire(), await registry.acquire()]}
    await blockers[A].release()
    ann = await registry.acquire("ann")
    assert ann.replica.key == A
    again = await line.join(registry, "ann")
    assert not again.done()
    await blockers[B].release()
    lease = await again
    assert lease.replica.key == B
    await lease.release()
    await ann.release()


async def test_a_session_regains_its_position_through_another_router(
    registry: SharedReplicaRegistry, other: SharedReplicaRegistry, line: RouterQueue
) -> None:
    lease = await other.acquire()
    await line.join(registry, "ann")
    await line.join(other, "bob")
    await registry.stop()
    with pytest.raises(UsageError, match="stopped"):
        await line.tasks[0]
    assert line.depth() == 1
    returned = await line.join(other, "ann")
    newcomer = await line.join(other, "cid")
    await lease.release()
    lease = await returned
    assert not line.tasks[1].done()
    await lease.release()
    lease = await line.tasks[1]
    assert not newcomer.done()
    await lease.release()
    await (await newcomer).release()
    await registry.start()


async def test_a_session_at_a_busy_replica_keeps_its_position(
    registry: SharedReplicaRegistry, other: SharedReplicaRegistry, line: RouterQueue
) -> None:
    holder = await registry.acquire()
    first = await line.join(registry)
    second = await line.join(other)
    await holder.release()
    unusable = await asyncio.wait_for(first, LONG)
    later = await line.join(other)
    await unusable.release()  # the replica was busy with something else
    holder = await asyncio.wait_for(second, LONG)
    again = await line.join(registry, again_after=[unusable])
    await holder.release()
    got = await asyncio.wait_for(again, LONG)
    assert not later.done()
    await got.release()


async def test_stopping_the_registry_ends_every_wait(
    registry: SharedReplicaRegistry, other: SharedReplicaRegistry, line: RouterQueue
) -> None:
    lease = await registry.acquire()
    waiting = [await line.join(other) for _ in range(2)]
    await other.stop()
    for task in waiting:
        with pytest.raises(UsageError, match="stopped"):
            await task
    assert line.depth() == 0
    await lease.release()


async def test_the_queue_estimates_the_waiting_time(registry: SharedReplicaRegistry, line: RouterQueue) -> None:
    lease = await registry.acquire()

    async def one_after_another() -> None:
        nonlocal lease
        for task in list(line.tasks):
            await asyncio.sleep(0.7)
            await lease.release()
            lease = await task

    for _ in range(3):
        await line.join(registry)
    await one_after_another()
    with pytest.raises(Saturated) as caught:
        await registry.acquire()
    assert caught.value.retry_after_seconds is not None
    assert 0.2 < caught.value.retry_after_seconds < 10.0
    with contextlib.suppress(Saturated):
        await registry.acquire(timeout=0.01)
    await lease.release()
