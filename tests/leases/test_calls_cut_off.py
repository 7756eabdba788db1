"""A connection that breaks with a call on it: the call may have been executed, and Redis works on for all others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from shared_registry import Saturated, SharedReplicaRegistry, StoreUnavailable
from shared_registry.embedded import EmbeddedServer
from tests.support.faulty_proxy import FaultyProxy
from tests.support.leasing_registry import leases, registry_on, settle
from tests.support.space import A, Space, on_server
from tests.support.until import until

NAMESPACE = "cut-off"
QUICK = {"refresh_seconds": 0.1, "heartbeat_seconds": 0.2}
HASTE = {"redis_timeout_seconds": 2.0}
"""Where a test waits for the end of a call without a reply."""


@pytest.fixture
async def space(own_server: Callable[..., EmbeddedServer]) -> AsyncIterator[Space]:
    server = own_server()
    async with on_server(server.url, NAMESPACE) as space:
        await space.add(A, capacity=1)
        await space.make("healthy", A)
        yield space


@pytest.fixture
async def line(space: Space) -> AsyncIterator[FaultyProxy]:
    """The way of one router to the server; the other router has a way of its own."""
    async with FaultyProxy(space.raw.connection_pool.connection_kwargs["port"]) as line:
        yield line


async def test_a_release_without_a_reply_frees_no_slot_here(space: Space, line: FaultyProxy) -> None:
    """Redis executed it, and gave the slot to a session of another router."""
    direct = f"redis://127.0.0.1:{line.server_port}/0"
    async with (
        registry_on(line.url, NAMESPACE, **QUICK, **HASTE) as one,
        registry_on(direct, NAMESPACE, **QUICK) as other,
    ):
        await (await one.acquire()).release()  # from now on the server knows the scripts
        lease = await one.acquire()
        outage = one._parts.placement.outage
        await until(lambda: outage.degraded.loads is not None and not outage.degraded._taken)
        waiting = asyncio.create_task(other.acquire(timeout=30))
        await until(other.queue_depth)
        line.refuses = True
        line.cut()
        await until(lambda: outage.is_unsettled)
        line.heal()
        await until(lambda: _is_answered(one))
        line.loses_replies = True
        await lease.release()
        placed = await asyncio.wait_for(waiting, 30)
        with pytest.raises(StoreUnavailable):
            await one.acquire()
        line.heal()
        line.cut()
        await settle(space, one, other)
        assert leases(space).keys() == {placed.id}
        await placed.release()


async def _is_answered(registry: SharedReplicaRegistry) -> bool:
    """Return whether Redis answers a session's call, whose connection is there for the next one."""
    try:
        await registry.acquire()
    except StoreUnavailable:
        return False
    except Saturated:
        return True
    raise AssertionError("the replica is full")


@pytest.mark.parametrize("after_seconds", [0.05, 0.15], ids=["before", "afterwards"])
@pytest.mark.parametrize("verb", ["acquire", "release"])
async def test_a_broken_connection_is_no_outage(
    space: Space, line: FaultyProxy, verb: str, after_seconds: float
) -> None:
    """The call is sent again on a new connection, at once: no session is placed without Redis, no slot stays taken."""
    async with registry_on(line.url, NAMESPACE, **QUICK) as one:
        await (await one.acquire()).release()
        lease = await one.acquire()
        if verb == "acquire":
            await lease.release()
        line.delay_seconds = 0.1
        call = asyncio.create_task(one.acquire() if verb == "acquire" else lease.release())
        await asyncio.sleep(after_seconds)  # before the server has received it, or while its reply is on the way
        line.delay_seconds = 0.0
        line.cut()
        found = await call
        if found is not None:
            assert not found.is_degraded
            assert leases(space) == {found.id: A}
            await found.release()
        assert leases(space) == {}
