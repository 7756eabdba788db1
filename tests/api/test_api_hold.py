"""Leases that live as long as a connection: their clients may be killed, and their routers restarted."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, cast

import httpx
import pytest
import pytest_asyncio

from shared_registry.api.documents import HoldQuery
from shared_registry.api.hold import hold_operation
from shared_registry.api.operations import Call
from shared_registry.model import ReplicaEndpoint
from tests.proxy.conftest import RunningRouter, StartRouter
from tests.support.backend import Backend
from tests.support.until import until

pytestmark = pytest.mark.asyncio(loop_scope="module")
AdminOf = Callable[[RunningRouter], httpx.AsyncClient]
SETTINGS: dict[str, Any] = {"admin_access": "lease", "hold_grace_seconds": 0.3}
SECONDS = 20.0


@pytest_asyncio.fixture(loop_scope="module")
async def backend() -> AsyncIterator[Backend]:
    async with Backend() as backend:
        yield backend


class Hold:
    """One connection that holds a lease."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self._lines = answer.aiter_lines()

    async def next(self) -> tuple[str, Any]:
        """Return the next event."""
        name = ""
        async with asyncio.timeout(SECONDS):
            async for line in self._lines:
                if line.startswith("event: "):
                    name = line[7:]
                elif line.startswith("data: "):
                    return name, json.loads(line[6:])
        raise EOFError


@contextlib.asynccontextmanager
async def held(admin: httpx.AsyncClient, **params: Any) -> AsyncIterator[Hold]:
    async with admin.stream("GET", "/v1/leases/hold", params=params) as answer:
        if answer.status_code != 200:
            await answer.aread()
        yield Hold(answer)


async def serving(
    start: StartRouter, admin_of: AdminOf, url: str, *, capacity: int = 1, **settings: Any
) -> tuple[RunningRouter, httpx.AsyncClient]:
    replicas = [ReplicaEndpoint(url, capacity=capacity)]
    router = await start(is_awaited=False, replicas=replicas, **{**SETTINGS, **settings})
    admin = admin_of(router)
    await until(lambda: is_ready(admin), "the router is ready")
    await until(lambda: router.router.pools[""].registry.select() is not None, "the replica is healthy")
    return router, admin


async def is_ready(admin: httpx.AsyncClient) -> bool:
    return (await admin.get("/readyz")).status_code == 200


async def is_count(admin: httpx.AsyncClient, count: int) -> bool:
    found = (await admin.get("/v1/replicas")).json()["replicas"][0]["in_flight"]
    return bool(found == count)


async def test_a_connection_holds_a_lease(start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend) -> None:
    _, admin = await serving(start_with_admin, admin_of, backend.url)
    async with held(admin, request_id="a") as hold:
        assert hold.answer.headers["content-type"].startswith("text/event-stream")
        name, lease = await hold.next()
        assert (name, lease["url"], lease["ttl_seconds"]) == ("lease", backend.url, None)
        async with held(admin, request_id="b") as other:
            assert (other.answer.status_code, other.answer.json()["code"]) == (503, "saturated")
        renewed = await admin.post(f"/v1/leases/{lease['id']}/renew")
        assert (renewed.status_code, renewed.json()["ttl_seconds"]) == (200, None)
        await until(lambda: is_count(admin, 1), "the lease counts")
    await until(lambda: is_count(admin, 0), "the slot is free after the grace")
    async with held(admin, request_id="a", resume=True) as hold:
        assert (hold.answer.status_code, hold.answer.json()["code"]) == (410, "ended")


async def test_the_next_in_the_queue_gets_the_slot(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend
) -> None:
    _, admin = await serving(start_with_admin, admin_of, backend.url)
    async with contextlib.AsyncExitStack() as first:
        assert (await (await first.enter_async_context(held(admin))).next())[0] == "lease"
        async with held(admin, timeout_seconds=60) as hold:
            assert await hold.next() == ("position", {"position": 1, "depth": 1})
            await first.aclose()
            assert (await hold.next())[0] == "lease"
            async with held(admin, timeout_seconds=2) as late:  # long enough to be told the position first
                assert (await late.next())[0] == "position"
                assert (await late.next())[1]["code"] == "saturated"


async def test_a_client_going_at_the_grant_frees_its_slot_soon(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared_registry.leases.movable.UNCLAIMED_SECONDS", 600.0)
    router, _ = await serving(start_with_admin, admin_of, backend.url)
    pool = router.router.pools[""]
    first = await pool.registry.acquire()
    call = Call(pool, "", {}, HoldQuery(request_id="a", timeout_seconds=60), None, {})
    stream = cast("AsyncGenerator[str, None]", hold_operation(10).call(call))
    leases = pool.registry.movable_leases
    async with contextlib.aclosing(stream):
        assert (await anext(stream)).startswith("event: position")
        await first.release()
        asking = [task for task in asyncio.all_tasks() if "new_or_known" in repr(task)]
        await asyncio.wait(asking)
    assert len(asking) == len(leases) == 1
    await until(lambda: len(leases) == 0, "the lease has ended after the grace")


async def test_the_same_id_takes_over_at_any_router(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend
) -> None:
    _, one = await serving(start_with_admin, admin_of, backend.url)
    _, two = await serving(start_with_admin, admin_of, backend.url)
    async with contextlib.AsyncExitStack() as stack:
        holds = []
        for admin in (one, one, two, one):
            holds.append(await stack.enter_async_context(held(admin, request_id="a")))
            assert (await holds[-1].next())[0] == "lease"
            for former in holds[:-1]:
                assert (await former.next())[0] == "ended"
            del holds[:-1]
            await until(lambda: is_count(two, 1), "there is one lease")
        await asyncio.sleep(2 * SETTINGS["hold_grace_seconds"])  # the former ones' grace
        assert await is_count(one, 1)
    await until(lambda: is_count(two, 0), "the slot is free")


async def test_an_ended_lease_ends_its_stream(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend
) -> None:
    _, admin = await serving(start_with_admin, admin_of, backend.url)
    async with held(admin) as hold:
        lease = (await hold.next())[1]
        assert (await admin.delete(f"/v1/leases/{lease['id']}")).status_code == 204
        assert (await hold.next())[0] == "ended"
    await until(lambda: is_count(admin, 0), "the slot is free")


async def test_without_grace_the_slot_is_free_at_once(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend
) -> None:
    _, admin = await serving(start_with_admin, admin_of, backend.url, hold_grace_seconds=0)
    async with held(admin) as hold:
        await hold.next()
    await until(lambda: is_count(admin, 0), "the slot is free")


async def test_a_stopped_routers_holds_are_taken_over_elsewhere(
    start_with_admin: StartRouter, admin_of: AdminOf, backend: Backend
) -> None:
    most = 100
    settings: dict[str, Any] = {"capacity": most, "hold_grace_seconds": 120.0}
    router, one = await serving(start_with_admin, admin_of, backend.url, **settings)
    _, two = await serving(start_with_admin, admin_of, backend.url, **settings)
    async with contextlib.AsyncExitStack() as stack:
        limits = httpx.Limits(max_connections=None)
        one, two = [
            await stack.enter_async_context(
                httpx.AsyncClient(base_url=few.base_url, limits=limits, trust_env=False, timeout=SECONDS)
            )
            for few in (one, two)
        ]

        async def hold(admin: httpx.AsyncClient, **params: Any) -> Hold:
            hold = await stack.enter_async_context(held(admin, **params))
            assert (await hold.next())[0] == "lease"
            return hold

        holds = [await hold(one, request_id=str(number)) for number in range(most)]
        router.stop.ask()
        for former in holds:
            with pytest.raises((EOFError, httpx.HTTPError)):  # no event says that its lease has ended
                await former.next()
        await router.serving
        async with held(two, request_id="another") as another:
            assert another.answer.status_code == 503
        for number in range(most):
            await hold(two, request_id=str(number), resume=True)
        await until(lambda: is_count(two, most), "all have their slots")
