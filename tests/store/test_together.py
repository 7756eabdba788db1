"""Sessions that ask in the same moment share a command, and each gets what it would have got alone."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from shared_registry.embedded import EmbeddedServer
from shared_registry.errors import StoreUnavailable
from shared_registry.store import together
from shared_registry.store.commands import Store
from shared_registry.store.replies import Denied, Grant, Queued
from tests.support.space import A, B, Space, info, on_server

pytestmark = pytest.mark.redis


@pytest.fixture
async def store(space: Space) -> Store:
    for url in (A, B):
        await space.add(url, primary=True, capacity=30)
        await space.make("healthy", url)
    store = space.store_of("router~1")
    await store.heartbeat(info("router~1"), expiry_seconds=60)
    return store


def ids(count: int, session: str = "") -> list[str]:
    return [f"{number:08x}{session}" for number in range(count)]


def evals(space: Space) -> int:
    stats = space.raw.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("eval", "evalsha"))


async def kinds(store: Store, lease_ids: list[str], **how: Any) -> Counter[type]:
    answers = await asyncio.gather(*(store.acquire(one, **how) for one in lease_ids))
    return Counter(type(answer) for answer in answers)


async def test_many_acquires_and_releases_are_few_commands(space: Space, store: Store) -> None:
    await kinds(store, ids(together.LEAST))  # so that the server knows the scripts
    await asyncio.gather(*(store.release(one) for one in ids(together.LEAST)))
    before = evals(space)
    assert await kinds(store, ids(48)) == {Grant: 48}
    assert [space.fields(url)["in_flight"] for url in (A, B)] == ["24", "24"]
    await asyncio.gather(*(store.release(one) for one in ids(48)))
    assert evals(space) - before == 2 * 48 / together.MOST
    assert [space.fields(url)["in_flight"] for url in (A, B)] == ["0", "0"]
    assert not space.raw.exists(space.keys.leases("router~1"))


@pytest.mark.parametrize(("max_queue", "rest"), [(0, Denied), (1000, Queued)])
async def test_capacity_is_exact_for_sessions_that_ask_together(
    space: Space, store: Store, max_queue: int, rest: type
) -> None:
    assert await kinds(store, ids(100), max_queue=max_queue) == {Grant: 60, rest: 40}
    assert space.raw.hlen(space.keys.leases("router~1")) == 60
    assert space.raw.smembers(space.keys.full) == {A, B}


async def test_sessions_that_ask_again_get_the_same(space: Space, store: Store) -> None:
    first = await asyncio.gather(*(store.acquire(one) for one in ids(20)))
    assert await asyncio.gather(*(store.acquire(one) for one in ids(20))) == first
    assert space.raw.hlen(space.keys.leases("router~1")) == 20


async def test_a_server_that_forgot_the_scripts_gets_them_again(space: Space, store: Store) -> None:
    for count in (together.LEAST, together.MOST, 3):
        space.raw.script_flush()
        assert await kinds(store, ids(count)) == {Grant: count}
        space.raw.script_flush()
        await asyncio.gather(*(store.release(one) for one in ids(count)))
    assert not space.raw.exists(space.keys.leases("router~1"))


async def test_named_sessions_ask_one_by_one(space: Space, store: Store) -> None:
    before = evals(space)
    assert await kinds(store, ids(20, ":name")) == {Grant: 20}
    assert evals(space) - before >= 20


async def test_a_lost_connection_fails_each_of_them(own_server: Callable[..., EmbeddedServer]) -> None:
    server = own_server()
    async with on_server(server.url, "lost") as space:
        await space.add(A)
        store = space.store_of("router~1")
        await store.heartbeat(info("router~1"), expiry_seconds=60)
        server.kill()
        outcomes = await asyncio.gather(*(store.acquire(one) for one in ids(20)), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}
        assert len({id(outcome) for outcome in outcomes}) == 20
