"""A replica to be removed with its last session goes also if Redis lost its data before that session ended."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from shared_registry import AdminState, RouterConfig, SharedReplicaRegistry
from shared_registry.admin.check import find_violations
from shared_registry.admin.repair import repair
from shared_registry.embedded import EmbeddedServer
from shared_registry.model import EventKind
from tests.support.faulty_proxy import FaultyProxy
from tests.support.lease_commands import (
    ONE,
    TWO,
    acquire,
    has_departed,
    in_flight,
    remove_when_drained,
    serve,
)
from tests.support.space import A, B, Space, info, on_server
from tests.support.until import until

NAMESPACE = "drained"
EXPIRY = 2.0
Own = Callable[..., EmbeddedServer]


# --- the heartbeat ---


async def beat(space: Space, *drains: str, router: str = TWO) -> None:
    await space.store_of(router).heartbeat(info(router), expiry_seconds=60, drains=drains)


async def lose_the_lease(space: Space, lease: str, *, url: str = A) -> None:
    """Let a drain remain whose last session nothing ends any more, long after an outage."""
    await remove_when_drained(space, url)
    space.raw.hdel(space.keys.leases(ONE), lease)
    space.raw.hset(space.keys.replica(url), "in_flight", 0)
    space.raw.hset(space.keys.meta, "reap_after_ms", 0)


async def test_a_heartbeat_removes_a_replica_that_has_drained(space: Space) -> None:
    await serve(space, A)
    lease, _ = await acquire(space)
    await lose_the_lease(space, lease)
    await beat(space)
    assert not has_departed(space)
    for _ in range(2):
        await beat(space, A, "http://never")
        assert has_departed(space)
    (event,) = [one for one in await space.reader.last_events(5) if one.kind is EventKind.REPLICA_DEREGISTERED]
    assert (event.by, event.reason, event.router) == ("last session ended", "old", TWO)


async def test_a_heartbeat_removes_nothing_within_an_outage(space: Space) -> None:
    """Other routers may still have to put back their leases."""
    await serve(space, A)
    lease, _ = await acquire(space)
    await lose_the_lease(space, lease)
    space.raw.hset(space.keys.meta, "heartbeat_at_ms", space.now_ms() - 3_600_000)
    await beat(space, A)
    assert not has_departed(space)
    space.raw.hset(space.keys.meta, "reap_after_ms", space.now_ms())
    await beat(space, A)
    assert has_departed(space)


@pytest.mark.parametrize("why", ["a session", "enabled again", "drained only", "disabled", "damaged"])
async def test_a_heartbeat_removes_no_other_replica(space: Space, why: str) -> None:
    await serve(space, A, B)
    lease, url = await acquire(space, excluded=[B])
    if why == "a session":
        await remove_when_drained(space, url)
        space.raw.hset(space.keys.meta, "reap_after_ms", 0)
    else:
        await lose_the_lease(space, lease)
    if why in ("enabled again", "disabled"):
        await space.store.set_admin(A, AdminState.ACTIVE if why == "enabled again" else AdminState.DISABLED)
    if why == "drained only":
        await space.store.set_admin(A, AdminState.ACTIVE)
        await space.store.set_admin(A, AdminState.DRAINING)
    if why == "damaged":
        space.raw.rename(space.keys.replica(A), "kept")
        space.raw.set(space.keys.replica(A), "x")
    await beat(space, A)
    if why == "damaged":
        space.raw.rename("kept", space.keys.replica(A))
    assert not has_departed(space)
    if why == "a session":
        await space.store.release(lease)
        assert has_departed(space)


# --- registries ---


async def well(url: str, *, timeout: float) -> tuple[float, str | None]:
    """Find every replica well."""
    return 1.0, None


def registry(url: str, router: str) -> SharedReplicaRegistry:
    config = RouterConfig(
        redis_url=url,
        namespace=NAMESPACE,
        router_id=router,
        refresh_seconds=0.2,
        heartbeat_seconds=0.2,
        router_expiry_seconds=EXPIRY,
        redis_timeout_seconds=10.0,
        recovery_threshold=1,
        fast_interval_seconds=0.1,
    )
    return SharedReplicaRegistry(config, http_get=well)


class Drain:
    """Two registries; the second one holds the last session of A, which is to be removed with it."""

    def __init__(self, server: EmbeddedServer, space: Space, line: FaultyProxy) -> None:
        self.server, self.space, self.line = server, space, line
        self.one, self.two = registry(server.url, "one"), registry(line.url, "two")

    async def begin(self) -> None:
        await self.one.register(A)
        await self.one.register(B)
        await until(lambda: all(len([*each.all()]) == 2 and each.select() for each in (self.one, self.two)))
        await until(lambda: self.space.ready()[1] == {A, B} or self.space.ready()[0] == {A, B})
        self.lease = await self.two.acquire(exclude=[B])
        await self.one.deregister(A, when_drained=True)
        await until(lambda: self.lease.replica.admin is AdminState.DRAINING)

    def is_back(self) -> bool:
        return self.space.fields(A).get("removes_when_drained") == "1"

    def is_gone(self) -> bool:
        return self.space.fields(A).get("admin") == "removed" and self.one.get(A) is None


@pytest.fixture
async def drain(own_server: Own) -> AsyncIterator[Drain]:
    server = own_server()
    async with (
        on_server(server.url, NAMESPACE) as space,
        FaultyProxy(server.port) as line,
        contextlib.AsyncExitStack() as stack,
    ):
        drain = Drain(server, space, line)
        await stack.enter_async_context(drain.one)
        await stack.enter_async_context(drain.two)
        await drain.begin()
        yield drain
        assert await find_violations(space.reader, space.keys) == []


async def end_at_once(drain: Drain) -> None:
    """The session ends before anything is back."""
    drain.space.raw.flushall()
    await drain.lease.release()


async def end_while_the_replica_returns(drain: Drain) -> None:
    drain.space.raw.flushall()
    await until(drain.is_back)
    await drain.lease.release()


async def end_once_the_lease_is_back(drain: Drain) -> None:
    drain.space.raw.flushall()
    await until(lambda: drain.is_back() and in_flight(drain.space) == 1)
    await drain.lease.release()


async def end_while_redis_is_away(drain: Drain) -> None:
    await asyncio.to_thread(drain.server.kill)
    await drain.lease.release()
    await asyncio.to_thread(drain.server.start)


async def end_with_a_router_that_dies(drain: Drain) -> None:
    """The router never comes back to put back its session, or to say that it has ended."""
    drain.line.refuses = True
    drain.line.cut()
    drain.space.raw.flushall()
    await until(drain.is_gone)
    drain.line.refuses = False
    await drain.lease.release()


async def end_by_reaping(drain: Drain) -> None:
    drain.space.raw.flushall()
    await until(lambda: drain.is_back() and in_flight(drain.space) == 1)
    drain.line.refuses = True
    drain.line.cut()
    await until(drain.is_gone)
    drain.line.refuses = False
    await drain.lease.release()


async def end_by_repair(drain: Drain) -> None:
    """Somebody deletes the router and its leases by hand, and `check --repair` counts again."""
    await drain.lease.release()
    await until(drain.is_gone)
    drain.space.raw.flushall()
    await until(lambda: drain.one.get(B) is not None and drain.space.fields(B))
    await drain.one.register(A)
    await until(lambda: drain.space.fields(A).get("status") == "healthy")
    drain.space.raw.hset(drain.space.keys.leases("gone~1"), "00000001", A)
    drain.space.raw.hincrby(drain.space.keys.replica(A), "in_flight", 1)
    await drain.one.deregister(A, when_drained=True)
    await until(drain.is_back)
    await repair(drain.space.store, await find_violations(drain.space.reader, drain.space.keys), by="me")


ENDS = [
    end_at_once,
    end_while_the_replica_returns,
    end_once_the_lease_is_back,
    end_while_redis_is_away,
    end_with_a_router_that_dies,
    end_by_reaping,
    end_by_repair,
]


@pytest.mark.parametrize("end", ENDS)
async def test_a_replica_that_drains_is_removed_after_a_loss(drain: Drain, end: Callable[[Drain], object]) -> None:
    result = end(drain)
    assert asyncio.iscoroutine(result)
    await result
    await until(drain.is_gone)
    assert drain.space.fields(B)["admin"] == "active"


async def test_a_session_that_lasts_keeps_its_replica_after_a_loss(drain: Drain) -> None:
    drain.space.raw.flushall()
    await until(lambda: drain.is_back() and in_flight(drain.space) == 1)
    await asyncio.sleep(2 * EXPIRY)  # nothing shows that something does not happen but time
    assert drain.one.get(A) is not None
    await drain.lease.release()
    await until(drain.is_gone)


async def test_a_replica_enabled_again_after_a_loss_stays(drain: Drain) -> None:
    drain.space.raw.flushall()
    await until(drain.is_back)
    await drain.one.enable(A)
    await drain.lease.release()
    await asyncio.sleep(2 * EXPIRY)
    assert drain.one.get(A) is not None
    assert drain.space.fields(A)["admin"] == "active"
