"""After a loss of data, sessions that run and places in the queue come back before new sessions get slots."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from shared_registry import EventKind, Lease, RegistryError, RouterConfig, Settling, SharedReplicaRegistry
from shared_registry.embedded import EmbeddedServer
from shared_registry.model import AdminState
from shared_registry.store.replies import Denial, Denied, Grant, Queued
from tests.support.lease_commands import lease_id
from tests.support.leasing_registry import leases
from tests.support.space import A, B, Space, info, on_server
from tests.support.until import until

NAMESPACE = "settling"
CAPACITY = 20
ONE, TWO = "router~1", "router~2"
EXPIRY = 60.0


@pytest.fixture
async def two(space: Space) -> Space:
    """Two routers, and a replica with room for all."""
    await space.add(A, capacity=2)
    await space.make("healthy", A)
    for router in (ONE, TWO):
        await space.store.heartbeat(info(router), expiry_seconds=EXPIRY)
    return space


async def beat(space: Space, router: str, **said: Any) -> str:
    """Send a heartbeat; return the word that it asks for."""
    return (await space.store.heartbeat(info(router), expiry_seconds=EXPIRY, **said)).settling


async def lose_leases(space: Space, *, is_lost: bool = True) -> str:
    """Let a router put back a lease that Redis does not have."""
    lease = lease_id()
    await space.store_of(ONE).restore_leases({lease: A}, is_lost=is_lost)
    return lease


async def test_nobody_gets_a_slot_until_all_routers_have_answered(two: Space) -> None:
    store = two.store_of(TWO)
    waiting = lease_id()
    await lose_leases(two)
    assert await store.acquire(lease_id(), max_queue=0) == Denied(Denial.SETTLING, 0)
    assert isinstance(await store.acquire(waiting, max_queue=5), Queued)
    word = await beat(two, ONE)
    assert word == await beat(two, TWO) != ""
    assert await beat(two, ONE, settled=word) == ""
    assert await store.acquire(lease_id(), max_queue=0) == Denied(Denial.SETTLING, 1)
    assert await beat(two, TWO, settled="another word") == word
    assert await beat(two, TWO, settled=word) == ""
    assert leases(two)[waiting] == A, "the heartbeat that ends it serves the queue"
    assert two.event_kinds()[-2:] == ["settling_began", "settling_ended"]


async def test_a_session_that_has_a_slot_keeps_it_meanwhile(two: Space) -> None:
    lease = await lose_leases(two)
    answer = await two.store_of(ONE).acquire(lease, max_queue=0)
    assert isinstance(answer, Grant)
    assert answer.key == A


@pytest.mark.parametrize("command", ["acquire", "register", "enable", "release", "heartbeat"])
async def test_no_command_serves_the_queue_meanwhile(two: Space, command: str) -> None:
    waiting, held = lease_id(), await lose_leases(two)
    store = two.store_of(TWO)
    assert isinstance(await store.acquire(waiting, max_queue=5), Queued)
    commands: dict[str, Callable[[], Any]] = {
        "acquire": lambda: store.acquire(lease_id(), max_queue=5),
        "register": lambda: two.add(A, capacity=9),
        "enable": lambda: two.store.set_admin(A, AdminState.ACTIVE),
        "release": lambda: two.store_of(ONE).release(held),
        "heartbeat": lambda: beat(two, TWO),
    }
    await commands[command]()
    assert waiting not in leases(two)


async def test_a_router_that_stops_is_waited_for_no_more(two: Space) -> None:
    await lose_leases(two)
    word = await beat(two, ONE)
    await beat(two, ONE, settled=word)
    await two.store_of(TWO).leave(affinity_seconds=1)
    assert isinstance(await two.store_of(ONE).acquire(lease_id(), max_queue=0), Grant)


async def test_the_time_is_limited_to_one_expiry(two: Space) -> None:
    await lose_leases(two)
    assert 0 < two.raw.pttl(two.keys.settling) <= EXPIRY * 1000
    two.raw.delete(two.keys.settling)  # as if it had expired
    assert isinstance(await two.store_of(ONE).acquire(lease_id(), max_queue=0), Grant)
    assert await beat(two, ONE) == ""
    assert two.event_kinds()[-1] == "settling_ended"


@pytest.mark.parametrize("step", ["before it began", "since it began"])
async def test_a_clock_set_back_does_not_prolong_it(two: Space, step: str) -> None:
    if step == "before it began":
        two.raw.zincrby(two.keys.routers, 10**9, ONE)
    await lose_leases(two)
    if step == "since it began":
        two.raw.pexpire(two.keys.settling, 10**9)
    assert await beat(two, TWO) != ""
    assert 0 < two.raw.pttl(two.keys.settling) <= EXPIRY * 1000


async def test_what_was_placed_without_redis_is_no_loss(two: Space) -> None:
    await lose_leases(two, is_lost=False)
    assert isinstance(await two.store_of(TWO).acquire(lease_id(), max_queue=0), Grant)


async def test_a_fresh_namespace_does_not_wait(space: Space) -> None:
    space.raw.delete(*space.dump())
    assert await beat(space, ONE) == ""
    await space.add(A)
    await space.make("healthy", A)
    assert isinstance(await space.store.acquire(lease_id(), max_queue=0), Grant)
    assert not space.raw.exists(space.keys.settling)


async def test_a_router_of_another_history_makes_peers_waited_for(space: Space) -> None:
    space.raw.delete(*space.dump())
    word = await beat(space, ONE, known_history="lost")
    assert word
    now = space.raw.hget(space.keys.meta, "history_id")
    assert await beat(space, ONE, settled=word, known_history=now, peers=[TWO]) == ""
    assert space.raw.zrange(space.keys.settling, 0, -1, withscores=True) == [(ONE, 0.0), (TWO, 1.0)]
    assert await beat(space, TWO, known_history="lost") == word
    assert await beat(space, TWO, settled=word, known_history=now, peers=[ONE]) == ""
    assert not space.raw.exists(space.keys.settling), "a router that has nothing left is not waited for again"


@pytest.mark.parametrize("value", ["text", ["list"]])
async def test_a_key_of_another_type_delays_nobody(two: Space, value: Any) -> None:
    if isinstance(value, str):
        two.raw.set(two.keys.settling, value)
    else:
        two.raw.rpush(two.keys.settling, *value)
    await lose_leases(two)
    assert await beat(two, ONE, known_history="lost") == ""
    assert isinstance(await two.store_of(TWO).acquire(lease_id(), max_queue=0), Grant)
    two.raw.delete(two.keys.settling)


async def well(url: str, *, timeout: float) -> tuple[float, str | None]:
    """Find every replica well."""
    return 1.0, None


class Crowd:
    """Three routers at full load, with clients that come all the time and others that wait."""

    def __init__(self, routers: list[SharedReplicaRegistry]) -> None:
        self.routers = routers
        self.held: list[Lease] = []
        self.most: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self.errors: list[RegistryError] = []

    async def fill(self) -> None:
        for number in range(2 * CAPACITY):
            self._hold(await self.routers[number % 3].acquire())
        self.most.clear()

    async def come(self, router: SharedReplicaRegistry) -> None:
        """Ask for a slot again and again; use it for a moment."""
        while True:
            try:
                lease = await router.acquire()
            except RegistryError as error:
                self.errors.append(error)
                await asyncio.sleep(0.01)
                continue
            self._hold(lease)
            await asyncio.sleep(0.3)
            await self.release(lease)

    def _hold(self, lease: Lease) -> None:
        self.held.append(lease)
        self._counts[lease.replica.key] += 1
        self.most |= self._counts

    async def release(self, lease: Lease) -> None:
        self.held.remove(lease)
        self._counts[lease.replica.key] -= 1
        await lease.release()


@pytest.fixture
async def crowd(own_server: Callable[..., EmbeddedServer]) -> AsyncIterator[tuple[Space, Crowd]]:
    server = own_server()
    config = RouterConfig(
        redis_url=server.url, namespace=NAMESPACE, replicas=[], health_check_interval_seconds=0.5, refresh_seconds=0.5
    )
    async with on_server(server.url, NAMESPACE) as space, contextlib.AsyncExitStack() as stack:
        routers = [await stack.enter_async_context(SharedReplicaRegistry(config, http_get=well)) for _ in range(3)]
        for url in (A, B):
            await space.add(url, capacity=CAPACITY)
        await until(lambda: all(sum(one.is_healthy for one in each.all()) == 2 for each in routers))
        crowd = Crowd(routers)
        await crowd.fill()
        yield space, crowd


async def test_a_flush_at_full_load_exceeds_no_capacity(crowd: tuple[Space, Crowd]) -> None:
    space, people = crowd
    comers = [asyncio.create_task(people.come(router)) for router in people.routers for _ in range(3)]
    waiters = [asyncio.create_task(router.acquire(timeout=60)) for router in people.routers for _ in range(2)]
    first = people.routers[0]
    await until(lambda: _has_depth(first, 6))
    order = space.raw.zrange(space.keys.queue, 0, -1)
    for _ in range(2):
        ended = space.event_kinds().count("settling_ended")
        space.raw.flushall()
        await until(lambda: "settling_ended" in space.event_kinds())
        await until(lambda: len(leases(space)) >= 2 * CAPACITY)
        assert ended <= 1
    assert space.raw.zrange(space.keys.queue, 0, -1) == order, "in the order in which they came"
    assert people.most <= Counter({A: CAPACITY, B: CAPACITY})
    for lease in list(people.held)[: len(waiters)]:
        await people.release(lease)
    for waiter in waiters:
        people.held.append(await asyncio.wait_for(waiter, 30))
    for task in comers:
        task.cancel()
    await asyncio.gather(*comers, return_exceptions=True)
    assert await first.check() == []


async def _has_depth(router: SharedReplicaRegistry, depth: int) -> bool:
    return await router.queue_depth() == depth


async def test_who_cannot_wait_is_told_of_a_long_settling(crowd: tuple[Space, Crowd]) -> None:
    """One of the routers does not answer: newcomers are held up for a moment, and then told."""
    space, people = crowd
    await people.release(people.held[0])
    space.raw.zadd(space.keys.settling, {"dead~1": 1})
    with pytest.raises(Settling, match="are being put back"):
        await people.routers[0].acquire()
    assert not any(lease.is_degraded for lease in people.held)
    space.raw.delete(space.keys.settling)


async def test_a_rollback_of_the_last_leases_is_seen(crowd: tuple[Space, Crowd]) -> None:
    """As after a failover that lost them: the history is the same, and Redis counts fewer leases than there are."""
    space, people = crowd
    kinds = len(space.event_kinds())
    taken = {lease.id for lease in people.held}
    with space.raw.pipeline(transaction=True) as pipeline:
        for router in people.routers[1:]:
            gone = list(space.raw.hgetall(space.keys.leases(router.router_key)).items())[:5]
            for one, url in gone:
                pipeline.hdel(space.keys.leases(router.router_key), one)
                pipeline.hincrby(space.keys.replica(url), "in_flight", -1)
                pipeline.zadd(space.keys.ready_secondary, {url: 0.5})
                pipeline.srem(space.keys.full, url)
        pipeline.execute()
    await until(lambda: set(leases(space)) == taken)
    await until(lambda: space.event_kinds()[kinds:] == [EventKind.SETTLING_BEGAN.value, EventKind.SETTLING_ENDED.value])
