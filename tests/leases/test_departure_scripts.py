"""Routers that die, pause or leave with many sessions: these end piece by piece, and nobody else's do."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from redis.exceptions import ResponseError

from shared_registry.embedded import EmbeddedServer
from shared_registry.errors import StoreUnavailable
from shared_registry.store.replies import Denial, Denied, Departure, Grant, Restored
from tests.support.lease_commands import (
    ONE,
    TWO,
    acquire,
    has_departed,
    heartbeat,
    held_by,
    in_flight,
    lease_id,
    leasing,
    remove_when_drained,
    serve,
)
from tests.support.space import A, B, C, D, Space

MANY = 1300
"""More than one call ends."""
AT_ONCE, REPLICAS_AT_ONCE = 60, 25
RESTORED_AT_ONCE = 500
PARTIAL, DONE, REFUSED = Departure.PARTIAL, Departure.DONE, Departure.REFUSED


async def hold(space: Space, count: int, *urls: str, router: str = TWO, session: str = "") -> dict[str, str]:
    """Let a router hold that many leases; return them."""
    urls = urls or (A,)
    leases = {lease_id(session=f"{session}{n}" if session else ""): urls[n % len(urls)] for n in range(count)}
    items = list(leases.items())
    for at in range(0, count, RESTORED_AT_ONCE):
        await space.store_of(router).restore_leases(dict(items[at : at + RESTORED_AT_ONCE]))
    return leases


async def until_over(part: Callable[[], Awaitable[Departure]]) -> tuple[Departure, int]:
    """Call until there is nothing left; return the last answer, and how many calls it took."""
    calls = 1
    while (answer := await part()) is PARTIAL:
        calls += 1
        assert calls < 1000
    return answer, calls


@pytest.mark.parametrize("count", [0, 1, 100, MANY])
async def test_a_dead_routers_leases_end_with_it(space: Space, count: int) -> None:
    await serve(space, A, B)
    await hold(space, count, A, B)
    mine, _ = await acquire(space)
    space.expire_router(TWO)
    assert (await until_over(lambda: space.store.reap(TWO)))[0] is DONE
    assert held_by(space, TWO) == {}
    assert list(held_by(space)) == [mine]
    assert in_flight(space, A) + in_flight(space, B) == 1
    assert not space.raw.exists(space.keys.router(TWO))


async def test_a_leaving_router_ends_its_leases(space: Space) -> None:
    await serve(space)
    others = await hold(space, 3)
    await hold(space, MANY, router=ONE)
    answer, calls = await until_over(space.store.leave)
    assert answer is DONE
    assert calls > 1
    assert held_by(space) == {}
    assert held_by(space, TWO) == others


async def test_each_partial_reaping_counts_and_keeps_the_router_listed(space: Space) -> None:
    await serve(space)
    await hold(space, MANY)
    space.expire_router(TWO)
    left = MANY
    while await space.store.reap(TWO) is PARTIAL:
        assert space.raw.zscore(space.keys.routers, TWO)
        assert in_flight(space) == len(held_by(space, TWO)) < left
        left = in_flight(space)
    assert space.event_kinds().count("router_expired") == 1


async def test_sessions_of_a_dead_router_find_their_replicas_again(space: Space) -> None:
    await serve(space, A, B)
    await hold(space, 20, A, session="s")
    space.expire_router(TWO)
    assert await space.store.reap(TWO, affinity_seconds=60) is DONE
    urls = [(await acquire(space, f"s{number}"))[1] for number in range(20)]
    assert urls == [A] * 20


async def test_a_heartbeat_during_reaping_saves_the_remaining_leases(space: Space) -> None:
    await serve(space)
    await hold(space, MANY)
    space.expire_router(TWO)
    assert await space.store.reap(TWO) is PARTIAL
    left = held_by(space, TWO)
    assert 0 < len(left) < MANY
    answer = await heartbeat(space, TWO)
    assert (answer.joined, answer.leases) == (False, len(left))
    assert "reap_cursor" not in space.raw.hgetall(space.keys.router(TWO))
    assert await space.store.reap(TWO) is REFUSED
    assert held_by(space, TWO) == left


async def test_a_partly_reaped_router_puts_back_its_lost_leases(space: Space) -> None:
    await serve(space)
    leases = await hold(space, MANY)
    space.expire_router(TWO)
    await space.store.reap(TWO)
    lost = MANY - (await heartbeat(space, TWO)).leases
    items, restored = list(leases.items()), 0
    for at in range(0, MANY, RESTORED_AT_ONCE):
        answer = await space.store_of(TWO).restore_leases(dict(items[at : at + RESTORED_AT_ONCE]))
        assert isinstance(answer, Restored)
        restored += answer.count
    assert restored == lost > 0
    assert held_by(space, TWO) == leases


async def test_a_router_acquiring_during_its_reaping_receives_all_losses(space: Space) -> None:
    await serve(space)
    await hold(space, MANY)
    space.expire_router(TWO)
    assert await space.store.reap(TWO) is PARTIAL
    lease, _ = await acquire(space, router=TWO)
    assert (await until_over(lambda: space.store.reap(TWO)))[0] is DONE
    assert in_flight(space) == 0
    assert await space.store_of(TWO).acquire(lease) == Denied(Denial.NOT_REGISTERED)
    answer = await heartbeat(space, TWO)
    assert (answer.joined, answer.leases) == (True, 0)
    assert isinstance(await space.store_of(TWO).acquire(lease), Grant)
    assert in_flight(space) == 1


async def test_reaping_after_a_heartbeat_starts_from_the_beginning(space: Space) -> None:
    await serve(space)
    await hold(space, MANY)
    space.expire_router(TWO)
    await space.store.reap(TWO)
    await heartbeat(space, TWO)
    await hold(space, MANY)
    space.expire_router(TWO)
    assert (await until_over(lambda: space.store.reap(TWO)))[0] is DONE
    assert in_flight(space) == 0


# --- how much a call does; how long that takes is for the benchmarks ---


async def test_a_call_ends_some_leases_of_many_on_one_replica(space: Space) -> None:
    await serve(space)
    await hold(space, AT_ONCE + 1)
    space.expire_router(TWO)
    assert await space.store.reap(TWO) is PARTIAL
    assert (len(held_by(space, TWO)), in_flight(space)) == (1, 1)


@pytest.mark.timeout(240)
async def test_fifty_thousand_leases_are_reaped_in_short_calls(space: Space) -> None:
    count = 50_000
    urls = [f"http://10.1.{number // 250}.{number % 250}:80" for number in range(500)]
    for url in urls:
        await space.add(url, capacity=200)
    await space.report_all(await space.elect(), *(space.success(url) for url in urls))
    mine = await hold(space, 100, *urls, router=ONE)
    plant(space, count, urls)
    space.expire_router(TWO)
    left, loads, answer = [count], [loads_of(space)], PARTIAL
    while answer is PARTIAL:
        answer = await space.store.reap(TWO, affinity_seconds=60)
        left.append(space.raw.hlen(space.keys.leases(TWO)))
        loads.append(loads_of(space))
    assert answer is DONE
    assert held_by(space) == mine
    assert max(before - after for before, after in itertools.pairwise(left)) <= AT_ONCE
    touched = [len(before.items() - after.items()) for before, after in itertools.pairwise(loads)]
    assert max(touched) == REPLICAS_AT_ONCE


def plant(space: Space, count: int, urls: list[str]) -> None:
    """Let TWO hold that many leases, half of them of a thousand named sessions."""
    leases = {lease_id(session=f"s{n % 2000}" if n % 2 else ""): urls[n % len(urls)] for n in range(count)}
    loads = Counter(leases.values())
    pipeline = space.raw.pipeline(transaction=False)
    pipeline.hset(space.keys.leases(TWO), mapping=leases)
    for lease, url in leases.items():
        if ":" in lease:
            pipeline.set(space.keys.affinity_prefix + lease.partition(":")[2], url)
    for url, load in loads.items():
        pipeline.hincrby(space.keys.replica(url), "in_flight", load)
    pipeline.execute()
    counted = space.raw.pipeline(transaction=False)
    for url in urls:
        score = float(space.fields(url)["in_flight"])
        counted.zadd(space.keys.ready_secondary, {url: score})
    counted.execute()


def loads_of(space: Space) -> dict[str, float]:
    return dict(space.raw.zrange(space.keys.ready_secondary, 0, -1, withscores=True))


# --- when memory is short ---


async def test_commands_that_end_leases_work_while_memory_is_short(
    own_server: Callable[..., EmbeddedServer],
) -> None:
    """A command that takes a lease writes nothing then."""
    server = own_server()
    async with leasing(server.url, "own", ONE, TWO) as space:
        await serve(space, A, B, C, D)
        mine = [(await acquire(space, f"s{number}", excluded=[B, C, D]))[0] for number in range(2)]
        await hold(space, MANY, B, session="t")
        await hold(space, MANY, C, router=ONE, session="u")
        for url in (A, B, C):
            await remove_when_drained(space, url)
        space.expire_router(TWO)
        space.raw.config_set("maxmemory", 1)
        with pytest.raises(ResponseError, match=r"OOM|maxmemory"):
            space.raw.set("x", "y")
        before = space.dump()
        with pytest.raises(StoreUnavailable, match="maxmemory"):
            await space.store.acquire(lease_id())
        with pytest.raises(StoreUnavailable, match="maxmemory"):
            await space.store.restore_leases({lease_id(): A})
        assert space.dump() == before
        for lease in mine:
            await space.store.release(lease, affinity_seconds=60)
        assert has_departed(space, A)
        assert (await until_over(lambda: space.store.reap(TWO, affinity_seconds=60)))[0] is DONE
        assert has_departed(space, B)
        assert (await until_over(lambda: space.store.leave(affinity_seconds=60)))[0] is DONE
        assert has_departed(space, C)
        assert not list(space.raw.scan_iter(match=space.keys.leases("*"), count=1000))
        space.raw.config_set("maxmemory", 0)
